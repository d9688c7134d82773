"""Differences of one kind as one: the same weight of many layers, the keys of a file that say nothing new."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..verification.listing import GONE, shown
from .outcome import TEMPLATE, Difference, Severity

NUMBER = re.compile(r"(?<=[.\[])\d+(?=[.\]])")
NOTHING, PRESENT = "nothing", "there"


@dataclass(frozen=True)
class Group:
    """Differences that are told in one line.

    Attributes:
        part, meaning, severity: of all of them.
        where: the tensor or the path, with N for the numbers; None where there are several paths.
        a, b: what either side has, in words; None where there are several paths.
        members: at least one.
    """

    part: str
    where: str | None
    a: str | None
    b: str | None
    meaning: str
    severity: Severity
    members: tuple[Difference, ...]


def groups(differences: Iterable[Difference]) -> list[Group]:
    """Group differences; the order is that of the first of each group."""
    found: dict[tuple[Any, ...], list[Difference]] = {}
    for difference in differences:
        kind = (difference.part, difference.meaning, difference.severity)
        found.setdefault(kind if _is_spelling(difference) else (*kind, *_shown(difference)), []).append(difference)
    return [_group(members) for members in found.values()]


def _group(members: list[Difference]) -> Group:
    first, *others = members
    if others and _is_spelling(first):
        return Group(first.part, None, None, None, first.meaning, first.severity, tuple(members))
    where, a, b = _shown(first)
    exactly = where if others or _whole(first) else first.where
    return Group(first.part, exactly, a, b, first.meaning, first.severity, tuple(members))


def _is_spelling(difference: Difference) -> bool:
    """Whether it is a key of a file whose value changes nothing: of many, the names will do."""
    return difference.severity is Severity.FORM and difference.where.startswith("$")


def _shown(difference: Difference) -> tuple[str, str, str]:
    """Where it is, and what either side has."""
    if _whole(difference):
        one, other = (NOTHING if value is GONE else PRESENT for value in (difference.a, difference.b))
        return f"{_whole(difference)}.*", one, other
    return NUMBER.sub("N", difference.where), _words(difference, difference.a), _words(difference, difference.b)


def _whole(difference: Difference) -> str | None:
    """The tower or embedder of which one side has nothing."""
    return difference.figures.get("whole_of")


def _words(difference: Difference, value: Any) -> str:
    if value is GONE:
        return NOTHING
    if difference.part == TEMPLATE:
        return " and ".join(f"{file} ({label})" for file, label in value.items())
    return shown(value) if difference.where.startswith("$") else str(value)
