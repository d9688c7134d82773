"""Weights that were trained for four bits: find each group's step again, from the values alone. No I/O.

Training with quantization in the loop leaves weights that are `round(step * k)` in groups of 32 along the row: k is an
integer of -8..7, and the rounding is that of the dtype in which they are stored. MLX's affine format holds such a group
without loss: scale = step, bias = -8 * step, code = k + 8. `mx.quantize` does not find that step.

The rule. A magnitude is what an interval of reals rounds to; a step of which it is the n-th level lies in that interval
divided by n. If the largest magnitude is level m, the levels of the others follow, and either some step lies in all 32
intervals or m is wrong.

1. The eighth level exists on one side only; where that is the positive side, scale and codes change sign.
2. Of the steps that fit a level, the one with the fewest significant bits is stored if the storage's dtype has it. (So
   a step that had that dtype when the weights were made is found again wherever the values determine it.) Of m = 1..8
   the first with such a step counts: the largest step, the fewest levels.
3. If there is none, the first that fits, with the number of the storage's below or above the middle of the steps that
   fit: the one with which more values come back, then the one with the smaller squared error.
4. A group that no m fits is tried once more with intervals three times as wide, and then left to the affine rule.

A group is *exact* if scale * code + bias, for which float32 needs no rounding, rounds to every one of its values in the
dtype of the source; -0 counts as 0.

There are only comparisons, divisions, exact products and sums in index order, in float64: hence the same bytes on every
platform, with numba (`lattice_kernels.py`) or without, and however the rows are cut into chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lattice_kernels import (
    CLOSED,
    EXACT,
    GROUP,
    LEVELS,
    NEARBY,
    OPEN,
    PLACED,
    POWER,
    ROUNDED_ONCE,
    UNPLACED,
    ZERO_STEP,
    lattice_kernel,
)
from .quantize import STORAGE, Bytes, Doubles, Floats, Packed, pack, quantize, unpack
from .recipe import LATTICE, SEARCH

# Groups that are worked on at once by the numpy formulation, and values on which a level is tried first.
BLOCK_GROUPS = 2048
FEW = 8

SAMPLED_GROUPS = 1024
FEWEST_ROWS, MOST_ROWS = 16, 64
FIRST_LOOK = 64
# Of the groups of a tensor on a lattice, at least so many are. Published ones: all; of continuous weights: none.
SHARE = 0.9


@dataclass(frozen=True)
class Format:
    """Where the numbers of a floating dtype lie.

    Attributes:
        unit: spacing of the numbers from 1 to 2.
        quantum: spacing of the smallest numbers.
        largest: the largest number.
    """

    unit: float
    quantum: float
    largest: float


SOURCES = {
    "BF16": Format(2.0**-7, 2.0**-133, (2 - 2.0**-7) * 2.0**127),
    "F16": Format(2.0**-10, 2.0**-24, 65504.0),
    "F32": Format(2.0**-23, 2.0**-149, (2 - 2.0**-23) * 2.0**127),
}
# A step of 20 bits times a code of 4 is exact in float32, whether or not a runtime fuses multiplication and addition.
STEPS = SOURCES | {"F32": Format(2.0**-19, 2.0**-149, (2 - 2.0**-19) * 2.0**127)}


@dataclass(frozen=True)
class Tally:
    """How much of a weight lies on a lattice.

    Attributes:
        groups: of the weight, those of zeros included.
        placed: of them, those that are packed as a lattice; the affine rule packs the others.
        exact: of the placed, those whose values all come back as the source's dtype holds them.
    """

    groups: int = 0
    placed: int = 0
    exact: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Of two parts of a weight together."""
        return Tally(self.groups + other.groups, self.placed + other.placed, self.exact + other.exact)


@dataclass(frozen=True)
class Solution:
    """A matrix in MLX's layout, in groups of 32, and how much of it lies on a lattice."""

    packed: Packed
    tally: Tally


@dataclass(frozen=True)
class Fit:
    """Groups as a lattice.

    Attributes:
        packed: uint8 [groups, 16]; meaningless where the group is unplaced.
        steps: float64 [groups], of the storage's numbers; negative where the positive peak is the eighth level.
        states: uint8 [groups], `UNPLACED`, `PLACED` or `EXACT`.
    """

    packed: Bytes
    steps: Doubles
    states: Bytes


