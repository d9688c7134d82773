"""Two JSON documents: every place where they differ, with what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...schemas.explain import json_path
from ..verification.listing import GONE, Path, differences
from ..verification.listing import Difference as Place
from .meanings import ROWS, Row, row_of
from .outcome import Difference, Severity

SIDES = ("A", "B")
REFUSED = "g4convert refuses {file} of {which}"
Harmless = Callable[[Path], str | None]
"""Why what differs at a path is the same model all the same; None where it may not be."""


def document_differences(file: str, a: Any, b: Any, harmless: Harmless = lambda _: None) -> Iterator[Difference]:
    """Compare two versions of a file.

    Args:
        file: its name, under which its keys are known.
        a: the one version, parsed.
        b: the other.
        harmless: what is known of a path beyond its row in the table.
    """
    for place in places(a, b):
        row = row_of(ROWS[file], keys(place.path))
        excuse = harmless(place.path)
        severity = row.severity if excuse is None else Severity.FORM
        meaning = excuse or told(row, place.found, place.expected)
        yield Difference(file, json_path(place.path), place.found, place.expected, meaning, severity)


def refusal(file: str, a: str | None, b: str | None) -> Iterator[Difference]:
    """What is wrong with a file, where it is in one version; None where nothing is."""
    if a == b:
        return
    one, other = (GONE if fault is None else fault for fault in (a, b))
    which = " and ".join(side for side, fault in zip(SIDES, (a, b), strict=True) if fault is not None)
    yield Difference(file, "", one, other, REFUSED.format(file=file, which=which), Severity.ANSWERS)


def told(row: Row, a: Any, b: Any) -> str:
    """What a row says of two values."""
    if row.lost is None or is_there(a) == is_there(b):
        return row.meaning
    has, lacks = SIDES if is_there(a) else reversed(SIDES)
    return row.lost.format(has=has, lacks=lacks)


def is_there(value: Any) -> bool:
    """Whether there is a value; null says that there is none."""
    return value is not GONE and value is not None


def keys(path: Path) -> str:
    """The keys of a path, joined by dots, without places in lists."""
    return ".".join(step for step in path if isinstance(step, str))


def places(a: Any, b: Any) -> Iterator[Place]:
    """Every place where two documents differ; a list of another length is one, for what it holds may have moved."""
    for place in differences(a, b):
        path = place.path
        short = next((depth for depth in range(len(path)) if _other_length(a, b, path[:depth])), len(path))
        yield Place(path[:short], at(a, path[:short]), at(b, path[:short])) if short < len(path) else place


def _other_length(a: Any, b: Any, path: Path) -> bool:
    one, other = at(a, path), at(b, path)
    return isinstance(one, list) and isinstance(other, list) and len(one) != len(other)


def at(document: Any, path: Path) -> Any:
    """What a document has at a path that leads somewhere."""
    for step in path:
        document = document[step]
    return document
