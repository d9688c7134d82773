"""A server in a thread of its own, on a port of this machine, and ways to ask it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai
from g4convert.loaders import LoadedModel, load
from g4convert.loaders.serving import ServeOptions, Server, Worker, bind, make_app
from g4convert.loaders.serving.chat import Chat
from g4convert.tests.support import CHECKPOINTS, read_json
from starlette.routing import Route

LOOPBACK = "127.0.0.1"
PATIENCE = 30.0
QUESTIONS_FOLDER = CHECKPOINTS / "questions"
QUESTIONS = read_json(QUESTIONS_FOLDER / "text.json")["questions"]
MEDIA_QUESTIONS = read_json(QUESTIONS_FOLDER / "media.json")["questions"]
HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Running:
    """A server.

    Attributes:
        port: where it listens.
        chat: its endpoint.
        worker: its thread.
    """

    port: int
    chat: Chat
    worker: Worker

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def waiting(self) -> int:
        """How many requests have been read and are not begun."""
        return self.worker._thread._work_queue.qsize()

    def client(self, **options: Any) -> openai.OpenAI:
        """OpenAI's own client, which asks once."""
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})

    def post(self, body: Any, headers: Any = HEADERS) -> httpx2.Response:
        """One request, its body as JSON or as bytes."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        url = f"{self.url}/v1/chat/completions"
        return httpx2.post(url, headers=headers, timeout=PATIENCE, trust_env=False, verify=False, **content)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """While this lasts, no request is answered."""
        held, free = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            free.wait()

        self.worker._thread.submit(hold)
        try:
            assert held.wait(PATIENCE)
            yield
        finally:
            free.set()


@contextmanager
def running(
    folder: Path,
    options: ServeOptions | None = None,
    *,
    change: Callable[[LoadedModel], LoadedModel] = lambda model: model,
    **arguments: Any,
) -> Iterator[Running]:
    """Serve a checkpoint, in the steps of `serve`."""
    started = threading.Event()
    with closing(Worker()) as worker, bind(LOOPBACK, 0) as listener:
        model = change(worker.call(partial(load, folder)))
        app = make_app(model, options or ServeOptions(), name=folder.name, worker=worker, **arguments)
        server = Server(app, worker, ready=started.set)
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert started.wait(PATIENCE)
            (route,) = (route for route in app.routes if isinstance(route, Route) and isinstance(route.app, Chat))
            assert isinstance(route.app, Chat)
            yield Running(port, route.app, worker)
        finally:
            server.should_exit = True
            thread.join()


def endless(model: LoadedModel) -> LoadedModel:
    """A model that never stops by itself."""
    return replace(model, prompt=replace(model.prompt, stop_ids=frozenset()))


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()
