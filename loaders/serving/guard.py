"""Who may ask: the name that a request calls the server by, and the key that it brings."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .refusals import RequestError

LOCALHOST = "localhost"
LONGEST_NAME = 80
PORT = re.compile(r":\d*$")
# Says nothing but that the server lives; what watches it has no key.
OPEN = "/health"


@dataclass(frozen=True)
class Guard:
    """An ASGI application that lets requests through to another one.

    Attributes:
        app: the other one.
        names: by which a request may call the server, in lower case, besides those of the loopback addresses; None for
            any. A page of the web whose own name has been made to lead here calls it by that name.
        api_key: what requests must bring; None for nothing.
    """

    app: ASGIApp
    names: frozenset[str] | None = frozenset()
    api_key: str | None = field(default=None, repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        refusal = self._refusal(Headers(scope=scope), scope["path"]) if scope["type"] == "http" else None
        app = self.app if refusal is None else refusal.response
        await app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> RequestError | None:
        called = PORT.sub("", headers.get("host", "")).strip("[]").lower()
        if self.names is not None and called not in self.names and not is_loopback(called):
            return RequestError(
                403, f"the Host is {called[:LONGEST_NAME]!r}, it must be {LOCALHOST} or a loopback address"
            )
        if self.api_key is None or path == OPEN or self._has_key(headers):
            return None
        what = "the API key is missing or wrong; send the header Authorization: Bearer KEY"
        return RequestError(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        expected = (self.api_key or "").encode()
        return hmac.compare_digest(key.strip().encode(), expected) and scheme.lower() == "bearer"


def is_loopback(host: str) -> bool:
    """Whether a host, as written, is this machine's own loopback."""
    try:
        return host.lower() == LOCALHOST or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
