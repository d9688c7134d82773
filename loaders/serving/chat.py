"""The endpoint `/v1/chat/completions`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ..generation import Generation, Piece
from ..loading import LoadedModel
from .answering import Event, answer
from .answers import DONE, Completion, server_sent
from .body import check_type, read_body
from .options import ServeOptions
from .refusals import RequestError, refusal_of
from .request import ChatRequest, check_kinds, read_request
from .worker import Job, Left, Worker

STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
LONGEST_WAIT = 60


@dataclass
class Chat:
    """An ASGI application that answers conversations.

    Attributes:
        name: of the model.
        model: that answers.
        options: what the server is told.
        worker: whose thread computes.
        inside: how many requests are being sent, wait, or are answered.
    """

    name: str
    model: LoadedModel
    options: ServeOptions
    worker: Worker
    inside: int = field(default=0, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        check_type(request)
        with self._place():
            try:
                await self._answer(request, send)
            except Left:
                return
            except Exception as error:
                raise refusal_of(error) from None

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place for a request, taken before its body is read: there are no more bodies than places."""
        if self.inside > self.options.queue:
            what = f"{self.options.queue} requests are waiting already; ask again later"
            wait = {"Retry-After": str(min(max(math.ceil(self.worker.seconds), 1), LONGEST_WAIT))}
            raise RequestError(429, what, kind="requests", code="rate_limit_exceeded", headers=wait)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def _answer(self, request: Request, send: Send) -> None:
        asked = read_request(await read_body(request))
        self._check(asked)
        job = self.worker.start(partial(answer, self.model, asked, self.options.media, self.options.max_tokens))
        watch = asyncio.create_task(_departure(request.receive))
        watch.add_done_callback(lambda _: job.leave())
        try:
            if asked.stream:
                await self._stream(job, asked, send)
            else:
                await self._whole(job, request, send)
        finally:
            watch.cancel()
            job.leave()
            await job.ended()

    def _check(self, asked: ChatRequest) -> None:
        """What depends on what is served."""
        if asked.model not in (None, self.name):
            what = f"model: found {asked.model!r}, served is {self.name!r}"
            raise RequestError(404, what, param="model", code="model_not_found")
        if (asked.max_tokens or 1) > self.options.max_tokens:
            what = f"max_tokens: found {asked.max_tokens}, allowed is an integer from 1 to {self.options.max_tokens}"
            raise RequestError(400, what, param="max_tokens")
        check_kinds(asked.messages, self.model.prompt)

    async def _whole(self, job: Job[Event], request: Request, send: Send) -> None:
        generation: Generation | None = None
        while (event := await job.next()) is not None:
            generation = event.generation if isinstance(event, Piece) else None
        assert generation is not None
        await JSONResponse(Completion(self.name).whole(generation))(request.scope, request.receive, send)

    async def _stream(self, job: Job[Event], asked: ChatRequest, send: Send) -> None:
        await job.next()  # it begins; what is wrong before that has a status of its own
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        try:
            async for chunk in _chunks(job, Completion(self.name, counted=asked.include_usage)):
                await _send_part(send, server_sent(chunk))
            await _send_part(send, DONE, more=False)
        except Left:
            raise
        except Exception as error:  # whatever it is, a stream can only end with it
            await _send_part(send, server_sent(refusal_of(error).document), more=False)


async def _chunks(job: Job[Event], completion: Completion) -> AsyncIterator[dict[str, Any]]:
    yield completion.chunk({"role": "assistant", "content": ""})
    while isinstance(piece := await job.next(), Piece):
        if piece.text:
            yield completion.chunk({"content": piece.text})
        if piece.generation is not None:
            yield completion.chunk({}, piece.generation.finish_reason)
            if completion.counted:
                yield completion.last(piece.generation)


async def _send_part(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _departure(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
