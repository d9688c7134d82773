"""How findings are listed: the first of many, and where two documents differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Any

from ...schemas.errors import G4ConvertError
from ...schemas.explain import json_path
from .outcome import Finding

# Findings of one kind that are worth a line each.
SHOWN = 4
LONGEST_VALUE = 60

Path = tuple[str | int, ...]


def few(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first findings of one kind; the last of them says how many more there are."""
    found = list(findings)
    more = len(found) - SHOWN
    yield from found[: SHOWN - 1]
    for finding in found[SHOWN - 1 : SHOWN]:
        yield replace(finding, what=f"{finding.what} (and {more} more)") if more > 0 else finding


def missing_tensors(missing: Iterable[str], called_for: Iterable[str], who: str) -> Iterator[Finding]:
    """One finding a tensor or, where nothing of a tower or an embedder is left, one for all of it.

    Args:
        missing: names of tensors that are not there.
        called_for: names of all tensors that should be.
        who: what calls for them, with its verb.
    """
    roots = Counter(name.partition(".")[0] for name in called_for)
    lost = sorted(missing)
    for root, count in Counter(name.partition(".")[0] for name in lost).items():
        names = [name for name in lost if name.partition(".")[0] == root]
        if count == roots[root] > 1:
            yield Finding(f"the whole of {root} is missing, {count} tensors; {who} it", root)
        else:
            yield from (Finding(f"the tensor is missing; {who} it", name) for name in names)


def attempt(*calls: Callable[[], object]) -> Iterator[Finding]:
    """What each call raises, as findings."""
    for call in calls:
        try:
            call()
        except G4ConvertError as error:
            yield Finding.of(error)


@dataclass(frozen=True)
class Difference:
    """A place where a JSON document is not what it should be; `GONE` stands for a key that is not there."""

    path: Path
    found: Any
    expected: Any

    def what(self, other: str) -> str:
        """The difference in words, `other` saying whose value is expected."""
        return f"{json_path(self.path)}: found {shown(self.found)}, {other} {shown(self.expected)}"

    def finding(self, file: str, other: str) -> Finding:
        """The difference as what is wrong with a file."""
        return Finding(self.what(other), file)


class _Gone:
    """No value at all, which is not the same as null."""


GONE = _Gone()


def shown(value: Any) -> str:
    """A JSON value for people, cut where it is long."""
    if value is GONE:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 4]} ..."


def differences(found: Any, expected: Any, path: Path = ()) -> Iterator[Difference]:
    """Every place where two JSON values differ; numbers are equal where their values are, true and 1 are not."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key in sorted(found.keys() | expected.keys()):
            yield from differences(found.get(key, GONE), expected.get(key, GONE), (*path, key))
    elif _listed(found) and _listed(expected):
        yield from _in_lists(found, expected, path)
    elif found != expected or isinstance(found, bool) != isinstance(expected, bool):
        yield Difference(path, found, expected)


def _in_lists(found: Sequence[Any], expected: Sequence[Any], path: Path) -> Iterator[Difference]:
    """Of lists of unequal length only the first difference: what comes after it may have moved."""
    places = enumerate(zip_longest(found, expected, fillvalue=GONE))
    listed = (difference for index, pair in places for difference in differences(*pair, (*path, index)))
    yield from listed if len(found) == len(expected) else islice(listed, 1)


def _listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
