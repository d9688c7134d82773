"""The lattice rule once more, compiled by numba where it is installed: the same bytes, an order of magnitude faster.

Each step stands in `lattice.fit_block` in numpy; tests compare the two bit for bit. Lanes of groups are worked on side
by side, so that the compiler vectorises over groups; matrices are [32, LANES], what a group has once is [LANES].
"""
# mypy: allow-untyped-decorators, allow-any-decorated
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from numba import njit
except ImportError:  # the extra `fast` is not installed
    njit = None  # type: ignore[assignment]

# -- the rule's numbers, for both formulations -------------------------------------------------------------------------

GROUP = 32
LEVELS = 8
# Half units in the last place by which a value may miss its level. A group whose values were rounded once misses by one
# at most; of one that misses by three the levels are still certain, and they beat the affine rule.
ROUNDED_ONCE, NEARBY = 1.0, 3.0
# A closed end of an interval is moved out, an open one in, and further; both by less than any step's last bit.
CLOSED, OPEN = 2.0**-41, 2.0**-40
# The scale of a group of zeros: a power of two that float16 holds, beside the 1e-7 of mx.quantize.
ZERO_STEP = 2.0**-23
# The bits of a float64 that are left of a power of two.
POWER = np.uint64(0x7FF << 52)
# What becomes of a group.
UNPLACED, PLACED, EXACT = 0, 1, 2

# -- the kernel --------------------------------------------------------------------------------------------------------

LANES = 64
# Values after which a level is given up if no lane is left.
FEW = 4

lattice_kernel: Callable[..., None] | None = None

