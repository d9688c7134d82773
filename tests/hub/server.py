"""A Hugging Face Hub on loopback, for tests of what talks to one: the protocol is real, the client unmodified."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .faults import Drop, Moment, Refusal, Trouble
from .messages import Answer, HubError, Request
from .routes import respond
from .state import Hub, Seen

LOOPBACK = "127.0.0.1"


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve the Hub, and its object storage on another port; gives the Hub's address."""
    with _listening(hub, "storage") as storage, _listening(hub, "hub") as url:
        hub.storage_url, hub.url = storage, url
        yield url


@contextmanager
def _listening(hub: Hub, place: str) -> Iterator[str]:
    server = _Server(hub, place)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    if server.failures:
        raise server.failures[0]


class _Server(ThreadingHTTPServer):
    """One of the two origins; waits for its connections when closed, and keeps what failed in them."""

    daemon_threads = False
    failures: list[BaseException]

    def __init__(self, hub: Hub, place: str):
        self.hub, self.place, self.failures = hub, place, []
        super().__init__((LOOPBACK, 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Keep what failed; that a client went away is no failure."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.failures.append(error)


class _Handler(BaseHTTPRequestHandler):
    """One connection, which carries one request."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 20

    def serve(self) -> None:
        """Answer a request, or do what the fault asks for instead."""
        self.close_connection = True
        path = self.path.partition("?")[0]
        with self.server.hub.lock:
            trouble = self.server.hub.faults.next(self.command, path)
        if trouble == Drop("middle"):
            self._break(self._read(half=True))
            return
        self._finish(self._read(), trouble)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815

    def _finish(self, body: bytes, trouble: Trouble | None) -> None:
        moment: Moment | None = trouble.moment if isinstance(trouble, Drop) else None
        if moment == "before":
            self._break(body)
            return
        answer = self._refuse(trouble) if isinstance(trouble, Refusal) else self._respond(body)
        if moment == "after":
            self._break(body)
            return
        self._record(body, answer.status)
        self._send(answer)

    def _refuse(self, refusal: Refusal) -> Answer:
        return HubError(refusal.status, refusal.message, refusal.code, refusal.headers).answer

    def _respond(self, body: bytes) -> Answer:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.hub.lock:
            return respond(self.server.hub, self.server.place, Request(self.command, path, query, headers, body))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers, "Connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _break(self, body: bytes) -> None:
        """End the connection without an answer, so that the client sees a reset."""
        self._record(body, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _record(self, body: bytes, status: int) -> None:
        path, _, query = self.path.partition("?")
        authorized = "Authorization" in self.headers
        hub = self.server.hub
        with hub.lock:
            hub.requests.append(Seen(self.server.place, self.command, path, query, len(body), authorized, status))
            hub.headers.append(dict(self.headers.items()))

    def _read(self, *, half: bool = False) -> bytes:
        """The body, or half of it, be its length known beforehand or not."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._read_chunks(1 if half else None)
        length = int(self.headers.get("Content-Length", "0"))
        return self.rfile.read(length // 2 if half else length)

    def _read_chunks(self, most: int | None) -> bytes:
        pieces: list[bytes] = []
        while most is None or len(pieces) < most:
            length = int(self.rfile.readline().partition(b";")[0], 16)
            pieces.append(self.rfile.read(length))
            self.rfile.readline()
            if length == 0:
                break
        return b"".join(pieces)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing; requests are recorded."""