def solve(values: Floats, source: str, storage: str, *, bits: int = LATTICE.bits, rounding: str = SEARCH) -> Solution:
    """Pack the rows of a matrix as a lattice, and what does not lie on one by the affine rule.

    Args:
        values: float32 [rows, cols], finite; `cols` is a multiple of 32.
        source: dtype that the values were rounded to, `BF16`, `F16` or `F32`.
        storage: dtype of scales and biases, likewise.
        bits: of a code as stored, four or more; only sixteen codes are used.
        rounding: the affine rule.
    """
    groups = np.ascontiguousarray(values).reshape(-1, GROUP)
    fit = fit_groups(groups, source, storage)
    scales, biases = fit.steps.astype(np.float32), (-LEVELS * fit.steps).astype(np.float32)
    arrays = [fit.packed, scales.astype(STORAGE[storage]), biases.astype(STORAGE[storage])]
    rest = np.flatnonzero(fit.states == UNPLACED)
    if rest.size:
        plain = quantize(groups[rest], LATTICE, storage, rounding)
        for array, part in zip(arrays, (plain.weight, plain.scales, plain.biases), strict=True):
            assert part is not None  # affine
            array[rest] = part.reshape(array[rest].shape)
    weight, scales, biases = (array.reshape(len(values), -1) for array in arrays)
    wide = weight if bits == LATTICE.bits else pack(unpack(weight, LATTICE.bits), bits)
    return Solution(
        Packed(wide, scales, biases), Tally(len(groups), len(groups) - rest.size, int((fit.states == EXACT).sum()))
    )


# -- the decision, on a sample -----------------------------------------------------------------------------------------