if njit is not None:
    compiled = njit(nogil=True, cache=True, fastmath=False, error_model="numpy")

    @compiled
    def _load(groups: Any, start: int, lanes: int, values: Any, magnitudes: Any, positive: Any, negative: Any) -> None:
        """A tile of groups, one a column, and the largest magnitude on each side of zero; other lanes stay."""
        for lane in range(lanes):
            for index in range(GROUP):
                values[index, lane] = groups[start + lane, index]
        positive[:], negative[:] = values[0], -values[0]
        for index in range(GROUP):
            for lane in range(LANES):
                value = values[index, lane]
                magnitudes[index, lane] = abs(value)
                positive[lane] = max(positive[lane], value)
                negative[lane] = max(negative[lane], -value)

    @compiled
    def _bounds(magnitudes: Any, bits: Any, unit: float, quantum: float, slack: float, low: Any, high: Any) -> None:
        """`bits` are those of `low`, where the powers of two are kept meanwhile."""
        for index in range(GROUP):
            for lane in range(LANES):
                low[index, lane] = magnitudes[index, lane]
            for lane in range(LANES):
                bits[index, lane] &= POWER
            for lane in range(LANES):
                magnitude = magnitudes[index, lane]
                spacing = max(low[index, lane] * unit, quantum)
                units = magnitude / spacing
                narrows = (units * unit == 1.0) & (spacing > quantum)
                odd = np.rint(units * 0.5) != units * 0.5
                below = magnitude - (0.25 if narrows else 0.5) * slack * spacing
                above = magnitude + 0.5 * slack * spacing
                low[index, lane] = below * (1.0 + OPEN if odd else 1.0 - CLOSED)
                high[index, lane] = above * (1.0 - OPEN if odd else 1.0 + CLOSED)

    @compiled
    def _next_level(
        magnitudes: Any, low: Any, high: Any, peak: Any, smaller: Any, reach: Any, tried: Any, level: Any
    ) -> None:
        """Where a lane has no level: the first above `tried` at which each value alone fits a step that fits the peak.

        This takes no division per value. `reach` is more than rounding moved the peak.
        """
        per_level, least, most = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        misses = np.zeros(LANES, np.int64)
        for candidate in range(1, LEVELS + 1):
            for lane in range(LANES):
                per_level[lane] = candidate / peak[lane]
                least[lane], most[lane] = (peak[lane] - reach[lane]) / candidate, (peak[lane] + reach[lane]) / candidate
                two_sided = np.rint(smaller[lane] * per_level[lane]) >= LEVELS
                misses[lane] = (level[lane] > 0) | (tried[lane] >= candidate) | two_sided
            for start in range(0, GROUP, FEW):
                if misses.min() > 0:
                    break
                for index in range(start, start + FEW):
                    for lane in range(LANES):
                        multiple = np.rint(magnitudes[index, lane] * per_level[lane])
                        off = (multiple * most[lane] < low[index, lane]) | (multiple * least[lane] > high[index, lane])
                        misses[lane] += off
            for lane in range(LANES):
                level[lane] = level[lane] if misses[lane] else candidate

    @compiled
    def _interval(magnitudes: Any, low: Any, high: Any, per_level: Any, limit: float, first: Any, last: Any) -> None:
        """The steps that fit all values."""
        first[:], last[:] = 0.0, limit
        for index in range(GROUP):
            for lane in range(LANES):
                multiple = np.rint(magnitudes[index, lane] * per_level[lane])
                first[lane] = max(first[lane], low[index, lane] / multiple)
                last[lane] = min(last[lane], high[index, lane] / multiple)

    @compiled
    def _search(
        magnitudes: Any, low: Any, high: Any, peak: Any, smaller: Any, reach: Any, formats: Any, settle: bool,
        level: Any, found: Any,
    ) -> None:  # fmt: skip
        """Where a lane has no level: the first that fits its peak, and the steps that fit, `found` [2, LANES].

        With `settle`, the first with a step that can be stored, if there is one.
        """
        _, _, unit, quantum, limit = formats
        tried, per_level, steps = np.where(level > 0, LEVELS, 0), np.zeros(LANES), np.zeros((2, LANES))
        scratch, kept = np.zeros(2), level.copy()
        bits = scratch.view(np.uint64)
        while tried.min() < LEVELS:
            _next_level(magnitudes, low, high, peak, smaller, reach, tried, level)
            per_level[:] = level / peak
            _interval(magnitudes, low, high, per_level, limit, steps[0], steps[1])
            for lane in range(LANES):
                if tried[lane] == LEVELS:
                    continue
                tried[lane] = LEVELS if level[lane] == 0 else level[lane]
                if level[lane] > 0 and steps[0, lane] <= steps[1, lane]:
                    simple = _simplest(steps[0, lane], steps[1, lane], scratch, bits)
                    settled = not settle or _is_stored(simple, unit, quantum, scratch, bits)
                    if settled or kept[lane] == 0:
                        kept[lane], found[0, lane], found[1, lane] = level[lane], steps[0, lane], steps[1, lane]
                    if settled:
                        tried[lane] = LEVELS
                level[lane] = 0
        level[:] = kept

    @compiled
    def _simplest(first: float, last: float, scratch: Any, bits: Any) -> Any:
        scratch[0], scratch[1] = first, last
        parted = bits[1] ^ (bits[0] - np.uint64(1))
        for power in range(6):
            parted |= parted >> np.uint64(1 << power)
        bits[0] = bits[1] & ~(parted >> np.uint64(1))
        return scratch[0]

    @compiled
    def _spacing(number: float, unit: float, quantum: float, scratch: Any, bits: Any) -> Any:
        """The distance to the next larger number of a dtype; `bits` are those of `scratch`."""
        scratch[0] = number
        bits[0] &= POWER
        return max(scratch[0] * unit, quantum)

    @compiled
    def _is_stored(step: float, unit: float, quantum: float, scratch: Any, bits: Any) -> Any:
        """Whether a step is a number of the storage's."""
        spacing = _spacing(step, unit, quantum, scratch, bits)
        return np.floor(step / spacing) * spacing == step

    @compiled
    def _candidates(found: Any, strict: Any, unit: float, quantum: float, one: Any, other: Any) -> None:
        """The simplest step if it can be stored, else those on both sides of the middle."""
        scratch = np.zeros(2)
        bits = scratch.view(np.uint64)
        for lane in range(LANES):
            first, last = found[0, lane], found[1, lane]
            simple, middle = _simplest(first, last, scratch, bits), (first + last) * 0.5
            spacing = _spacing(middle, unit, quantum, scratch, bits)
            below = np.floor(middle / spacing) * spacing
            settled = strict[lane] and _is_stored(simple, unit, quantum, scratch, bits)
            one[lane], other[lane] = (simple, simple) if settled else (below, below + spacing)

    @compiled
    def _score(magnitudes: Any, low: Any, high: Any, per_level: Any, step: Any, back: Any, error: Any) -> None:
        """How many values come back, and the squared error."""
        back[:], error[:] = 0, 0.0
        for index in range(GROUP):
            for lane in range(LANES):
                decoded = np.rint(magnitudes[index, lane] * per_level[lane]) * step[lane]
                miss = magnitudes[index, lane] - decoded
                back[lane] += (low[index, lane] <= decoded) & (decoded <= high[index, lane])
                error[lane] += miss * miss

    @compiled
    def _choose(magnitudes: Any, low: Any, high: Any, per_level: Any, one: Any, other: Any, back: Any) -> None:
        """Leave the better step in `one`, and how many values come back with it in `back`."""
        other_back, error, other_error = np.zeros(LANES, np.int64), np.zeros(LANES), np.zeros(LANES)
        _score(magnitudes, low, high, per_level, one, back, error)
        if (one == other).all():
            return
        _score(magnitudes, low, high, per_level, other, other_back, other_error)
        for lane in range(LANES):
            closer = other_back[lane] == back[lane] and other_error[lane] < error[lane]
            if closer or other_back[lane] > back[lane]:
                one[lane], back[lane] = other[lane], other_back[lane]

    @compiled
    def _pack(values: Any, per_level: Any, codes: Any, lanes: int, packed: Any) -> None:
        """Two codes a byte, the first in its low half; `codes` is scratch."""
        for index in range(GROUP):
            for lane in range(LANES):
                codes[index, lane] = np.uint8(np.int32(LEVELS + np.rint(values[index, lane] * per_level[lane])))
        for lane in range(lanes):
            for byte in range(GROUP // 2):
                packed[lane, byte] = codes[2 * byte, lane] | (codes[2 * byte + 1, lane] << np.uint8(4))

    @compiled
    def _compiled_lattice(groups: Any, formats: Any, packed: Any, steps: Any, states: Any) -> None:
        source_unit, source_quantum, unit, quantum, _ = formats
        values, magnitudes = np.zeros((GROUP, LANES)), np.zeros((GROUP, LANES))
        low, high = np.zeros((GROUP, LANES)), np.zeros((GROUP, LANES))
        wide_low, wide_high = np.zeros((GROUP, LANES)), np.zeros((GROUP, LANES))
        bits, wide_bits, codes = low.view(np.uint64), wide_low.view(np.uint64), np.zeros((GROUP, LANES), np.uint8)
        positive, negative, peak, smaller = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        reach, per_level, one, other = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        level, back, found = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64), np.zeros((2, LANES))
        for start in range(0, groups.shape[0], LANES):
            lanes = min(LANES, groups.shape[0] - start)
            _load(groups, start, lanes, values, magnitudes, positive, negative)
            found[:] = ZERO_STEP
            for lane in range(LANES):
                smaller[lane], larger = min(positive[lane], negative[lane]), max(positive[lane], negative[lane])
                level[lane], peak[lane] = larger == 0, larger if larger > 0 else 1.0
                reach[lane] = max(larger * source_unit, source_quantum)
            _bounds(magnitudes, bits, source_unit, source_quantum, ROUNDED_ONCE, low, high)
            _search(magnitudes, low, high, peak, smaller, reach, formats, True, level, found)
            strict = level > 0
            if level.min() == 0:
                _bounds(magnitudes, wide_bits, source_unit, source_quantum, NEARBY, wide_low, wide_high)
                _search(magnitudes, wide_low, wide_high, peak, smaller, reach * NEARBY, formats, False, level, found)
            _candidates(found, strict, unit, quantum, one, other)
            per_level[:] = level / peak
            _choose(magnitudes, low, high, per_level, one, other, back)
            for lane in range(LANES):
                turned = level[lane] == LEVELS and positive[lane] > negative[lane]
                one[lane], per_level[lane] = (-one[lane], -per_level[lane]) if turned else (one[lane], per_level[lane])
            _pack(values, per_level, codes, lanes, packed[start : start + lanes])
            for lane in range(lanes):
                steps[start + lane] = one[lane]
                placed = EXACT if back[lane] == GROUP else PLACED
                states[start + lane] = placed if level[lane] else UNPLACED

    lattice_kernel = _compiled_lattice
