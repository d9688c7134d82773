"""The affine rule of `quantize.py` in plain numpy, vectorised over groups; `kernels.py` is the same, compiled.

Tests compare the two bit for bit. The bytes are the same on every platform because nothing is left to it: floats are
added up in index order; the search adds up integers, for which order means nothing; and a product that is added to
something is exact, since one of its factors has few bits or was rounded to float32, so it may be fused or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# How far the search moves the outer codes inwards from the group's extremes, in steps, by bits; it tries every pair.
# Few bits gain by clipping. At 8 bits a bfloat16 moves the ends by whole steps: wider ones are as good, and more luck.
# Found by coordinate search on Gaussian, Laplace, t5 and t3 weights, groups of 32, 64 and 128, bfloat16 throughout.
MOVES: dict[int, tuple[float, ...]] = {
    2: (0.125, 0.375, 0.625, 0.875),
    3: (0.0, 0.375, 0.625, 1.0),
    4: (-0.125, 0.25, 0.5, 0.75),
    5: (-0.875, -0.125, 0.125, 0.5),
    6: (-1.0, -0.25, 0.0, 0.25),
    8: (-4.0, -2.25, -1.0, 0.0),
}
REFITS = 2
SMALLEST_SCALE = np.float32(1e-7)
# A fit must win by more than the rounding of its own error sum.
MARGIN = 1 - 2.0**-20

# The search counts in steps / FRACTION, and passes over what clips a weight by more than FARTHEST steps: the squares of
# 128 misses fit an int32.
FRACTION, FARTHEST = 256, 8


@dataclass(frozen=True)
class Fit:
    """A scale and a bias per group as stored, the codes [group_size, groups] for them, and the squared error."""

    scale: Doubles
    bias: Doubles
    codes: Doubles
    error: Doubles


def min_max_fit(groups: Floats, bits: int, storage: np.dtype[Any]) -> Fit:
    """Scale and bias from each group's extremes, and the nearest codes.

    Args:
        groups: float32 [groups, group_size].
        bits: bits of a code.
        storage: dtype in which scale and bias are stored.
    """
    levels = 2**bits - 1
    columns = np.ascontiguousarray(groups.T)
    with np.errstate(all="ignore"):
        scale, bias = _edge_fit(columns.min(axis=0), columns.max(axis=0), levels)
        return _encode(columns.astype(np.float64), scale, bias, levels, storage)


def affine_fit(groups: Floats, bits: int, storage: np.dtype[Any]) -> Fit:
    """Scale, bias and codes of each group that the search finds; see `min_max_fit` for the arguments."""
    levels = 2**bits - 1
    columns = np.ascontiguousarray(groups.T)
    weights = columns.astype(np.float64)
    low, high = columns.min(axis=0), columns.max(axis=0)
    best = min_max_fit(groups, bits, storage)
    with np.errstate(all="ignore"):  # a fit that overflows loses; `chunks` refuses a tensor for which none does not
        best = _better(best, _encode(weights, *_search(columns, low, high, best, bits, storage), levels, storage))
        for _ in range(REFITS):
            best = _better(best, _encode(weights, *_least_squares(weights, best.codes), levels, storage))
    return best


@cache
def candidates(bits: int) -> tuple[Doubles, Doubles]:
    """What the search tries: scales as parts of the step from extreme to extreme, and shifts of the centre in steps."""
    levels, moves = 2**bits - 1, list(product(MOVES[bits], repeat=2))
    shrinks = np.array([(levels - left - right) / levels for left, right in moves])
    return shrinks, np.array([(left - right) / 2 for left, right in moves])


def _edge_fit(low: Floats, high: Floats, levels: int) -> tuple[Floats, Floats]:
    """Scale and bias of MLX's CPU kernel (mlx/backend/cpu/quantized.cpp): zero and the larger extreme are exact."""
    negative = np.abs(low) > np.abs(high)
    step = np.maximum((high - low) / np.float32(levels), SMALLEST_SCALE)
    scale = np.where(negative, step, -step)
    edge = np.where(negative, low, high)
    code = np.rint(edge / scale)
    snapped = edge / np.where(code == 0, np.float32(1), code)
    return np.where(code == 0, scale, snapped), np.where(code == 0, np.float32(0), edge)


