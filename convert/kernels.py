"""The affine rule once more, compiled by numba where it is installed: the same bytes, several times faster.

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

LANES = 16

affine_kernel: Callable[..., None] | None = None

if njit is not None:
    compiled = njit(nogil=True, cache=True, fastmath=False, error_model="numpy")

    @compiled
    def _store(source: Any, to_bfloat16: bool, target: Any, scratch: Any) -> None:
        """Round to float32, then to the storage dtype, nearest even."""
        bits = scratch.view(np.uint32)
        for lane in range(LANES):
            scratch[lane] = np.float32(source[lane])
        if to_bfloat16:
            for lane in range(LANES):
                odd = (bits[lane] >> np.uint32(16)) & np.uint32(1)
                bits[lane] = (bits[lane] + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
        for lane in range(LANES):
            target[lane] = np.float64(scratch[lane])

    @compiled
    def _edge_fit(weights: Any, levels: int, scale: Any, bias: Any) -> None:
        for lane in range(LANES):
            low = high = weights[0, lane]
            for index in range(1, weights.shape[0]):
                low = min(low, weights[index, lane])
                high = max(high, weights[index, lane])
            low32, high32 = np.float32(low), np.float32(high)
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
    def _encode(weights: Any, scale: Any, bias: Any, levels: int, codes: Any, error: Any) -> None:
        for lane in range(LANES):
            error[lane] = 0.0
        for index in range(weights.shape[0]):
            for lane in range(LANES):
                divisor = 1.0 if scale[lane] == 0 else scale[lane]
                code = np.rint((weights[index, lane] - bias[lane]) / divisor)
                code = min(max(code, 0.0), np.float64(levels))
                codes[index, lane] = code
                miss = np.float64(np.float32(weights[index, lane] - (scale[lane] * code + bias[lane])))
                error[lane] += miss * miss

    @compiled
    def _least_squares(weights: Any, codes: Any, scale: Any, bias: Any, sums: Any) -> None:
        count = np.float64(weights.shape[0])
        sums[:] = 0.0
        for index in range(weights.shape[0]):
            for lane in range(LANES):
                weight, code = weights[index, lane], codes[index, lane]
                sums[0, lane] += weight
                sums[1, lane] += code
                sums[2, lane] += code * code
                sums[3, lane] += code * weight
        for lane in range(LANES):
            sum_w, sum_q = np.float64(np.float32(sums[0, lane])), sums[1, lane]
            determinant = count * sums[2, lane] - sum_q * sum_q
            divisor = 1.0 if determinant == 0 else determinant
            scale[lane] = np.float64(np.float32((count * sums[3, lane] - sum_q * sum_w) / divisor))
            bias[lane] = (sum_w - scale[lane] * sum_q) / count

    @compiled
    def _pack(codes: Any, lane: int, bits: int, packed: Any) -> None:
        word, filled, place = np.int64(0), 0, 0
        for index in range(codes.shape[0]):
            word |= np.int64(codes[index, lane]) << filled
            filled += bits
            while filled >= 8:
                packed[place] = word & 255
                word, filled, place = word >> 8, filled - 8, place + 1

    @compiled
    def _compiled_affine(
        groups: Any, bits: int, to_bfloat16: bool, refits: int, packed: Any, scales: Any, biases: Any
    ) -> None:
        size, levels = groups.shape[1], 2**bits - 1
        weights = np.zeros((size, LANES))
        codes, other_codes = np.zeros((size, LANES)), np.zeros((size, LANES))
        scale, bias, error = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        other_scale, other_bias, other_error = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        sums, scratch = np.zeros((4, LANES)), np.zeros(LANES, np.float32)
        for start in range(0, groups.shape[0], LANES):
            lanes = min(LANES, groups.shape[0] - start)
            for lane in range(lanes):
                for index in range(size):
                    weights[index, lane] = groups[start + lane, index]
            _edge_fit(weights, levels, scale, bias)
            _store(scale, to_bfloat16, scale, scratch)
            _store(bias, to_bfloat16, bias, scratch)
            _encode(weights, scale, bias, levels, codes, error)
            for _ in range(refits):
                _least_squares(weights, codes, other_scale, other_bias, sums)
                _store(other_scale, to_bfloat16, other_scale, scratch)
                _store(other_bias, to_bfloat16, other_bias, scratch)
                _encode(weights, other_scale, other_bias, levels, other_codes, other_error)
                for lane in range(lanes):
                    if other_error[lane] < error[lane] * (1 - 2.0**-20):
                        scale[lane], bias[lane] = other_scale[lane], other_bias[lane]
                        error[lane] = other_error[lane]
                        codes[:, lane] = other_codes[:, lane]
            for lane in range(lanes):
                _pack(codes, lane, bits, packed[start + lane])
                scales[start + lane], biases[start + lane] = scale[lane], bias[lane]

    affine_kernel = _compiled_affine
