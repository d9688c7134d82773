"""The tensors: what only one side holds, what both hold otherwise, and how far apart the numbers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..decoding import open_files
from ..pipeline import DEFAULT_WORKERS
from .distance import same_entries
from .holdings import contents
from .leftovers import copy_differences, dead_differences, place_differences
from .outcome import Difference
from .pair import Pair, merged, who
from .side import Side
from .weights import weight_difference

LACKING = "config.json of {lacks} calls for it: a program that uses it does not load {lacks}"
NOT_CALLED_FOR = "config.json of {lacks} does not call for it"
STRANGE = "no parameter of the model; strict loaders refuse {has}"


@dataclass(frozen=True)
class TensorDifferences:
    """What the tensors tell.

    Attributes:
        differences: all of them.
        weights: how many both sides hold.
        repacked: whether one of these is packed otherwise.
    """

    differences: tuple[Difference, ...]
    weights: int
    repacked: bool


def tensor_differences(a: Side, b: Side, at: Callable[[str], object]) -> TensorDifferences:
    """Compare all tensors.

    Args:
        a: the one checkpoint.
        b: the other.
        at: called with the weight that is being looked at.
    """
    with open_files({*a.checkpoint.shards, *b.checkpoint.shards}) as files:
        text_only = a.config.text_only and b.config.text_only
        pair = Pair(contents(a, b), contents(b, a), files, text_only)
        found = (
            *_missing(pair),
            *_unknown(pair),
            *_unequal(pair, at),
            *copy_differences(pair),
            *dead_differences(pair),
            *place_differences(pair),
        )
    return TensorDifferences(found, len(pair.common), pair.repacked)


def _missing(pair: Pair) -> Iterator[Difference]:
    """Weights that one side lacks; where nothing of a tower is there, each says so."""
    shared = {part_name(key) for key in pair.common}
    for key, holdings in merged(pair.a.weights, pair.b.weights):
        if None in holdings:
            lacking = pair.a if holdings[0] is None else pair.b
            meaning = LACKING if key in lacking.required else NOT_CALLED_FOR
            difference = pair.of_one(key, holdings, meaning.format(lacks=who(holdings)[1]))
            yield difference if part_name(key) in shared else _of_whole(part_name(key), difference)


def _of_whole(part: str, difference: Difference) -> Difference:
    return replace(difference, figures={**difference.figures, "whole_of": part})


def part_name(key: str) -> str:
    """The tower, the embedder or the language model that a weight belongs to."""
    return key.partition(".")[0]


def _unknown(pair: Pair) -> Iterator[Difference]:
    for key, (one, other) in merged(pair.a.unknown, pair.b.unknown):
        if one is None or other is None:
            yield pair.of_one(key, (one, other), STRANGE.format(has=who((one, other))[0]))
        elif not same_entries(one.entries, other.entries, pair.files):
            yield pair.difference(key, one.form, other.form, STRANGE.format(has="both"))


def _unequal(pair: Pair, at: Callable[[str], object]) -> Iterator[Difference]:
    """Several weights at a time; each takes a block of rows."""

    def compare(key: str) -> Difference | None:
        return weight_difference(key, *pair.common[key], pair)

    with ThreadPoolExecutor(DEFAULT_WORKERS) as pool:
        for key, difference in zip(pair.common, pool.map(compare, pair.common), strict=True):
            at(pair.name(key))
            if difference is not None:
                yield difference