def _search(
    columns: Floats, low: Floats, high: Floats, start: Fit, bits: int, storage: np.dtype[Any]
) -> tuple[Doubles, Doubles]:
    """The candidate with the least error as stored, or `start` where none can be measured.

    The bias stands at the end nearer to zero, where its dtype is finer.
    """
    levels = 2**bits - 1
    low64, high64 = low.astype(np.float64), high.astype(np.float64)
    wide = ((high64 - low64) / levels).astype(np.float32).astype(np.float64)
    step, centre = np.where(np.abs(low) > np.abs(high), -wide, wide), (low64 + high64) / 2
    scale, bias, least = start.scale, start.bias, np.full(len(low), np.inf)
    for shrink, skew in zip(*candidates(bits), strict=True):
        new_scale = _store(step * shrink, storage)
        new_bias = _store(centre + step * skew - new_scale * (levels / 2), storage)
        error = _fixed_point_error(columns, low, high, new_scale, new_bias, levels)
        better = error < least
        scale, bias = np.where(better, new_scale, scale), np.where(better, new_bias, bias)
        least = np.where(better, error, least)
    return scale, bias


def _fixed_point_error(
    columns: Floats, low: Floats, high: Floats, scale: Doubles, bias: Doubles, levels: int
) -> Doubles:
    """Squared error in integers, infinite where a weight is too far out or the arithmetic overflows."""
    factor, start = (FRACTION / scale).astype(np.float32), bias.astype(np.float32)
    ends = np.stack([low - start, high - start]) * factor
    inside = (ends >= -FARTHEST * FRACTION) & (ends <= (levels + FARTHEST) * FRACTION)
    usable = inside.all(axis=0) & (factor != 0)
    factor, start = np.where(usable, factor, np.float32(0)), np.where(usable, start, np.float32(0))
    places = ((columns - start) * factor).astype(np.int32)
    nearest = np.clip(places + FRACTION // 2, 0, levels * FRACTION + FRACTION - 1) & -FRACTION
    misses = places - nearest
    step = np.where(usable, scale, 1.0)
    return np.where(usable, (misses * misses).sum(axis=0) * (step * step), np.inf)


def _better(best: Fit, other: Fit) -> Fit:
    """The other fit where it is better."""
    better = other.error < best.error * MARGIN
    return Fit(
        np.where(better, other.scale, best.scale),
        np.where(better, other.bias, best.bias),
        np.where(better, other.codes, best.codes),
        np.where(better, other.error, best.error),
    )


def _encode(
    weights: Doubles, scale: NDArray[np.floating], bias: NDArray[np.floating], levels: int, storage: np.dtype[Any]
) -> Fit:
    """The nearest codes for the scale and bias as stored."""
    stored_scale, stored_bias = _store(scale, storage), _store(bias, storage)
    inverse = 1.0 / np.where(stored_scale == 0, 1.0, stored_scale)
    codes = np.fmin(np.fmax(0, np.rint((weights - stored_bias) * inverse)), levels)  # never NaN
    misses = (weights - (stored_scale * codes + stored_bias)).astype(np.float32).astype(np.float64)
    return Fit(stored_scale, stored_bias, codes, in_order(misses * misses))


def _store(values: NDArray[np.floating], storage: np.dtype[Any]) -> Doubles:
    """Round to float32, then to the storage dtype."""
    rounded: Doubles = values.astype(np.float32).astype(storage).astype(np.float64)
    return rounded


def in_order(terms: Doubles) -> Doubles:
    """Sums over the first axis, one term after the other."""
    total = np.zeros(terms.shape[1])
    for term in terms:
        total += term
    return total


def _least_squares(weights: Doubles, codes: Doubles) -> tuple[Doubles, Doubles]:
    """Scale and bias that fit the codes best; where all codes are equal the result loses the comparison."""
    count = float(len(weights))
    sum_w = in_order(weights).astype(np.float32).astype(np.float64)
    sum_q, sum_qq, sum_qw = in_order(codes), in_order(codes * codes), in_order(codes * weights)
    determinant = count * sum_qq - sum_q * sum_q
    divisor = np.where(determinant == 0, 1.0, determinant)
    scale = ((count * sum_qw - sum_q * sum_w) / divisor).astype(np.float32).astype(np.float64)
    return scale, (sum_w - scale * sum_q) / count
