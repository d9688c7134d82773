"""What the Hub's client says, in one line in which no token can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..schemas.errors import SourceNotFoundError

TOKEN = re.compile(r"\bhf_\w{4,}")


@contextmanager
def asking_hub(repo_id: str) -> Iterator[None]:
    """While this lasts, the Hub's client reads a repository.

    Raises:
        SourceNotFoundError: the Hub cannot be reached, or does not show such a repository.
    """
    from httpx2 import HTTPError  # slow to import

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:  # ValueError: what the client takes for no repository name
        raise SourceNotFoundError(
            f"not a folder here, and the Hub says: {hide(first_line(error))}",
            where=repo_id,
            fix="check the name, the network, and your access",
        ) from None


def first_line(error: BaseException) -> str:
    """An error in one line, without a full stop."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")


def hide(text: str, token: str | None = None) -> str:
    """A text in which no token can be read."""
    return TOKEN.sub("***", text.replace(token, "***") if token else text)
