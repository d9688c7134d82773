"""Spend a budget of bytes where it buys most. Pure: numbers in, a packing for every module out."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..recipe import Quantization


@dataclass(frozen=True)
class Option:
    """A way to pack a module: its bytes, and what it costs in nats."""

    packing: Quantization
    nbytes: int
    cost: float


@dataclass(frozen=True)
class Candidate:
    """A module and the ways to pack it."""

    module: str
    options: tuple[Option, ...]

    @property
    def frontier(self) -> tuple[Option, ...]:
        """The options worth their bytes, from small to large: each saves more for a byte than the next one does."""
        return tuple(_hull(self.options))


def _hull(options: Iterable[Option]) -> list[Option]:
    """The lower convex hull of cost over bytes."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda one: (one.nbytes, one.cost)):
        if hull and option.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _saving(hull[-2], hull[-1]) <= _saving(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _saving(small: Option, large: Option) -> float:
    """Nats for a byte."""
    return (small.cost - large.cost) / (large.nbytes - small.nbytes)


def allocate(candidates: Sequence[Candidate], budget: int) -> dict[str, Quantization] | None:
    """The packings with the least cost together that fit.

    Greedy along the frontiers, which is optimal but for the last few steps that no longer fit.

    Args:
        candidates: the modules; costs add up.
        budget: bytes for all of them.

    Returns:
        By module; None if even the smallest packings do not fit.
    """
    frontiers = {candidate.module: candidate.frontier for candidate in candidates}
    chosen = dict.fromkeys(frontiers, 0)
    spare = budget - smallest(candidates)
    if spare < 0:
        return None
    upgrades = [upgrade for module in frontiers for upgrade in _upgrade(module, frontiers[module], 0)]
    heapq.heapify(upgrades)
    while upgrades:
        _, module = heapq.heappop(upgrades)
        frontier, place = frontiers[module], chosen[module]
        price = frontier[place + 1].nbytes - frontier[place].nbytes
        if price <= spare:
            spare -= price
            chosen[module] += 1
            for upgrade in _upgrade(module, frontier, place + 1):
                heapq.heappush(upgrades, upgrade)
    return {module: frontiers[module][place].packing for module, place in chosen.items()}


def _upgrade(module: str, frontier: Sequence[Option], place: int) -> Iterator[tuple[float, str]]:
    """The next step of a module, the best first in a heap; of equal ones the first by name."""
    if place + 1 < len(frontier):
        yield -_saving(frontier[place], frontier[place + 1]), module


def smallest(candidates: Iterable[Candidate]) -> int:
    """Bytes of the smallest packings."""
    return sum(min(option.nbytes for option in candidate.options) for candidate in candidates)


def spent(candidates: Iterable[Candidate], packings: Mapping[str, Quantization]) -> int:
    """Bytes of packings."""
    return sum(option.nbytes for option in chosen_options(candidates, packings))


def chosen_options(candidates: Iterable[Candidate], packings: Mapping[str, Quantization]) -> Iterator[Option]:
    """The option that each module got."""
    for candidate in candidates:
        yield from (option for option in candidate.options if option.packing == packings[candidate.module])
