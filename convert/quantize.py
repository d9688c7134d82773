"""Arrays to packed arrays, by one rule with one rounding, in MLX's format. No I/O.

`mx.quantize` cannot be the quantizer of record: its Metal and CPU kernels round differently, so the same command would
give other bytes on another machine. The affine rule here:

1. Fit scale and bias to the group's extremes so that zero is exactly a code (the rule of MLX's CPU kernel, in float32),
   and round both to the dtype in which they are stored.
2. Choose every code against the *stored* scale and bias: the nearest one.
3. Refit scale and bias to those codes by least squares, store, choose codes again; keep the refit where it lowers the
   group's squared error, and repeat (`REFITS` times).

Step 2 makes a group never worse than `mx.quantize`, step 3 better. Sums run in index order; every product is exact in
float64, so a fused multiply-add changes nothing; hence the same bytes on every platform, with numba or without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .kernels import affine_kernel
from .recipe import AFFINE, Quantization

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]

STORAGE: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}

REFITS = 2
SMALLEST_SCALE = np.float32(1e-7)
# A refit must win by more than the rounding of its own error sum.
MARGIN = 1 - 2.0**-20
# Groups that are worked on at once by the numpy formulation: small enough for the cache.
BLOCK_GROUPS = 2048


@dataclass(frozen=True)
class Packed:
    """One quantized matrix, as bytes in MLX's layout.

    Attributes:
        weight: codes as a little-endian bit stream, uint8 [rows, cols * bits / 8] (MLX views it as uint32).
        scales: [rows, groups]; of the storage dtype in affine mode, uint8 otherwise.
        biases: as `scales` in affine mode, None otherwise.
    """

    weight: Bytes
    scales: NDArray[Any]
    biases: NDArray[Any] | None


def quantize(values: Floats, spec: Quantization, storage: str) -> Packed:
    """Quantize the rows of a matrix.

    Args:
        values: float32 [rows, cols], finite; `cols` is a multiple of the group size.
        spec: bits, group size and mode.
        storage: dtype of scales and biases in affine mode, `BF16`, `F16` or `F32`.
    """
    rows, cols = values.shape
    groups = np.ascontiguousarray(values).reshape(-1, spec.group_size)
    if spec.mode == AFFINE:
        codes, scales, biases = _affine(groups, spec.bits, STORAGE[storage])
        shape = (rows, cols // spec.group_size)
        return Packed(codes.reshape(rows, -1), scales.reshape(shape), biases.reshape(shape))
    codes, exponents = _shared_exponent(groups, spec)
    return Packed(codes.reshape(rows, -1), exponents.reshape(rows, -1), None)


def pack(codes: Bytes, bits: int) -> Bytes:
    """Codes as a little-endian bit stream: eight of them fill `bits` bytes.

    Args:
        codes: uint8 [groups, group_size], each below 2 ** bits.
        bits: bits of a code.

    Returns:
        uint8 [groups, group_size * bits / 8].
    """
    eights = codes.reshape(-1, 8).astype(np.uint64)
    words = np.zeros(len(eights), np.uint64)
    for place in range(8):
        words |= eights[:, place] << np.uint64(place * bits)
    return words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :bits].reshape(len(codes), -1)


def _affine(groups: Floats, bits: int, storage: np.dtype[Any]) -> tuple[Bytes, NDArray[Any], NDArray[Any]]:
    packed = np.empty((len(groups), groups.shape[1] * bits // 8), np.uint8)
    scales, biases = np.empty(len(groups), np.float32), np.empty(len(groups), np.float32)
    if affine_kernel is not None and storage != np.float16:
        affine_kernel(groups, bits, storage.itemsize == 2, REFITS, packed, scales, biases)
    else:
        for block in _blocks(groups):
            packed[block], scales[block], biases[block] = affine_block(groups[block], bits, storage)
    with np.errstate(over="ignore"):
        return packed, scales.astype(storage), biases.astype(storage)


def _shared_exponent(groups: Floats, spec: Quantization) -> tuple[Bytes, Bytes]:
    packed = np.empty((len(groups), spec.group_size * spec.bits // 8), np.uint8)
    exponents = np.empty(len(groups), np.uint8)
    for block in _blocks(groups):
        codes, exponents[block] = _FLOAT_MODES[spec.mode](groups[block])
        packed[block] = pack(codes, spec.bits)
    return packed, exponents


def _blocks(groups: Floats) -> Iterator[slice]:
    for start in range(0, len(groups), BLOCK_GROUPS):
        yield slice(start, start + BLOCK_GROUPS)


@dataclass(frozen=True)
class _Fit:
    """A scale and a bias per group as stored, the codes [group_size, groups] for them, and the squared error."""

    scale: Doubles
    bias: Doubles
    codes: Doubles
    error: Doubles


def affine_block(groups: Floats, bits: int, storage: np.dtype[Any]) -> tuple[Bytes, Floats, Floats]:
    """The affine rule in plain numpy, vectorised over groups.

    Args:
        groups: float32 [groups, group_size].
        bits: bits of a code.
        storage: dtype in which scale and bias are stored.

    Returns:
        Packed codes uint8 [groups, group_size * bits / 8]; scales and biases float32 [groups], already rounded.
    """
    weights = np.ascontiguousarray(groups.T).astype(np.float64)
    levels = 2**bits - 1
    best = _encode(weights, *_edge_fit(groups, levels), levels, storage)
    for _ in range(REFITS):
        refit = _encode(weights, *_least_squares(weights, best.codes), levels, storage)
        better = refit.error < best.error * MARGIN
        best = _Fit(
            np.where(better, refit.scale, best.scale),
            np.where(better, refit.bias, best.bias),
            np.where(better, refit.codes, best.codes),
            np.where(better, refit.error, best.error),
        )
    codes = pack(np.ascontiguousarray(best.codes.T).astype(np.uint8), bits)
    return codes, best.scale.astype(np.float32), best.bias.astype(np.float32)


def _edge_fit(groups: Floats, levels: int) -> tuple[Floats, Floats]:
    """Scale and bias of MLX's CPU kernel (mlx/backend/cpu/quantized.cpp): zero and the larger extreme are exact."""
    low, high = groups.min(axis=1), groups.max(axis=1)
    negative = np.abs(low) > np.abs(high)
    step = np.maximum((high - low) / np.float32(levels), SMALLEST_SCALE)
    scale = np.where(negative, step, -step)
    edge = np.where(negative, low, high)
    code = np.rint(edge / scale)
    snapped = edge / np.where(code == 0, np.float32(1), code)
    return np.where(code == 0, scale, snapped), np.where(code == 0, np.float32(0), edge)


