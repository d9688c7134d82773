"""Arrays to packed arrays, by one rule with one rounding, in MLX's format. No I/O.

`mx.quantize` cannot be the quantizer of record: its Metal and CPU kernels round differently, so the same command would
give other bytes on another machine. The affine rule here, for each group:

1. Fit scale and bias to the group's extremes so that zero is exactly a code (the rule of MLX's CPU kernel, in float32),
   and round both to the dtype in which they are stored. Choose every code against the *stored* scale and bias: the
   nearest one. This alone makes a group never worse than `mx.quantize`, and is all that the rounding `min-max` does.
2. Search: move the outermost codes by four distances at either end (`MOVES`, by bits), inwards to clip or outwards, and
   store each of the sixteen fits. Of these take the one whose nearest codes miss least, if it beats the first fit.
3. Refit scale and bias to the codes by least squares, store, choose codes again; keep the refit where it lowers the
   group's squared error, and repeat (`REFITS` times).

`rounding.py` holds the rule, `kernels.py` the same compiled; the bytes are the same on every platform and with either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .kernels import STORED_AS, affine_kernel, min_max_kernel
from .recipe import AFFINE, MIN_MAX, SEARCH, Quantization
from .rounding import MARGIN, REFITS, affine_fit, candidates, in_order, min_max_fit

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]

STORAGE: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}

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


def quantize(values: NDArray[Any], spec: Quantization, storage: str, rounding: str = SEARCH) -> Packed:
    """Quantize the rows of a matrix.

    Args:
        values: float32 or bfloat16 [rows, cols], finite; `cols` is a multiple of the group size.
        spec: bits, group size and mode.
        storage: dtype of scales and biases in affine mode, `BF16`, `F16` or `F32`.
        rounding: the rule of affine mode.
    """
    rows, cols = values.shape
    groups = np.ascontiguousarray(values).reshape(-1, spec.group_size)
    if spec.mode == AFFINE:
        codes, scales, biases = _affine(groups, spec.bits, STORAGE[storage], rounding)
        shape = (rows, cols // spec.group_size)
        return Packed(codes.reshape(rows, -1), scales.reshape(shape), biases.reshape(shape))
    codes, exponents = _shared_exponent(_floats(groups), spec)
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


def _floats(values: NDArray[Any]) -> Floats:
    return values.astype(np.float32, copy=False)


def _words(values: NDArray[Any]) -> tuple[NDArray[Any], np.uint32]:
    """The bits of float32 or bfloat16 numbers, and the shift that makes them those of float32 numbers."""
    missing = 32 - 8 * values.itemsize
    return values.view(f"u{values.itemsize}"), np.uint32(missing)


def _affine(
    groups: NDArray[Any], bits: int, storage: np.dtype[Any], rounding: str
) -> tuple[Bytes, NDArray[Any], NDArray[Any]]:
    packed = np.empty((len(groups), groups.shape[1] * bits // 8), np.uint8)
    scales, biases = np.empty(len(groups), np.float32), np.empty(len(groups), np.float32)
    stored_as = STORED_AS[storage.name]
    if affine_kernel is not None and rounding == SEARCH:
        affine_kernel(_floats(groups), bits, stored_as, *candidates(bits), REFITS, packed, scales, biases)
    elif min_max_kernel is not None and rounding == MIN_MAX:
        min_max_kernel(*_words(groups), bits, stored_as, packed, scales, biases)
    else:
        for block in _blocks(groups):
            fit = _FITS[rounding](_floats(groups[block]), bits, storage)
            packed[block] = pack(np.ascontiguousarray(fit.codes.T).astype(np.uint8), bits)
            scales[block], biases[block] = fit.scale, fit.bias
    with np.errstate(over="ignore"):
        return packed, scales.astype(storage), biases.astype(storage)


_FITS = {SEARCH: affine_fit, MIN_MAX: min_max_fit}


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


# -- formats with a shared exponent ------------------------------------------------------------------------------------


def _float_error(
    groups: Floats, scale: Doubles, element: np.dtype[Any], largest: float
) -> tuple[NDArray[Any], Doubles]:
    """Elements rounded to the nearest, ties to even and saturating, and the squared error of each group."""
    scaled = np.clip(groups / scale[:, None], -largest, largest)
    elements = (scaled.astype(np.float32) + np.float32(0)).astype(element)
    decoded = elements.astype(np.float64) * scale[:, None]
    misses = (groups - decoded).astype(np.float32).astype(np.float64)
    return elements, in_order(np.ascontiguousarray((misses * misses).T))


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
