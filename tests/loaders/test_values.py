"""A weight that is NaN or infinite is found wherever it is and however it is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import checkpoint
from g4convert.loaders.loading import load
from g4convert.loaders.values import EXPONENT_BITS, UNSIGNED, is_finite
from g4convert.schemas.errors import NonFiniteError
from g4convert.tests.loaders.samples import Weights, multimodal, rewrite, text_only, write_checkpoint
from ml_dtypes import bfloat16

UP = "model.layers.0.mlp.up_proj"
NORM = "model.norm.weight"
MXFP4, MXFP8, NVFP4 = (
    {"group_size": group, "bits": bits, "mode": mode}
    for mode, bits, group in (("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16))
)


def last_byte(name: str, value: int) -> Any:
    """Set the last byte of a tensor, or of a word of it the highest."""

    def change(weights: Weights) -> None:
        stored = np.array(weights[name])
        stored.reshape(-1).view(np.uint8)[-1] = value
        weights[name] = mx.array(stored)

    return change


@pytest.mark.parametrize(
    ("packing", "leaf", "byte"),
    [
        (MXFP4, "scales", 0xFF),
        (MXFP8, "scales", 0xFF),
        (NVFP4, "scales", 0x7F),
        (NVFP4, "scales", 0xFF),
        (MXFP8, "weight", 0x7F),
        (MXFP8, "weight", 0xFF),
    ],
)
def test_a_byte_that_is_no_number_is_found(packing: dict[str, Any], leaf: str, byte: int, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, text_only(), quantization={**packing, UP: packing})
    load(folder)
    rewrite(folder, last_byte(f"{UP}.{leaf}", byte))

    with pytest.raises(NonFiniteError, match=rf"{UP}\.{leaf} holds NaN or infinity; convert the checkpoint again"):
        load(folder)


@pytest.mark.parametrize(("packing", "leaf", "byte"), [(MXFP4, "scales", 0x7F), (MXFP4, "weight", 0xFF)])
def test_a_byte_that_is_a_number_elsewhere_is_one(
    packing: dict[str, Any], leaf: str, byte: int, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, text_only(), quantization={**packing, UP: packing})
    rewrite(folder, last_byte(f"{UP}.{leaf}", byte))

    load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_floats_of_every_width_are_looked_through(dtype: mx.Dtype, value: float, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, text_only(), dtype=dtype)
    rewrite(folder, lambda weights: weights.update({NORM: weights[NORM] + mx.array([0] * 31 + [value], dtype)}))

    with pytest.raises(NonFiniteError, match=f"{NORM} holds NaN"):
        load(folder)


def test_large_finite_numbers_are_numbers(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, text_only(), dtype=mx.bfloat16)
    rewrite(folder, lambda weights: weights.update({NORM: mx.full(32, -3.38e38, mx.bfloat16)}))

    load(folder)


def test_towers_are_looked_through_to_their_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BLOCK", 64)
    folder = write_checkpoint(tmp_path, multimodal())
    name = "vision_tower.patch_embedder.input_proj.weight"
    rewrite(folder, last_byte(name, 0xFF))
    rewrite(folder, lambda weights: weights.update({name: mx.where(weights[name] < -1e30, mx.nan, weights[name])}))

    with pytest.raises(NonFiniteError, match=f"{name} holds NaN"):
        load(folder)


@pytest.mark.parametrize(("name", "dtype"), [("F16", np.float16), ("F32", np.float32), ("BF16", bfloat16)])
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_are_told_from_what_is_none(name: str, dtype: Any, sign: int) -> None:
    unsigned = UNSIGNED[np.dtype(dtype).itemsize]
    (largest,) = np.array([EXPONENT_BITS[name] - 1], unsigned).view(dtype).astype(float)
    for value, finite in ((0.0, True), (largest, True), (np.inf, False), (np.nan, False)):
        weights = np.array([1, -1, np.copysign(value, sign), 0.5], dtype)
        assert is_finite(weights.view(unsigned), name) is finite, value
    assert is_finite(np.zeros(0, unsigned), name)
