"""What goes wrong on a Hub, where and when: a test asks for it before it happens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Moment = Literal["middle", "before", "after"]


@dataclass(frozen=True)
class Refusal:
    """An error in place of the answer.

    Attributes:
        status: The HTTP status.
        message: What the body and `X-Error-Message` say.
        code: `X-Error-Code`, by which the client chooses its exception.
        headers: Further ones, such as `Retry-After`.
    """

    status: int
    message: str
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """The connection breaks: in the middle of the request's body, before the request is acted on, or after."""

    moment: Moment


Trouble = Refusal | Drop


@dataclass
class Fault:
    """Trouble for requests of this method and path, both regular expressions: the n-th of them, or all from it on."""

    trouble: Trouble
    method: str
    path: str
    nth: int = 1
    always: bool = False
    matched: int = field(default=0, init=False)

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is one that fails; counts those that match."""
        if not (re.fullmatch(self.method, method) and re.search(self.path, path)):
            return False
        self.matched += 1
        return self.matched == self.nth or (self.always and self.matched > self.nth)


@dataclass
class Faults:
    """All that will go wrong.

    Attributes:
        requests: Trouble with single requests.
        corrupted: Files whose path matches one of these arrive with one byte changed.
        lost: Files whose path matches one of these never arrive in a commit.
    """

    requests: list[Fault] = field(default_factory=list)
    corrupted: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def refuse(
        self,
        status: int,
        method: str,
        path: str,
        *,
        nth: int = 1,
        always: bool = False,
        retry_after: int | None = None,
        message: str | None = None,
        code: str | None = None,
    ) -> Fault:
        """Answer with an error: to the n-th request that matches, or to it and all later ones."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        trouble = Refusal(status, message or f"The test answers {status}.", code, headers)
        return self._add(Fault(trouble, method, path, nth, always))

    def drop(self, moment: Moment, method: str, path: str, *, nth: int = 1, always: bool = False) -> Fault:
        """Break the connection of the n-th request that matches, or of it and all later ones."""
        return self._add(Fault(Drop(moment), method, path, nth, always))

    def corrupt(self, path: str) -> None:
        """Change one byte of every committed file whose path matches; listings tell of what is stored."""
        self.corrupted.append(path)

    def lose(self, path: str) -> None:
        """Leave every file whose path matches out of the commits to come."""
        self.lost.append(path)

    def clear(self) -> None:
        """From now on all goes well; what was corrupted or lost stays so."""
        self.requests.clear()
        self.corrupted.clear()
        self.lost.clear()

    def next(self, method: str, path: str) -> Trouble | None:
        """The trouble of this request, if any."""
        struck = [fault for fault in self.requests if fault.strikes(method, path)]
        return struck[0].trouble if struck else None

    def corrupts(self, path: str) -> bool:
        """Whether this file arrives changed."""
        return any(re.search(pattern, path) for pattern in self.corrupted)

    def loses(self, path: str) -> bool:
        """Whether this file never arrives."""
        return any(re.search(pattern, path) for pattern in self.lost)

    def _add(self, fault: Fault) -> Fault:
        self.requests.append(fault)
        return fault
