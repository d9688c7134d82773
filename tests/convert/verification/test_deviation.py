"""Another tool's rounding is recognised as rounding, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert.quantize import STORAGE, Floats, Packed, quantize
from g4convert.convert.recipe import AFFINE, AFFINE_BITS, FIXED_MODES, Quantization
from g4convert.convert.verification.deviation import Deviation, decode, deviation

SPECS = [
    *(Quantization(bits, group) for bits in AFFINE_BITS for group in (32, 64, 128)),
    *(Quantization(*pair, mode) for mode, pair in FIXED_MODES.items()),
]
SHAPE = (128, 512)
DRAWS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda rng: rng.normal(size=SHAPE),
    "heavy tails": lambda rng: rng.standard_t(3, size=SHAPE),
    "far from zero": lambda rng: 1 + 0.1 * rng.normal(size=SHAPE),
    "mostly zero": lambda rng: rng.normal(size=SHAPE) * (rng.random(SHAPE) < 0.02),
    "tiny": lambda rng: 1e-3 * rng.normal(size=SHAPE),
}


def weights_of(draw: str) -> Floats:
    """Weights float32 [128, 512] that bfloat16 holds."""
    drawn = 0.05 * DRAWS[draw](np.random.default_rng(7))
    return np.asarray(drawn.astype(ml_dtypes.bfloat16).astype(np.float32))


def by_mlx(weights: Floats, spec: Quantization, storage: str) -> Packed:
    """What `mx.quantize` makes of weights."""
    dtype = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}[storage]
    array = mx.array(weights).astype(dtype)
    code, *companions = mx.quantize(array, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    words = np.array(code).view(np.uint8)
    if spec.mode != AFFINE:
        return Packed(words, np.array(companions[0]), None)
    scales, biases = (np.array(part.astype(mx.float32)).astype(STORAGE[storage]) for part in companions)
    return Packed(words, scales, biases)


def compared(weights: Floats, packed: Packed, spec: Quantization) -> Deviation:
    return deviation(weights, decode(packed, spec), packed, spec)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rounding_is_rounding(spec: Quantization, draw: str) -> None:
    weights = weights_of(draw)

    for packed in (by_mlx(weights, spec, "BF16"), quantize(weights, spec, "BF16")):
        assert not compared(weights, packed, spec).wrong.any()


@pytest.mark.parametrize("storage", ["F16", "F32"])
@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_rounding_with_other_scales(bits: int, storage: str) -> None:
    weights, spec = weights_of("normal"), Quantization(bits, 64)

    for packed in (by_mlx(weights, spec, storage), quantize(weights, spec, storage)):
        assert not compared(weights, packed, spec).wrong.any()


def next_row(packed: Packed) -> Packed:
    biases = None if packed.biases is None else np.roll(packed.biases, 1, 0)
    return Packed(np.roll(packed.weight, 1, 0), np.roll(packed.scales, 1, 0), biases)


MISTAKES: dict[str, Callable[[Packed], Packed]] = {
    "rows shifted": next_row,
    "scales shifted": lambda packed: replace(packed, scales=np.roll(packed.scales, 1, 1)),
    "codes shifted": lambda packed: replace(packed, weight=np.roll(packed.weight, 8, 1)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_mistake_is_no_rounding(spec: Quantization, mistake: str) -> None:
    weights = weights_of("normal")
    packed = MISTAKES[mistake](by_mlx(weights, spec, "BF16"))

    found = compared(weights, packed, spec)

    assert found.wrong.mean() > 0.05


def test_one_group_that_is_wrong_is_the_one_that_is_named() -> None:
    weights, spec = weights_of("normal"), Quantization(4, 64)
    packed = by_mlx(weights, spec, "BF16")
    packed.weight[17, 3 * 32 : 4 * 32] = 0

    found = compared(weights, packed, spec)

    assert np.argwhere(found.wrong).tolist() == [[17, 3]]


def test_scales_that_are_no_numbers() -> None:
    weights, spec = weights_of("normal"), Quantization(4, 64)
    packed = by_mlx(weights, spec, "BF16")
    packed.scales[2, 1] = np.nan
    packed.scales[2, 2] = np.inf

    assert np.argwhere(compared(weights, packed, spec).wrong).tolist() == [[2, 1], [2, 2]]