def sampled_rows(rows: int, cols: int) -> NDArray[np.intp]:
    """The rows to read for `is_lattice`: 16 to 64 of them where there are so many, evenly spread."""
    wanted = -(-SAMPLED_GROUPS * GROUP // cols)
    return _spread(rows, min(MOST_ROWS, max(FEWEST_ROWS, wanted)))


def is_lattice(sample: Floats, source: str) -> bool:
    """Whether nine in ten groups of a tensor lie on a lattice, judged by some of its rows.

    Groups of zeros do not count; a sample of nothing else is on no lattice, for there is nothing to gain. Where few of
    the first groups fit, they end the matter. Plain numpy does it: so small a sample is not worth compiling a kernel.

    Args:
        sample: float32 [rows, cols]; `cols` is a multiple of 32.
        source: dtype that the values were rounded to.
    """
    groups = np.ascontiguousarray(sample).reshape(-1, GROUP)
    groups = groups[_spread(len(groups), SAMPLED_GROUPS)]
    groups = groups[groups.any(axis=1)]
    if not len(groups):
        return False
    first = groups[_spread(len(groups), FIRST_LOOK)]
    return _share(first, source) >= SHARE / 2 and _share(groups, source) >= SHARE


def _spread(count: int, most: int) -> NDArray[np.intp]:
    """At most `most` of `count` indices, in the middle of equal parts."""
    taken = min(count, most)
    return (2 * np.arange(taken) + 1) * count // (2 * taken)


def _share(groups: Floats, source: str) -> float:
    states = fit_block(groups, SOURCES[source], STEPS["F32"]).states
    return float((states != UNPLACED).sum()) / len(groups)


# -- the rule ----------------------------------------------------------------------------------------------------------


def fit_groups(groups: Floats, source: str, storage: str) -> Fit:
    """Place every group that can be placed.

    Args:
        groups: float32 [groups, 32], contiguous.
        source: dtype that the values were rounded to.
        storage: dtype of scales and biases.
    """
    packed = np.empty((len(groups), GROUP // 2), np.uint8)
    fit = Fit(packed, np.empty(len(groups)), np.empty(len(groups), np.uint8))
    given, wanted = SOURCES[source], STEPS[storage]
    if lattice_kernel is not None:
        formats = (given.unit, given.quantum, wanted.unit, wanted.quantum, wanted.largest / LEVELS)
        lattice_kernel(groups, formats, fit.packed, fit.steps, fit.states)
        return fit
    for start in range(0, len(groups), BLOCK_GROUPS):
        block = slice(start, start + BLOCK_GROUPS)
        part = fit_block(groups[block], given, wanted)
        fit.packed[block], fit.steps[block], fit.states[block] = part.packed, part.steps, part.states
    return fit


@dataclass(frozen=True)
class _Group:
    """What the search needs of groups: values and their magnitudes [32, groups], the largest magnitude of each side."""

    values: Doubles
    magnitudes: Doubles
    positive: Doubles
    negative: Doubles

    @property
    def peak(self) -> Doubles:
        return np.maximum(self.positive, self.negative)

    def per_level(self, level: Doubles | float) -> Doubles:
        """What turns a magnitude into levels if the largest one is `level`."""
        scale: Doubles = level / np.where(self.peak == 0, 1.0, self.peak)
        return scale

    def take(self, chosen: NDArray[np.intp]) -> _Group:
        return _Group(
            self.values.take(chosen, axis=1),
            self.magnitudes.take(chosen, axis=1),
            self.positive[chosen],
            self.negative[chosen],
        )


@dataclass(frozen=True)
class _Bounds:
    """Between which reals each magnitude lies before it is rounded, float64 [32, groups]."""

    low: Doubles
    high: Doubles


@dataclass(frozen=True)
class _Found:
    """Per group the level of the largest magnitude, 0 if none fits, and the interval of steps that fit."""

    level: Doubles
    first: Doubles
    last: Doubles

    def put(self, places: NDArray[np.intp], found: _Found) -> None:
        self.level[places], self.first[places], self.last[places] = found.level, found.first, found.last


def fit_block(groups: Floats, source: Format, storage: Format) -> Fit:
    """The rule in plain numpy, vectorised over groups.

    Args:
        groups: float32 [groups, 32].
        source: of the values.
        storage: of the steps.
    """
    values = np.ascontiguousarray(groups.T).astype(np.float64)
    group = _Group(values, np.abs(values), values.max(axis=0), (-values).max(axis=0))
    bounds = _bounds(group.magnitudes, source, ROUNDED_ONCE)
    found = _search(group, bounds, storage, settle=True)
    strict = found.level > 0
    lost = np.flatnonzero(~strict)
    if lost.size:
        others = group.take(lost)
        found.put(lost, _search(others, _bounds(others.magnitudes, source, NEARBY), storage, settle=False))
    levels = np.rint(group.magnitudes * group.per_level(found.level))
    step, exact = _choose(group.magnitudes, levels, bounds, found, strict, storage)
    sign = np.where((found.level == LEVELS) & (group.positive > group.negative), -1.0, 1.0)
    codes = LEVELS + np.rint(values * (group.per_level(found.level) * sign))
    states = np.where(found.level == 0, UNPLACED, np.where(exact, EXACT, PLACED)).astype(np.uint8)
    return Fit(pack(np.ascontiguousarray(codes.T).astype(np.uint8), 4), step * sign, states)


def _spacing(magnitudes: Doubles, form: Format) -> Doubles:
    """The distance to the next larger number of a dtype."""
    powers = (magnitudes.view(np.uint64) & POWER).view(np.float64)
    spacing: Doubles = np.maximum(powers * form.unit, form.quantum)
    return spacing


def _bounds(magnitudes: Doubles, source: Format, slack: float) -> _Bounds:
    """Halfway to the neighbours, times `slack`; the middle itself rounds to the even number of the two."""
    spacing = _spacing(magnitudes, source)
    units = magnitudes / spacing
    narrows = (units * source.unit == 1.0) & (spacing > source.quantum)
    odd = np.rint(units * 0.5) != units * 0.5
    low = magnitudes - np.where(narrows, 0.25, 0.5) * slack * spacing
    high = magnitudes + 0.5 * slack * spacing
    return _Bounds(
        low * np.where(odd, 1.0 + OPEN, 1.0 - CLOSED),
        high * np.where(odd, 1.0 - OPEN, 1.0 + CLOSED),
    )


def _search(group: _Group, bounds: _Bounds, storage: Format, *, settle: bool) -> _Found:
    """The first level that fits the largest magnitude; with `settle`, the first with a step that can be stored."""
    step = np.full(len(group.positive), ZERO_STEP)
    found = _Found(np.where(group.peak == 0, 1.0, 0.0), step, step.copy())
    ends = found.level > 0
    for level in range(1, LEVELS + 1):
        left = np.flatnonzero(~ends & _one_sided(group, level))
        for rows in (slice(FEW), slice(None)):
            first, last = _interval(group, bounds, level, rows, left)
            last = np.minimum(last, storage.largest / LEVELS)
            fits = first <= last
            left, first, last = left[fits], first[fits], last[fits]
        settled = _is_stored(_simplest(first, last), storage) if settle else np.full(len(left), True)
        ends[left[settled]] = True
        taken = settled | (found.level[left] == 0)
        found.put(left[taken], _Found(np.full(int(taken.sum()), float(level)), first[taken], last[taken]))
    return found


def _one_sided(group: _Group, level: int) -> NDArray[np.bool_]:
    """The eighth level exists on one side only."""
    smaller = np.minimum(group.positive, group.negative)
    allowed: NDArray[np.bool_] = np.rint(smaller * group.per_level(level)) < LEVELS
    return allowed


def _interval(
    group: _Group, bounds: _Bounds, level: int, rows: slice, chosen: NDArray[np.intp]
) -> tuple[Doubles, Doubles]:
    """The steps that fit these rows of the chosen groups: from, to. A zero fits them all, a lost magnitude none."""
    levels = np.rint(group.magnitudes[rows].take(chosen, axis=1) * group.per_level(level)[chosen])
    with np.errstate(divide="ignore"):
        first = (bounds.low[rows].take(chosen, axis=1) / levels).max(axis=0, initial=0.0)
        last = (bounds.high[rows].take(chosen, axis=1) / levels).min(axis=0, initial=np.inf)
    return first, last


def _choose(
    magnitudes: Doubles, levels: Doubles, bounds: _Bounds, found: _Found, strict: NDArray[np.bool_], storage: Format
) -> tuple[Doubles, NDArray[np.bool_]]:
    """The step to store, and whether every magnitude comes back with it.

    If the interval has no number of the storage's, one of the two beside its middle: the one with which more values
    come back, then the one with the smaller squared error.
    """
    simple = _simplest(found.first, found.last)
    middle = (found.first + found.last) * 0.5
    below = _floor(middle, storage)
    settled = strict & _is_stored(simple, storage)
    one = np.where(settled, simple, below)
    other = np.where(settled, simple, below + _spacing(middle, storage))
    back, error = _score(magnitudes, levels, bounds, one)
    other_back, other_error = _score(magnitudes, levels, bounds, other)
    better = (other_back > back) | ((other_back == back) & (other_error < error))
    return np.where(better, other, one), np.where(better, other_back, back) == GROUP


def _simplest(first: Doubles, last: Doubles) -> Doubles:
    """The number from `first` to `last` with the fewest significant bits: `last` without those that it can spare."""
    end = last.view(np.uint64)
    parted = end ^ (first.view(np.uint64) - np.uint64(1))
    for shift in (1, 2, 4, 8, 16, 32):
        parted |= parted >> np.uint64(shift)
    return (end & ~(parted >> np.uint64(1))).view(np.float64)


def _floor(steps: Doubles, storage: Format) -> Doubles:
    """The next number of the storage's that is not larger."""
    spacing = _spacing(steps, storage)
    floor: Doubles = np.floor(steps / spacing) * spacing
    return floor


def _is_stored(steps: Doubles, storage: Format) -> NDArray[np.bool_]:
    """Which steps are numbers of the storage's."""
    stored: NDArray[np.bool_] = _floor(steps, storage) == steps
    return stored


def _score(magnitudes: Doubles, levels: Doubles, bounds: _Bounds, step: Doubles) -> tuple[Doubles, Doubles]:
    """How many values come back, and the squared error."""
    decoded = levels * step
    back = ((bounds.low <= decoded) & (decoded <= bounds.high)).sum(axis=0).astype(np.float64)
    error = np.zeros(len(step))
    for miss in magnitudes - decoded:
        error += miss * miss
    return back, error
