"""A model -> an ASGI application that speaks OpenAI's protocol."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import mlx.core as mx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...schemas.errors import UsageError
from ..loading import LoadedModel
from ..prompt import PromptFormat
from .answers import model_entry
from .chat import Chat
from .guard import OPEN, Guard
from .options import ServeOptions
from .refusals import RequestError, refusal_of
from .worker import Worker

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(
    model: LoadedModel,
    options: ServeOptions,
    *,
    name: str,
    worker: Worker | None = None,
    names: frozenset[str] | None = frozenset(),
) -> Starlette:
    """An application that answers with a model.

    Args:
        model: what `load` returned.
        options: what the server does with requests.
        name: what the model is called.
        worker: whose thread has loaded the model, and computes; by default a new one, and all weights are read first.
        names: by which requests may call the server, see `Guard`.

    Raises:
        UsageError: the model has no chat template, or an option is not what it may be.
    """
    options.check()
    check_chat(model.prompt, name)
    if worker is None:
        mx.eval(model.network.parameters())  # what is not read yet could be read in this thread alone
        worker = Worker()
    created = int(time.time())
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", Chat(name, model, options, worker), methods=["POST"]),
            Route("/v1/models", _models(name, created)),
            Route("/v1/models/{id:path}", _model(name, created)),
            Route(OPEN, _health),
        ],
        middleware=[Middleware(Guard, names=names, api_key=options.api_key)],
        exception_handlers={HTTPException: _no_such_place, RequestError: _refused, Exception: _refused},
    )
    app.router.redirect_slashes = False
    return app


def check_chat(prompt: PromptFormat, name: str) -> None:
    """Refuse a model that takes no messages.

    Raises:
        UsageError: it has no chat template.
    """
    if prompt.template is None:
        raise UsageError("the model has no chat template, so it takes no messages", where=name, fix="serve another")


def _models(name: str, created: int) -> Endpoint:
    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_entry(name, created)]})

    return models


def _model(name: str, created: int) -> Endpoint:
    async def model(request: Request) -> Response:
        asked = request.path_params["id"]
        if asked != name:
            what = f"model: found {asked!r}, served is {name!r}"
            raise RequestError(404, what, param="model", code="model_not_found")
        return JSONResponse(model_entry(name, created))

    return model


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refused(_: Request, error: Exception) -> Response:
    return refusal_of(error).response


async def _no_such_place(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    return RequestError(error.status_code, what, code="unknown_url", headers=error.headers).response
