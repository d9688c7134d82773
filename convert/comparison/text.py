"""What the command line prints about a comparison: part by part, what may change answers first, the verdict last."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from ..verification.figures import number, printable
from ..wording import count, size
from .documents import SIDES
from .grouping import Group, groups
from .outcome import Comparison, Difference, Severity, Summary

ORDER = list(Severity)
WIDTH = max(map(len, ORDER))
# Keys of many that are named.
NAMED = 3
CLOSING = {
    Severity.ANSWERS: "may change answers",
    Severity.FORM: "of form",
    Severity.FILES: "in files that no runtime reads",
}


def text(comparison: Comparison) -> str:
    """All of it, readable."""
    if comparison.equal:
        return printable(_equal(comparison))
    heads = "\n".join(map(_head, SIDES, (comparison.a, comparison.b)))
    return "\n\n".join([heads, *_parts(comparison.differences), _verdict(comparison)])


def _equal(comparison: Comparison) -> str:
    same = f"{count(comparison.weights, 'weight')} and {count(comparison.files, 'file')} are the same"
    return f"no difference between {comparison.a.name} and {comparison.b.name}: {same}"


def _head(letter: str, side: Summary) -> str:
    return printable(f"{letter}: {side.name}, {side.model_type}, {count(side.tensors, 'tensor')}, {size(side.nbytes)}")


def _parts(differences: Sequence[Difference]) -> Iterator[str]:
    for part, found in groupby(groups(differences), key=lambda group: group.part):
        ordered = sorted(found, key=lambda group: ORDER.index(group.severity))
        yield "\n".join([printable(part), *(line for group in ordered for line in _group(group))])


def _group(group: Group) -> Iterator[str]:
    what = ": ".join(filter(None, [_where(group), _values(group)]))
    figures = "; ".join([group.meaning, *_figures(group.members)])
    yield f"  {group.severity.ljust(WIDTH)}  {printable(what)}"
    yield f"  {' ' * WIDTH}  {printable(figures)}"


def _where(group: Group) -> str:
    members = group.members
    if group.where is None:
        named = ", ".join(member.where for member in members[:NAMED])
        more = len(members) - NAMED
        return f"{named} and {more} more" if more > 0 else named
    return f"{group.where} ({len(members)})" if len(members) > 1 else group.where


def _values(group: Group) -> str | None:
    if group.a is None or group.b is None:
        return None
    return f"{group.a} in both" if group.a == group.b else f"{group.a} -> {group.b}"


def _figures(members: Sequence[Difference]) -> Iterator[str]:
    """The range of what was measured."""
    measured = [member.figures for member in members if "relative_rms" in member.figures]
    apart = [figures for figures in measured if figures["differing"]]
    if apart and all(math.isfinite(figures[key]) for figures in apart for key in ("relative_rms", "largest")):
        yield f"relative RMS {_range([figures['relative_rms'] for figures in apart])}"
        yield f"largest difference {number(max(figures['largest'] for figures in apart))}"
    if len(apart) == 1:
        yield f"{apart[0]['differing']:,} of {apart[0]['elements']:,} elements"
    if tensors := members[0].figures.get("tensors"):
        yield count(len(tensors), "tensor")
    if nbytes := sum(member.figures.get("bytes", 0) for member in members):
        yield size(nbytes)
    if otherwise := members[0].figures.get("otherwise"):
        yield f"{len(otherwise)} of {members[0].figures['tried']}: {', '.join(otherwise)}"


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _verdict(comparison: Comparison) -> str:
    counts = [f"{number} {CLOSING[severity]}" for severity, number in comparison.counts.items() if number]
    return f"{count(len(comparison.differences), 'difference')}: {', '.join(counts)}"