def _encode(
    weights: Doubles, scale: NDArray[np.floating], bias: NDArray[np.floating], levels: int, storage: np.dtype[Any]
) -> _Fit:
    """The nearest codes for the scale and bias as stored."""
    stored_scale, stored_bias = _store(scale, storage), _store(bias, storage)
    inverse = 1.0 / np.where(stored_scale == 0, 1.0, stored_scale)
    with np.errstate(invalid="ignore", over="ignore"):
        codes = np.clip(np.rint((weights - stored_bias) * inverse), 0, levels)
        misses = (weights - (stored_scale * codes + stored_bias)).astype(np.float32).astype(np.float64)
    return _Fit(stored_scale, stored_bias, codes, _in_order(misses * misses))


def _store(values: NDArray[np.floating], storage: np.dtype[Any]) -> Doubles:
    with np.errstate(over="ignore", invalid="ignore"):
        rounded: Doubles = values.astype(np.float32).astype(storage).astype(np.float64)
    return rounded


def _in_order(terms: Doubles) -> Doubles:
    """Sums over the first axis, one term after the other."""
    total = np.zeros(terms.shape[1])
    for term in terms:
        total += term
    return total


def _least_squares(weights: Doubles, codes: Doubles) -> tuple[Doubles, Doubles]:
    """Scale and bias that fit the codes best; where all codes are equal the result loses the comparison."""
    count = float(len(weights))
    sum_w = _in_order(weights).astype(np.float32).astype(np.float64)
    sum_q, sum_qq, sum_qw = _in_order(codes), _in_order(codes * codes), _in_order(codes * weights)
    determinant = count * sum_qq - sum_q * sum_q
    divisor = np.where(determinant == 0, 1.0, determinant)
    scale = ((count * sum_qw - sum_q * sum_w) / divisor).astype(np.float32).astype(np.float64)
    return scale, (sum_w - scale * sum_q) / count


# -- formats with a shared exponent ------------------------------------------------------------------------------------


def _float_error(
    groups: Floats, scale: Doubles, element: np.dtype[Any], largest: float
) -> tuple[NDArray[Any], Doubles]:
    """Elements rounded to the nearest, ties to even and saturating, and the squared error of each group."""
    scaled = np.clip(groups / scale[:, None], -largest, largest)
    elements = (scaled.astype(np.float32) + np.float32(0)).astype(element)
    decoded = elements.astype(np.float64) * scale[:, None]
    misses = (groups - decoded).astype(np.float32).astype(np.float64)
    return elements, _in_order(np.ascontiguousarray((misses * misses).T))


