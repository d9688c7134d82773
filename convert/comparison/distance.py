"""How far two weights are from each other, a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...loaders.checkpoint import BLOCK, TensorInfo, blocks
from ..decoding import Files
from ..quantize import STORAGE, Floats
from ..verification.deviation import squares
from .rows import Rows, Values

# Numbers that are looked at together; float32 has four bytes.
MOST_ELEMENTS = BLOCK // 4


def same_entries(one: tuple[TensorInfo, ...], other: tuple[TensorInfo, ...], files: Files) -> bool:
    """Whether tensors of the same dtypes and shapes hold the same bytes."""
    if [(info.dtype, info.shape) for info in one] != [(info.dtype, info.shape) for info in other]:
        return False
    pairs = (
        pair
        for a, b in zip(one, other, strict=True)
        for pair in zip(blocks(a, files[a.file]), blocks(b, files[b.file]), strict=True)
    )
    return all(a == b for a, b in pairs)


def same_rows(a: Rows, b: Rows, files: Files) -> bool:
    """Whether two weights of one form hold the same bytes."""
    return all(a.stored(*one, files) == b.stored(*other, files) for one, other in _blocks(a, b))


@dataclass(frozen=True)
class Distance:
    """How far numbers are apart.

    Attributes:
        elements: how many were looked at.
        differing: of them, how many are not equal.
        beyond: how many are further apart than rounding explains; None where that cannot be said.
        largest: the largest difference.
        error: squared differences, added up.
        squares: squared numbers of either side, added up.
        not_numbers: how many of either side are NaN or infinite.
        unrounded: how many of either side are not the other side's, rounded to its dtype; None where it is packed.
    """

    elements: int = 0
    differing: int = 0
    beyond: int | None = 0
    largest: float = 0.0
    error: float = 0.0
    squares: tuple[float, float] = (0.0, 0.0)
    not_numbers: tuple[int, int] = (0, 0)
    unrounded: tuple[int | None, int | None] = (0, 0)

    def __add__(self, other: Distance) -> Distance:
        """Of the numbers of both."""
        return Distance(
            self.elements + other.elements,
            self.differing + other.differing,
            _plus(self.beyond, other.beyond),
            max(self.largest, other.largest, key=_rank),
            self.error + other.error,
            (self.squares[0] + other.squares[0], self.squares[1] + other.squares[1]),
            (self.not_numbers[0] + other.not_numbers[0], self.not_numbers[1] + other.not_numbers[1]),
            (_plus(self.unrounded[0], other.unrounded[0]), _plus(self.unrounded[1], other.unrounded[1])),
        )

    @property
    def relative_rms(self) -> float:
        """Root of the squared differences over the squares of the larger side, so that both sides count alike."""
        known = all(map(math.isfinite, self.squares)) and max(self.squares) > 0
        return math.sqrt(self.error / max(self.squares)) if known else math.nan

    @property
    def figures(self) -> dict[str, Any]:
        """For people and programs; what is no number becomes null."""
        return {
            "elements": self.elements,
            "differing": self.differing,
            "beyond_rounding": self.beyond,
            "relative_rms": self.relative_rms,
            "largest": self.largest,
        }


def distance(a: Rows, b: Rows, files: Files) -> Distance:
    """Read two weights of the same shape once."""
    found = Distance()
    for one, other in _blocks(a, b):
        found += apart(a.values(*one, files), b.values(*other, files))
    return found


def apart(a: Values, b: Values) -> Distance:
    """Compare some numbers."""
    one, other = a.numbers, b.numbers
    with np.errstate(all="ignore"):
        unequal = (one != other) & ~(np.isnan(one) & np.isnan(other))
        gap = np.where(unequal, np.abs(one - other), np.float32(0))
        return Distance(
            elements=one.size,
            differing=int(unequal.sum()),
            beyond=_beyond(a, b, gap),
            largest=float(gap.max(initial=0)),
            error=squares(gap),
            squares=(squares(one), squares(other)),
            not_numbers=(_not_numbers(one), _not_numbers(other)),
            unrounded=(_unrounded(a, b), _unrounded(b, a)),
        )


def _beyond(a: Values, b: Values, gap: Floats) -> int | None:
    if a.slack is None or b.slack is None:
        return None
    return int(((gap != 0) & ~(gap <= a.slack + b.slack)).sum())


def _unrounded(side: Values, other: Values) -> int | None:
    if side.dtype is None:
        return None
    rounded = other.numbers.astype(STORAGE[side.dtype]).astype(np.float32)
    return int((rounded != side.numbers).sum())


def _not_numbers(values: Floats) -> int:
    return int((~np.isfinite(values)).sum())


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _blocks(a: Rows, b: Rows) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """The same elements of both, as rows of either: the longer row is a whole number of the shorter ones."""
    unit, size = max(a.row_length, b.row_length), math.prod(a.shape)
    step = max(1, MOST_ELEMENTS // unit) * unit
    for start in range(0, size, step):
        stop = min(start + step, size)
        one, other = ((start // rows.row_length, stop // rows.row_length) for rows in (a, b))
        yield one, other
