"""What a request is answered with when it is not answered: a status, and OpenAI's error object."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from ...schemas.errors import G4ConvertError

logger = logging.getLogger(__name__)

BAD_REQUEST = "invalid_request_error"


class RequestError(Exception):
    """Ends the work on a request; its text is one line, as all that users meet.

    Args:
        status: of HTTP.
        what: what is wrong, and what to do about it.
        kind: OpenAI's `type`.
        param: the part of the request that is wrong, as `messages[0].content[1]`.
        code: OpenAI's name for some of the faults.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        kind: str = BAD_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.headers = dict(headers or {})
        super().__init__(str(G4ConvertError(what)))

    @property
    def document(self) -> dict[str, Any]:
        """The error object."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.document, self.status, self.headers)


def stopping() -> RequestError:
    """The server is about to end."""
    return RequestError(
        503, "the server is stopping; ask again later", kind="server_error", headers={"Retry-After": "5"}
    )


def refusal_of(error: Exception) -> RequestError:
    """What the client is told of an error; if it is a fault of our own, standard error has the details, in a line."""
    if isinstance(error, RequestError):
        return error
    logger.error("%s", G4ConvertError(f"{type(error).__name__}: {error}", where="serve"))
    return RequestError(500, "the server failed; its standard error says why", kind="server_error")