def _best_scale(
    groups: Floats, candidates: list[tuple[Bytes, Doubles]], element: np.dtype[Any], largest: float
) -> tuple[Bytes, Bytes]:
    """Of several scales per group, each with the byte that stores it, the first with the least error."""
    byte, scale = candidates[0]
    elements, error = _float_error(groups, scale, element, largest)
    for other_byte, other_scale in candidates[1:]:
        others, other_error = _float_error(groups, other_scale, element, largest)
        better = other_error < error * MARGIN
        byte = np.where(better, other_byte, byte)
        error = np.where(better, other_error, error)
        elements = np.where(better[:, None], others, elements)
    return _positive_zero(elements.view(np.uint8), element), byte


def _positive_zero(codes: Bytes, element: np.dtype[Any]) -> Bytes:
    sign = 8 if element == E2M1 else 128
    return np.where(codes == sign, np.uint8(0), codes)


E2M1, E4M3 = np.dtype(ml_dtypes.float4_e2m1fn), np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = {E2M1: 6.0, E4M3: 448.0}


def _microscaling(groups: Floats, element: np.dtype[Any]) -> tuple[Bytes, Bytes]:
    """OCP microscaling: a power of two per group; the one that may saturate the largest element, or the next."""
    largest = LARGEST[element]
    _, exponent = np.frexp(np.abs(groups).max(axis=1))
    top = exponent - 1 - (2 if element == E2M1 else 8)
    candidates = []
    for step in (0, 1):
        clipped = np.clip(top + step, -127, 127)
        candidates.append(((clipped + 127).astype(np.uint8), np.ldexp(1.0, clipped)))
    return _best_scale(groups, candidates, element, largest)


def _mxfp4(groups: Floats) -> tuple[Bytes, Bytes]:
    return _microscaling(groups, E2M1)


def _mxfp8(groups: Floats) -> tuple[Bytes, Bytes]:
    return _microscaling(groups, E4M3)


def _nvfp4(groups: Floats) -> tuple[Bytes, Bytes]:
    """A float8 E4M3 scale per group of 16: the largest element over 6, or one of its neighbours."""
    peak = np.abs(groups).max(axis=1).astype(np.float64)
    nearest = np.minimum(peak / 6.0, 448.0).astype(np.float32).astype(E4M3).view(np.uint8).astype(np.int16)
    candidates = []
    for step in (0, 1, -1):
        byte = np.clip(nearest + step, 1, 126).astype(np.uint8)
        candidates.append((byte, byte.view(E4M3).astype(np.float64)))
    return _best_scale(groups, candidates, E2M1, LARGEST[E2M1])


_FLOAT_MODES = {"mxfp4": _mxfp4, "mxfp8": _mxfp8, "nvfp4": _nvfp4}


def dequantize(packed: Packed, spec: Quantization) -> Floats:
    """What a runtime reads: float32 [rows, cols], `scale * code + bias` with one rounding.

    Used to check the packed bytes; the loader leaves it to MLX.
    """
    rows = len(packed.weight)
    codes = unpack(packed.weight, spec.bits).reshape(rows, -1, spec.group_size)
    if packed.biases is not None:
        scale, bias = packed.scales.astype(np.float64)[..., None], packed.biases.astype(np.float64)[..., None]
        return (scale * codes + bias).astype(np.float32).reshape(rows, -1)
    element, scales = (E4M3 if spec.bits == 8 else E2M1), np.ascontiguousarray(packed.scales).view(np.uint8)
    scale = (
        scales.view(E4M3).astype(np.float64) if spec.mode == "nvfp4" else np.ldexp(1.0, scales.astype(np.int32) - 127)
    )
    decoded: Floats = (codes.view(element).astype(np.float64) * scale[..., None]).astype(np.float32)
    return decoded.reshape(rows, -1)


def unpack(packed: Bytes, bits: int) -> Bytes:
    """The inverse of `pack`: uint8 [rows, bytes] to uint8 [rows, codes]."""
    rows = len(packed)
    words = np.zeros((packed.size // bits, 8), np.uint8)
    words[:, :bits] = np.ascontiguousarray(packed).reshape(-1, bits)
    stream = words.view("<u8").reshape(-1)
    mask = np.uint64(2**bits - 1)
    codes = np.stack([(stream >> np.uint64(place * bits)) & mask for place in range(8)], axis=-1)
    return codes.astype(np.uint8).reshape(rows, -1)
