"""The Hub's client, with errors of one line that never show the token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ...schemas.errors import G4ConvertError, HubError

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
TROUBLE = ("the Hub has trouble of its own", GO_ON)
UNREACHABLE = ("the connection to the Hub broke", f"check the network, then {GO_ON}")

TOKEN = re.compile(r"\bhf_\w{4,}")


@dataclass(frozen=True)
class Hub:
    """Access to the Hub.

    Attributes:
        api: the client.
        token: what it identifies itself with.
    """

    api: HfApi
    token: str

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
            yield
        except G4ConvertError:
            raise
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            what, fix = explain(error)
            raise HubError(hide(what, self.token), where=where, fix=hide(fix, self.token)) from None


def explain(error: BaseException) -> tuple[str, str]:
    """What went wrong, and what to do about it.

    The client wraps some answers in errors of other kinds, so the first answer in the chain of causes counts.
    """
    for one in _chain(error):
        if (status := _status(one)) is not None:
            what, fix = ANSWERS.get(status, TROUBLE)
            return f"{what} ({status}{_said(one)})", fix
    if any(isinstance(one, OSError) for one in _chain(error)) or type(error).__module__.startswith("httpx"):
        what, fix = UNREACHABLE
        return f"{what}: {first_line(error)}", fix
    return first_line(error), GO_ON


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _said(error: BaseException) -> str:
    """What the Hub itself said, if anything."""
    said = getattr(error, "server_message", None)
    return f": {' '.join(said.split())}" if isinstance(said, str) and said.strip() else ""


def first_line(error: BaseException) -> str:
    """An error in one line, without a full stop."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")


def hide(text: str, token: str) -> str:
    """A text in which no token can be read."""
    return TOKEN.sub("***", text.replace(token, "***"))
