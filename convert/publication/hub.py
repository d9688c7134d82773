"""The Hub's client, with errors of one line that never show the token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ...schemas.errors import G4ConvertError, HubError
from ..hub_errors import first_line, hide

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
GO_ON = "run the same command again: what has arrived is not sent twice"

# What an answer of the Hub means here, and what to do about it.
ANSWERS: Mapping[int, tuple[str, str]] = {
    401: ("the Hub does not accept the token", LOG_IN),
    403: ("the token does not allow this", "use one with write permission for this repository"),
    404: ("the Hub knows no such repository, or hides it from this token", "check the name and the token"),
    409: ("the Hub reports a conflict with another change", GO_ON),
    412: ("the repository was changed meanwhile", GO_ON),
    413: ("a file is larger than the Hub takes", "convert again with a smaller --max-shard-size"),
    429: ("the Hub has had too many requests", f"wait a while, then {GO_ON}"),
}
REFUSED = ("the Hub refuses this", f"change what it asks for, then {GO_ON}")
TROUBLE = ("the Hub has trouble of its own", GO_ON)
# The storage has permissions of its own, which pass.
STORAGE = ("the storage of the Hub refuses it", GO_ON)
UNREACHABLE = ("the connection to the Hub broke", f"check the network, then {GO_ON}")

# What the client says of a large file before it says why, and where it hides the status of the Xet storage.
FILE = re.compile(r"Error while uploading '(?P<name>.+)' to the Hub")
STATUS = re.compile(r"\b(?:status|HTTP)\D{0,40}(?P<status>[45]\d\d)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Hub:
    """Access to the Hub.

    Attributes:
        api: the client.
        token: what it identifies itself with.
    """

    api: HfApi
    token: str = field(repr=False)

    @classmethod
    def connect(cls, token: str | None = None) -> Self:
        """Take the token that was given, or the one that this machine is logged in with.

        Raises:
            HubError: there is none.
        """
        from huggingface_hub import HfApi, get_token

        if not (found := token or get_token()):
            raise HubError("no token was found, and nothing can be uploaded without one", where="the Hub", fix=LOG_IN)
        return cls(HfApi(token=found), found)

    @contextmanager
    def errors(self, where: str) -> Iterator[None]:
        """Turn what the client raises into one line, without the token.

        Raises:
            HubError: what the Hub, or the way to it, answered.
        """
        from httpx2 import HTTPError  # slow to import

        try:
            with _calm():
                yield
        except G4ConvertError:
            raise
        except (HTTPError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            what, fix = explain(error)  # the last three are the client's own where an answer lacks something
            raise HubError(hide(what, self.token), where=where, fix=hide(fix, self.token)) from None


def explain(error: BaseException) -> tuple[str, str]:
    """What went wrong, and what to do about it.

    The client wraps some answers in errors of other kinds, so the first answer in the chain of causes counts.
    """
    chain = list(_chain(error))
    file = next((f"{match['name']}: " for one in chain if (match := FILE.search(str(one)))), "")
    for one in chain:
        if (status := _status(one)) is not None:
            what, fix = ANSWERS.get(status, TROUBLE if status >= 500 else REFUSED)
            if file and status in (401, 403, 404):
                what, fix = STORAGE
            return f"{file}{what} ({status}{_said(one)})", fix
    if (local := next((one for one in chain if isinstance(one, OSError) and one.filename), None)) is not None:
        return f"{Path(str(local.filename)).name} cannot be read: {local.strerror}", GO_ON
    if any(isinstance(one, OSError) or type(one).__module__.startswith("httpx") for one in chain):
        what, fix = UNREACHABLE
        return f"{file}{what}: {first_line(chain[-1] if file else error)}", fix
    if isinstance(error, LookupError | TypeError | AttributeError):
        return f"the Hub's answer cannot be understood: {type(error).__name__}: {first_line(error)}", GO_ON
    return f"{file}{first_line(error)}", GO_ON


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status
    match = STATUS.search(str(error)) if isinstance(error, ConnectionError | PermissionError) else None
    return None if match is None else int(match["status"])


def _said(error: BaseException) -> str:
    """What the Hub itself said, if anything."""
    said = getattr(error, "server_message", None)
    return f": {' '.join(said.split())}" if isinstance(said, str) and said.strip() else ""


@contextmanager
def _calm() -> Iterator[None]:
    """What the client logs of its own tries comes on standard error otherwise, with signed addresses."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
