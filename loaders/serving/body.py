"""The body of a request, within bounds of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from .refusals import RequestError
from .worker import Left

# Media come inside it as base64: pictures of a few megabytes each, a clip of some tens.
LARGEST_BODY = 64 << 20
SECONDS = 60.0
JSON = "application/json"


def check_type(request: Request) -> None:
    """Refuse what is not declared as JSON: a page of the web can send anything else without being asked.

    Raises:
        RequestError: the type is another one, or none.
    """
    found = request.headers.get("content-type", "")
    if found.partition(";")[0].strip().lower() != JSON:
        raise RequestError(415, f"the Content-Type is {found[:80] or 'missing'}, it must be {JSON}")


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        RequestError: it is too large, or comes too slowly.
        Left: the client is gone.
    """
    try:
        async with asyncio.timeout(SECONDS):
            return await _collect(request)
    except TimeoutError:
        what, end = f"the body takes more than {SECONDS:g} seconds", {"Connection": "close"}
        raise RequestError(408, what, headers=end) from None
    except ClientDisconnect:
        raise Left from None


async def _collect(request: Request) -> bytes:
    if int(request.headers.get("content-length", "0")) > LARGEST_BODY:  # h11 has made sure of a number
        raise _too_large()
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise _too_large()
    return bytes(body)


def _too_large() -> RequestError:
    return RequestError(413, f"the body has more than {LARGEST_BODY} bytes; send fewer or smaller media")
