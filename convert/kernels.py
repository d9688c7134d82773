"""The affine rule once more, compiled by numba where it is installed: the same bytes, an order of magnitude faster.

Each step stands in `quantize.affine_block` in numpy, in the same order; tests compare the two bit for bit. Lanes of
groups are worked on side by side, so that the compiler vectorises over groups and sums still run in index order.
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
LANES = 64

# Rows of the sums that are kept for each lane.
ERROR, SUM_Q, SUM_QQ, SUM_QW = 0, 1, 2, 3

affine_kernel: Callable[..., None] | None = None

if njit is not None:
    compiled = njit(nogil=True, cache=True, fastmath=False, error_model="numpy")

    @compiled
    def _load(groups: Any, start: int, lanes: int, weights: Any) -> None:
        """A tile of groups, one a column."""
        for lane in range(lanes):
            for index in range(weights.shape[0]):
                weights[index, lane] = groups[start + lane, index]

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
    def _store(values: Any, to_bfloat16: bool, scratch: Any) -> None:
        """Round to float32, then to the storage dtype, nearest even."""
        bits = scratch.view(np.uint32)
        for lane in range(LANES):
            scratch[lane] = np.float32(values[lane])
        if to_bfloat16:
            for lane in range(LANES):
                odd = (bits[lane] >> np.uint32(16)) & np.uint32(1)
                bits[lane] = (bits[lane] + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
        for lane in range(LANES):
            values[lane] = np.float64(scratch[lane])

    @compiled
    def _invert(scale: Any, inverse: Any) -> None:
        for lane in range(LANES):
            inverse[lane] = 1.0 / (1.0 if scale[lane] == 0 else scale[lane])

    @compiled
    def _measure(weights: Any, scale: Any, bias: Any, inverse: Any, levels: int, sums: Any) -> None:
        """Choose codes, and keep their squared error and what a refit needs; the codes themselves are not kept."""
        top = np.float64(levels)
        sums[:] = 0.0
        for index in range(weights.shape[0]):
            for lane in range(LANES):
                weight = weights[index, lane]
                code = min(max(np.rint((weight - bias[lane]) * inverse[lane]), 0.0), top)
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
    def _encode(weights: Any, bias: Any, inverse: Any, levels: int, codes: Any) -> None:
        top = np.float64(levels)
        for index in range(weights.shape[0]):
            for lane in range(LANES):
                code = np.rint((weights[index, lane] - bias[lane]) * inverse[lane])
                codes[index, lane] = np.uint8(min(max(code, 0.0), top))

    @compiled
    def _pack(codes: Any, lane: int, bits: int, packed: Any) -> None:
        """Eight codes fill `bits` bytes, low bits first."""
        for eight in range(codes.shape[0] // 8):
            word = np.uint64(0)
            for place in range(8):
                word |= np.uint64(codes[8 * eight + place, lane]) << np.uint64(place * bits)
            for byte in range(bits):
                packed[eight * bits + byte] = np.uint8((word >> np.uint64(8 * byte)) & np.uint64(255))

    @compiled
    def _compiled_affine(
        groups: Any, bits: int, to_bfloat16: bool, refits: int, packed: Any, scales: Any, biases: Any
    ) -> None:
        size, levels = groups.shape[1], 2**bits - 1
        weights, codes = np.zeros((size, LANES)), np.zeros((size, LANES), np.uint8)
        low, high, total, inverse = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        scale, bias, sums = np.zeros(LANES), np.zeros(LANES), np.zeros((4, LANES))
        new_scale, new_bias, new_sums = np.zeros(LANES), np.zeros(LANES), np.zeros((4, LANES))
        scratch = np.zeros(LANES, np.float32)
        for start in range(0, groups.shape[0], LANES):
            lanes = min(LANES, groups.shape[0] - start)
            _load(groups, start, lanes, weights)
            _extremes(weights, low, high, total)
            _edge_fit(low, high, levels, scale, bias)
            _store(scale, to_bfloat16, scratch)
            _store(bias, to_bfloat16, scratch)
            _invert(scale, inverse)
            _measure(weights, scale, bias, inverse, levels, sums)
            for _ in range(refits):
                _least_squares(total, sums, size, new_scale, new_bias)
                _store(new_scale, to_bfloat16, scratch)
                _store(new_bias, to_bfloat16, scratch)
                _invert(new_scale, inverse)
                _measure(weights, new_scale, new_bias, inverse, levels, new_sums)
                if not _adopt(scale, bias, sums, new_scale, new_bias, new_sums):
                    break
            _invert(scale, inverse)
            _encode(weights, bias, inverse, levels, codes)
            for lane in range(lanes):
                _pack(codes, lane, bits, packed[start + lane])
                scales[start + lane], biases[start + lane] = scale[lane], bias[lane]

    affine_kernel = _compiled_affine
