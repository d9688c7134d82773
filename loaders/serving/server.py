"""A folder and a port -> a server."""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from ...schemas.errors import UsageError
from ..loading import load, open_prompt
from .app import check_chat, make_app
from .guard import is_loopback
from .options import ServeOptions
from .worker import Worker

# For requests to be told that the server ends.
SECONDS_TO_END = 3


def serve(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    options: ServeOptions | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Answer requests with a converted checkpoint until Ctrl-C: what `g4convert serve` does.

    Args:
        path: its folder.
        host: the address to listen at, or a name that has one.
        port: the port; 0 for any that is free.
        options: what to do with requests.
        say: called with a line when the server listens, and when it ends.

    Raises:
        G4ConvertError: the checkpoint or an option is wrong, or the port is in use.
    """
    options = options or ServeOptions()
    options.check()
    name = Path(path).resolve().name
    prompt = open_prompt(path)
    check_chat(prompt, name)
    with bind(host, port) as listener, closing(Worker()) as worker:
        address, taken = listener.getsockname()[:2]
        local = is_loopback(address)
        if not local and options.api_key is None:
            warnings.warn(f"whoever reaches {host} can use the server; --api-key keeps others out", stacklevel=2)
        model = worker.call(partial(load, path, prompt=prompt))
        names = frozenset({host.lower()}) if local else None
        app = make_app(model, options, name=name, worker=worker, names=names)
        line = f"serving {name} at http://{bracketed(host)}:{taken}/v1; takes {prompt.takes}"
        try:
            Server(app, worker, ready=partial(say, line)).run([listener])
        except KeyboardInterrupt:
            say("stopped")


class Server(uvicorn.Server):
    """uvicorn, quiet, that ends what the worker does before it waits for connections to close.

    Args:
        app: what answers.
        worker: whose work ends with the server.
        ready: called when connections are accepted.
    """

    def __init__(self, app: ASGIApp, worker: Worker, *, ready: Callable[[], object]) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=SECONDS_TO_END,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # faults of ours are one line, and clients leave
        self._worker, self._ready = worker, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._worker.closing.set()
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A socket that has an address, and does not listen yet: nobody is connected before there is an answer.

    Raises:
        UsageError: the host is none of this machine, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unusable(host, port, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _unusable(host, port, error) from None
    return listener


def _unusable(host: str, port: int, error: Exception) -> UsageError:
    what = f"cannot listen there: {getattr(error, 'strerror', None) or error}"
    return UsageError(
        what, where=f"{bracketed(host)}:{port}", fix="choose another --port or --host; port 0 is any free one"
    )


def bracketed(host: str) -> str:
    """A host as URLs have it."""
    return f"[{host}]" if ":" in host else host
