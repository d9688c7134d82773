"""Tensors that never reach an answer, and weights that are the same in another place."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from ..verification.listing import GONE
from ..wording import size
from .distance import distance, same_entries
from .holdings import Contents, Holding
from .outcome import TENSORS, Difference, Severity
from .pair import Holdings, Pair, merged
from .weights import weight_difference

DEAD = "dead weight, no effect on answers ({})"
TIED = "dead weight, no effect on answers (a copy of the embedding that it is tied to)"
UNTIED = "not the embedding that config.json ties it to: programs that load it answer otherwise"
RENAMED = "the same weights under other names"
LAID_OUT = "the same weights, laid out otherwise"
NUMBER = re.compile(r"\b\d+\b")


def dead_differences(pair: Pair) -> Iterator[Difference]:
    """What is left out for the same reason, as one: that which one side lacks, and that which has other bytes."""
    for reason in sorted(pair.a.dead.keys() | pair.b.dead.keys()):
        found = dict(merged(pair.a.dead.get(reason, {}), pair.b.dead.get(reason, {})))
        alone = {key: holdings for key, holdings in found.items() if None in holdings}
        changed = {key: holdings for key, holdings in found.items() if key not in alone and _is_changed(holdings, pair)}
        for group in filter(None, (alone, changed)):
            one, other = zip(*group.values(), strict=True)
            names = {"tensors": list(map(pair.name, group))}
            yield Difference(TENSORS, "", _amount(one), _amount(other), DEAD.format(reason), Severity.FORM, names)


def _is_changed(holdings: Holdings, pair: Pair) -> bool:
    one, other = holdings
    return one is not None and other is not None and not same_entries(one.entries, other.entries, pair.files)


def _amount(side: Iterable[Holding | None]) -> Any:
    """How much a side has."""
    present = [held.nbytes for held in side if held is not None]
    return size(sum(present)) if present else GONE


def copy_differences(pair: Pair) -> Iterator[Difference]:
    """Output heads beside an embedding to which they are tied: a copy is dead weight, another matrix is not."""
    for key in sorted(pair.a.copies.keys() | pair.b.copies.keys()):
        copies = [_is_copy(key, side, pair) for side in (pair.a, pair.b)]
        one, other = (side.copies[key][0] if key in side.copies else None for side in (pair.a, pair.b))
        if one is not None and other is not None and copies[0] == copies[1]:
            difference = None if copies[0] else weight_difference(key, one, other, pair)
            if difference is not None:
                yield difference
        elif False in copies:
            yield pair.of_one(key, (one, other), UNTIED)
        else:
            yield pair.of_one(key, (one, other), TIED, Severity.FORM)


def _is_copy(key: str, side: Contents, pair: Pair) -> bool | None:
    """Whether a head is the embedding; None where there is none."""
    if key not in side.copies:
        return None
    head, original = side.copies[key]
    embedding = side.weights.get(original)
    if embedding is None or same_entries(head.entries, embedding.entries, pair.files):
        return embedding is not None
    if head.rows is None or embedding.rows is None:
        return False
    return not distance(head.rows, embedding.rows, pair.files).differing


def place_differences(pair: Pair) -> Iterator[Difference]:
    """Weights under other names, or laid out otherwise: one difference for all of a kind."""
    groups: dict[tuple[str, str, str | None, str | None], list[str]] = defaultdict(list)
    for key, (one, other) in pair.common.items():
        if (one.name, one.layout) != (other.name, other.layout):
            groups[*_heads(one, other), one.layout, other.layout].append(pair.name(key))
    for (head_a, head_b, layout_a, layout_b), names in groups.items():
        meaning = RENAMED if layout_a == layout_b else LAID_OUT
        places = _place(head_a, layout_a), _place(head_b, layout_b)
        yield Difference(TENSORS, "", *places, meaning, Severity.FORM, {"tensors": names})


def _heads(one: Holding, other: Holding) -> tuple[str, str]:
    """Two names without the end that they share, and without the numbers of layers."""
    a, b = one.name.split("."), other.name.split(".")
    shared = 0
    while shared < min(len(a), len(b)) and a[-1 - shared] == b[-1 - shared]:
        shared += 1
    rest = ["*"] if shared else []
    head_a, head_b = (NUMBER.sub("N", ".".join([*name[: len(name) - shared], *rest])) for name in (a, b))
    return head_a, head_b


def _place(head: str, layout: str | None) -> str:
    return head if layout is None else f"{head}, {layout.partition(' -> ')[0]}"
