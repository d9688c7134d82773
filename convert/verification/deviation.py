"""How far packed rows are from the rows of the source, and whether rounding explains it.

Another tool rounds by another rule, so its bytes are not ours. But every rule puts a weight on one of the two nearest
steps of its group, or trades one weight for the others of the group. So a group is wrong if one of its weights is
further away than a step can carry it *and* the group as a whole is clearly worse than our own rule makes it:

- In affine mode a step is the stored scale: half of it for rounding, and half where the outermost codes clip, which is
  the most that `mx.quantize` leaves (measured: 1.00 steps, all bit widths). Scale and bias are themselves rounded to
  their dtype after the codes were chosen, which moves a weight by as much as the largest code's share of that rounding.
- A refit (ours, for one) may carry one weight up to 1.8 steps away for the good of its group, and then the group's
  squared error is the smaller for it.

Weights of another row, matrix or group are several steps away on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..quantize import E4M3, STORAGE, Floats, Packed, dequantize, quantize
from ..recipe import Quantization

# Half a unit in the last place, relative to the number.
UNIT = {np.dtype(ml_dtypes.bfloat16): 2.0**-8, np.dtype(np.float16): 2.0**-11, np.dtype(np.float32): 2.0**-24}
# For the rounding of the comparison itself.
SLACK = 1.01
# How much worse than our own rule a group may be.
WORSE = 1.5

# Elements with an exponent of their own: below the smallest normal one the step is constant; above it, rounding moves a
# number by a fifth of itself at most, and saturation by a third, where the smallest scale of nvfp4 was rounded down.
RELATIVE = 1 / 3
SMALLEST = {"mxfp4": 0.25, "nvfp4": 0.25, "mxfp8": 2.0**-10}
# nvfp4: half of the smallest scale, times the largest element; a smaller group becomes zero in `mx.quantize`.
VANISHING = 6.0 * 2.0**-10


@dataclass(frozen=True)
class Deviation:
    """How far rows are from their source, by group.

    Attributes:
        wrong: bool [rows, groups], groups that rounding does not explain.
        excess: float32 [rows, groups], the largest difference of a group over what rounding may cause.
    """

    wrong: NDArray[np.bool_]
    excess: Floats


def decode(packed: Packed, spec: Quantization) -> Floats:
    """What packed rows hold, float32 [rows, columns]; scales may be anything."""
    with np.errstate(all="ignore"):
        return dequantize(packed, spec)


def squares(values: Floats) -> float:
    """The sum of squares."""
    with np.errstate(all="ignore"):
        return float(np.vdot(values, values))


def deviation(weights: Floats, decoded: Floats, packed: Packed, spec: Quantization) -> Deviation:
    """Compare rows of the source with packed rows that should hold them.

    Args:
        weights: of the source, float32 [rows, columns].
        decoded: what the packed rows hold, float32 [rows, columns].
        packed: the rows as they are stored.
        spec: how they are packed.
    """
    grouped = (len(weights), -1, spec.group_size)
    with np.errstate(all="ignore"):
        misses = (decoded - weights).reshape(grouped)
        excess = (np.abs(misses) / allowance(weights.reshape(grouped), packed, spec)).max(-1)
        wrong = ~(excess <= 1)
        if wrong.any():
            wrong[wrong] = _worse_than_ours(weights.reshape(grouped)[wrong], misses[wrong], packed, spec)
    return Deviation(wrong, excess)


def allowance(groups: Floats, packed: Packed, spec: Quantization) -> Floats:
    """How far rounding may carry each weight: float32, broadcast against `groups` [rows, groups, group_size]."""
    if packed.biases is not None:
        unit, levels = UNIT[packed.scales.dtype], 2**spec.bits - 1
        step, bias = (np.abs(array.astype(np.float32))[..., None] for array in (packed.scales, packed.biases))
        allowed: NDArray[Any] = step * (1 + levels * unit) + bias * unit
    else:
        scale = _scale(packed.scales, spec)[..., None]
        allowed = np.maximum(RELATIVE * np.abs(groups), np.where(scale == 0, VANISHING, SMALLEST[spec.mode] * scale))
    # Where nothing is allowed, nothing may be divided by it.
    return np.maximum(allowed * SLACK, np.finfo(np.float32).tiny).astype(np.float32)


def _scale(stored: NDArray[Any], spec: Quantization) -> NDArray[np.float64]:
    if spec.mode == "nvfp4":
        decoded: NDArray[np.float64] = stored.view(E4M3).astype(np.float64)
    else:
        decoded = np.ldexp(1.0, stored.astype(np.int32) - 127)
    return decoded


def _worse_than_ours(groups: Floats, misses: Floats, packed: Packed, spec: Quantization) -> NDArray[np.bool_]:
    """Of some groups [groups, group_size], those that our own rule brings clearly nearer."""
    storage = next((name for name, dtype in STORAGE.items() if dtype == packed.scales.dtype), "F32")
    ours = dequantize(quantize(groups, spec, storage), spec)
    error, best = (np.square(array, dtype=np.float64).sum(-1) for array in (misses, ours - groups))
    worse: NDArray[np.bool_] = ~(error <= WORSE * best)
    return worse
