"""Requests and answers of the Hub's HTTP API, and the errors that its client tells apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs

from .state import Account


@dataclass(frozen=True)
class Request:
    """What came in.

    Attributes:
        method: "GET", "POST", ...
        path: Still quoted, without the query.
        query: What followed the question mark.
        headers: By lower-case name.
        body: All of it.
        account: Whom the token belongs to; None without one.
        names: The parts of the path that the route names, unquoted.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    account: Account | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """The body, read as JSON; an empty one is an empty object."""
        return json.loads(self.body or b"{}")

    @property
    def lines(self) -> list[Any]:
        """The body, read as one JSON document a line."""
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def form(self) -> dict[str, list[str]]:
        """The body, read as a form."""
        return parse_qs(self.body.decode())

    @cached_property
    def options(self) -> dict[str, str]:
        """The query's values, of each name the last one."""
        return {name: values[-1] for name, values in parse_qs(self.query).items()}

    def asks(self, option: str) -> bool:
        """Whether the query has this option switched on."""
        return self.options.get(option, "").lower() in ("1", "true")


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


def reply(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer that is a JSON document."""
    content = json.dumps(document).encode()
    return Answer(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, content)


class HubError(Exception):
    """An answer that the client turns into an exception, by its code if it has one, else by its status."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}

    @property
    def answer(self) -> Answer:
        """The error as the Hub sends it: in the body and in headers."""
        code = {"X-Error-Code": self.code} if self.code else {}
        headers = {**code, "X-Error-Message": self.message, **self.headers}
        return reply({"error": self.message}, self.status, headers)


def bad_token() -> HubError:
    """The token is not one of the Hub's."""
    return HubError(401, "Invalid credentials in Authorization header")


def no_token() -> HubError:
    """The endpoint needs a token."""
    return HubError(401, "Invalid username or password.")


def no_repository(account: Account | None) -> HubError:
    """Missing, or private to somebody else: the Hub does not say which, and asks the anonymous for a token."""
    if account is None:
        return HubError(401, "Invalid username or password.", "RepoNotFound")
    return HubError(404, "Repository not found", "RepoNotFound")


def no_revision(revision: str) -> HubError:
    """The repository has no such branch or commit."""
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def no_entry(path: str, commit: str) -> HubError:
    """The commit has no such file."""
    return HubError(404, f"Entry not found: {path}", "EntryNotFound", {"X-Repo-Commit": commit})


def may_not_create(name: str) -> HubError:
    """The token may not create in this namespace."""
    namespace = name.partition("/")[0]
    return HubError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')


def may_not_write() -> HubError:
    """The token may read the repository and not change it."""
    return HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")


@dataclass(frozen=True)
class Span:
    """The bytes that a `Range` header asks for; `stop` is behind the last."""

    start: int
    stop: int

    @classmethod
    def of(cls, header: str | None, size: int) -> Span | None:
        """None where the header asks for nothing in particular, or for several ranges at once."""
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
        if not match or not any(match.groups()):
            return None
        first, last = match.groups()
        if not first:
            return cls(max(0, size - int(last)), size)
        return cls(int(first), min(size, int(last) + 1) if last else size)


def content(data: bytes, headers: Mapping[str, str], asked: str | None) -> Answer:
    """The bytes of a file, or the range of them that was asked for."""
    span = Span.of(asked, len(data))
    if span is None:
        return Answer(200, {**headers, "Accept-Ranges": "bytes"}, data)
    if span.start >= span.stop:
        return Answer(416, {"Content-Range": f"bytes */{len(data)}"})
    place = {"Content-Range": f"bytes {span.start}-{span.stop - 1}/{len(data)}"}
    return Answer(206, {**headers, **place}, data[span.start : span.stop])
