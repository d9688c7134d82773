"""The affine rule once more, compiled by numba where it is installed: the same bytes, an order of magnitude faster.

Each step stands in `rounding.py` in numpy, in the same order; tests compare the two bit for bit. Where floats are added
up, a tile of groups is worked on side by side, so that the compiler vectorises over groups and sums still run in index
order. Where integers are added up, it vectorises along the group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from numba import njit
except ImportError:  # the extra `fast` is not installed
    njit = None  # type: ignore[assignment]

# Wide enough for the compiler to vectorise over them, narrow enough for a tile of groups to stay in the cache.
LANES = 32

# Rows of the sums that are kept for each lane.
ERROR, SUM_Q, SUM_QQ, SUM_QW = 0, 1, 2, 3

# Rows of what the search tries in each lane.
SCALE, BIAS, FACTOR = 0, 1, 2

# The dtypes in which scales and biases are stored.
FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
STORED_AS = {"float32": FLOAT32, "bfloat16": BFLOAT16, "float16": FLOAT16}

# Not imported from `rounding.py`: numba's cache would keep what was compiled with other numbers.
FRACTION, FARTHEST = 256, 8

affine_kernel: Callable[..., None] | None = None
min_max_kernel: Callable[..., None] | None = None

if njit is not None:
    compiled = njit(nogil=True, cache=True, fastmath=False, error_model="numpy")

    @compiled
    def _widen(words: Any, shift: Any, tile: Any) -> None:
        """The upper bits of float32 numbers, and those numbers' bits; a shift of 0 copies whole ones."""
        for lane in range(words.shape[0]):
            for index in range(words.shape[1]):
                tile[lane, index] = np.uint32(words[lane, index]) << shift

    @compiled
    def _load(groups: Any, weights: Any) -> None:
        """A tile of groups, one a column."""
        for lane in range(groups.shape[0]):
            for index in range(weights.shape[0]):
                weights[index, lane] = groups[lane, index]

    @compiled
    def _extremes(weights: Any, low: Any, high: Any, total: Any) -> None:
        for lane in range(LANES):
            low[lane] = high[lane] = weights[0, lane]
            total[lane] = 0.0
        for index in range(weights.shape[0]):
            for lane in range(LANES):
                weight = weights[index, lane]
                low[lane] = min(low[lane], weight)
                high[lane] = max(high[lane], weight)
                total[lane] += weight

    @compiled
    def _ranked(bits: np.int32) -> np.int32:
        """The bits of a float32 as an integer of the same rank, and back: a compiler vectorises integers' extremes."""
        return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))

    @compiled
    def _ends(groups: Any, low: Any, high: Any, ranks: Any) -> None:
        """The extremes of each lane, without its sum."""
        bits, floats = groups.view(np.int32), ranks.view(np.float32)
        for lane in range(groups.shape[0]):
            least, most = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
            for index in range(groups.shape[1]):
                rank = _ranked(bits[lane, index])
                least = min(least, rank)
                most = max(most, rank)
            ranks[0], ranks[1] = _ranked(least), _ranked(most)
            low[lane], high[lane] = floats[0], floats[1]

    @compiled
    def _edge_fit(low: Any, high: Any, levels: int, scale: Any, bias: Any) -> None:
        for lane in range(LANES):
            low32, high32 = np.float32(low[lane]), np.float32(high[lane])
            step = max((high32 - low32) / np.float32(levels), np.float32(1e-7))
            negative = abs(low32) > abs(high32)
            signed = step if negative else -step
            edge = low32 if negative else high32
            code = np.float32(np.rint(edge / signed))
            if code == 0:
                scale[lane], bias[lane] = signed, 0.0
            else:
                scale[lane], bias[lane] = edge / code, edge

    @compiled
    def _to_bfloat16(bits: Any) -> None:
        for lane in range(LANES):
            odd = (bits[lane] >> np.uint32(16)) & np.uint32(1)
            bits[lane] = (bits[lane] + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)

    @compiled
    def _to_float16(values: Any, bits: Any) -> None:
        """Below 2**-14 a float16 is a multiple of 2**-24, which is what float32 has room for from 0.5 on."""
        for lane in range(LANES):
            value = values[lane]
            tiny = (abs(value) + np.float32(0.5)) - np.float32(0.5)
            odd = (bits[lane] >> np.uint32(13)) & np.uint32(1)
            bits[lane] = (bits[lane] + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)
            if abs(value) < np.float32(2.0**-14):
                values[lane] = np.copysign(tiny, value)
            elif abs(values[lane]) >= np.float32(2.0**16):
                values[lane] = np.copysign(np.float32(np.inf), value)

    @compiled
    def _store(values: Any, storage: int, scratch: Any) -> None:
        """Round to float32, then to the storage dtype, nearest even."""
        bits = scratch.view(np.uint32)
        for lane in range(LANES):
            scratch[lane] = np.float32(values[lane])
        if storage == BFLOAT16:
            _to_bfloat16(bits)
        elif storage == FLOAT16:
            _to_float16(scratch, bits)
        for lane in range(LANES):
            values[lane] = np.float64(scratch[lane])

    @compiled
    def _span(low: Any, high: Any, levels: int, step: Any, centre: Any) -> None:
        """The step from extreme to extreme, signed so that the bias is at the end nearer to zero, and the middle."""
        for lane in range(LANES):
            wide = np.float64(np.float32((high[lane] - low[lane]) / levels))
            step[lane] = -wide if abs(low[lane]) > abs(high[lane]) else wide
            centre[lane] = (low[lane] + high[lane]) / 2

    @compiled
    def _propose(
        step: Any, centre: Any, levels: int, storage: int, shrinks: Any, skews: Any, tried: Any, scratch: Any
    ) -> None:
        """The candidates of each lane, as stored."""
        half = np.float64(levels) / 2
        for index in range(shrinks.shape[0]):
            scale, bias, shrink, skew = tried[SCALE, index], tried[BIAS, index], shrinks[index], skews[index]
            for lane in range(LANES):
                scale[lane] = step[lane] * shrink
            _store(scale, storage, scratch)
            for lane in range(LANES):
                bias[lane] = centre[lane] + step[lane] * skew - scale[lane] * half
            _store(bias, storage, scratch)

    @compiled
    def _factors(low: Any, high: Any, levels: int, tried: Any) -> None:
        """What turns distances from the bias into steps / FRACTION; zero for a candidate that is not measured."""
        least, most = np.float32(-FARTHEST * FRACTION), np.float32((levels + FARTHEST) * FRACTION)
        for index in range(tried.shape[1]):
            scale, bias, factor = tried[SCALE, index], tried[BIAS, index], tried[FACTOR, index]
            for lane in range(LANES):
                start, ratio = np.float32(bias[lane]), np.float32(FRACTION / scale[lane])
                one, other = (np.float32(low[lane]) - start) * ratio, (np.float32(high[lane]) - start) * ratio
                usable = one >= least and one <= most and other >= least and other <= most
                factor[lane] = ratio if usable else 0.0

    @compiled
    def _fixed_point_error(weights: Any, bias: np.float32, factor: np.float32, levels: int) -> np.int32:
        """Sum of squared misses along a group; each step back to int32 keeps the compiler from widening."""
        half, whole = np.int32(FRACTION // 2), np.int32(-FRACTION)
        last = np.int32(levels * FRACTION + FRACTION - 1)
        error = np.int32(0)
        for index in range(weights.shape[0]):
            place = np.int32((weights[index] - bias) * factor)
            nearest = np.int32(min(max(np.int32(place + half), np.int32(0)), last)) & whole
            miss = np.int32(place - nearest)
            error = np.int32(error + np.int32(miss * miss))
        return error

    @compiled
    def _search(groups: Any, levels: int, tried: Any, scale: Any, bias: Any) -> None:
        """The candidate with the least error of each lane; nothing changes where none can be measured."""
        for lane in range(groups.shape[0]):
            least = np.inf
            for index in range(tried.shape[1]):
                step, start, factor = tried[SCALE, index, lane], tried[BIAS, index, lane], tried[FACTOR, index, lane]
                if factor != 0:
                    squares = _fixed_point_error(groups[lane], np.float32(start), np.float32(factor), levels)
                    error = np.float64(squares) * (step * step)
                    if error < least:
                        least, scale[lane], bias[lane] = error, step, start

    @compiled
    def _invert(scale: Any, inverse: Any) -> None:
        for lane in range(LANES):
            inverse[lane] = 1.0 / (1.0 if scale[lane] == 0 else scale[lane])

    @compiled
    def _measure(weights: Any, scale: Any, bias: Any, inverse: Any, levels: int, sums: Any) -> None:
        """Choose codes, and keep their squared error and what a refit needs; the codes themselves are not kept."""
        top = np.float64(levels)
        _invert(scale, inverse)
        sums[:] = 0.0
        for index in range(weights.shape[0]):
            for lane in range(LANES):
                weight = weights[index, lane]
                code = min(max(0.0, np.rint((weight - bias[lane]) * inverse[lane])), top)  # never NaN
                miss = np.float64(np.float32(weight - (scale[lane] * code + bias[lane])))
                sums[ERROR, lane] += miss * miss
                sums[SUM_Q, lane] += code
                sums[SUM_QQ, lane] += code * code
                sums[SUM_QW, lane] += code * weight

    @compiled
    def _least_squares(total: Any, sums: Any, size: int, scale: Any, bias: Any) -> None:
        count = np.float64(size)
        for lane in range(LANES):
            sum_w, sum_q = np.float64(np.float32(total[lane])), sums[SUM_Q, lane]
            determinant = count * sums[SUM_QQ, lane] - sum_q * sum_q
            divisor = 1.0 if determinant == 0 else determinant
            scale[lane] = np.float64(np.float32((count * sums[SUM_QW, lane] - sum_q * sum_w) / divisor))
            bias[lane] = (sum_w - scale[lane] * sum_q) / count

    @compiled
    def _adopt(scale: Any, bias: Any, sums: Any, new_scale: Any, new_bias: Any, new_sums: Any) -> bool:
        """Take the new fit where it is better."""
        any_better = False
        for lane in range(LANES):
            if new_sums[ERROR, lane] < sums[ERROR, lane] * (1 - 2.0**-20):
                any_better = True
                scale[lane], bias[lane] = new_scale[lane], new_bias[lane]
                for row in range(sums.shape[0]):
                    sums[row, lane] = new_sums[row, lane]
        return any_better

    @compiled
    def _encode(weights: Any, scale: Any, bias: Any, levels: int, codes: Any) -> None:
        top = np.float64(levels)
        for lane in range(weights.shape[0]):
            start, inverse = bias[lane], 1.0 / (1.0 if scale[lane] == 0 else scale[lane])
            for index in range(weights.shape[1]):
                code = np.rint((np.float64(weights[lane, index]) - start) * inverse)
                codes[lane, index] = np.uint8(min(max(0.0, code), top))

    @compiled
    def _pack_pairs(pairs: Any, packed: Any) -> None:
        """Two codes of four bits, read as a little-endian number, fill a byte."""
        for lane in range(packed.shape[0]):
            for byte in range(packed.shape[1]):
                pair = pairs[lane, byte]
                packed[lane, byte] = np.uint8(pair | (pair >> np.uint16(4)))

    @compiled
    def _pack_eights(codes: Any, bits: int, packed: Any) -> None:
        """Eight codes fill `bits` bytes, low bits first."""
        for lane in range(packed.shape[0]):
            for eight in range(codes.shape[1] // 8):
                word = np.uint64(0)
                for place in range(8):
                    word |= np.uint64(codes[lane, 8 * eight + place]) << np.uint64(place * bits)
                for byte in range(bits):
                    packed[lane, eight * bits + byte] = np.uint8((word >> np.uint64(8 * byte)) & np.uint64(255))

    @compiled
    def _write(
        groups: Any, levels: int, bits: int, scale: Any, bias: Any, codes: Any, packed: Any, scales: Any, biases: Any
    ) -> None:
        _encode(groups, scale, bias, levels, codes)
        if bits == 4:
            _pack_pairs(codes.view(np.uint16), packed)
        else:
            _pack_eights(codes, bits, packed)
        for lane in range(groups.shape[0]):
            scales[lane], biases[lane] = scale[lane], bias[lane]

    @compiled
    def _compiled_affine(
        groups: Any,
        bits: int,
        storage: int,
        shrinks: Any,
        skews: Any,
        refits: int,
        packed: Any,
        scales: Any,
        biases: Any,
    ) -> None:
        size, levels = groups.shape[1], 2**bits - 1
        weights, codes = np.zeros((size, LANES)), np.zeros((LANES, size), np.uint8)
        low, high, total, inverse = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        scale, bias, sums = np.zeros(LANES), np.zeros(LANES), np.zeros((4, LANES))
        new_scale, new_bias, new_sums = np.zeros(LANES), np.zeros(LANES), np.zeros((4, LANES))
        step, centre, tried = np.zeros(LANES), np.zeros(LANES), np.zeros((3, shrinks.shape[0], LANES))
        scratch = np.zeros(LANES, np.float32)
        for start in range(0, groups.shape[0], LANES):
            stop = min(start + LANES, groups.shape[0])
            tile = groups[start:stop]
            _load(tile, weights)
            _extremes(weights, low, high, total)
            _edge_fit(low, high, levels, scale, bias)
            _store(scale, storage, scratch)
            _store(bias, storage, scratch)
            _measure(weights, scale, bias, inverse, levels, sums)
            _span(low, high, levels, step, centre)
            _propose(step, centre, levels, storage, shrinks, skews, tried, scratch)
            _factors(low, high, levels, tried)
            new_scale[:], new_bias[:] = scale, bias
            _search(tile, levels, tried, new_scale, new_bias)
            _measure(weights, new_scale, new_bias, inverse, levels, new_sums)
            _adopt(scale, bias, sums, new_scale, new_bias, new_sums)
            for _ in range(refits):
                _least_squares(total, sums, size, new_scale, new_bias)
                _store(new_scale, storage, scratch)
                _store(new_bias, storage, scratch)
                _measure(weights, new_scale, new_bias, inverse, levels, new_sums)
                if not _adopt(scale, bias, sums, new_scale, new_bias, new_sums):
                    break
            _write(tile, levels, bits, scale, bias, codes, packed[start:stop], scales[start:stop], biases[start:stop])

    @compiled
    def _compiled_min_max(
        words: Any, shift: Any, bits: int, storage: int, packed: Any, scales: Any, biases: Any
    ) -> None:
        size, levels = words.shape[1], 2**bits - 1
        weights, codes = np.zeros((LANES, size), np.float32), np.zeros((LANES, size), np.uint8)
        low, high, scale, bias = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        scratch, ranks = np.zeros(LANES, np.float32), np.zeros(2, np.int32)
        for start in range(0, words.shape[0], LANES):
            stop = min(start + LANES, words.shape[0])
            _widen(words[start:stop], shift, weights.view(np.uint32))
            tile = weights[: stop - start]
            _ends(tile, low, high, ranks)
            _edge_fit(low, high, levels, scale, bias)
            _store(scale, storage, scratch)
            _store(bias, storage, scratch)
            _write(tile, levels, bits, scale, bias, codes, packed[start:stop], scales[start:stop], biases[start:stop])

    affine_kernel, min_max_kernel = _compiled_affine, _compiled_min_max
