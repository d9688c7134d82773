"""The sample trained for four bits, and the same levels with other steps behind them.

Its weights are bf16(step * k) with a bfloat16 step for each group of 32. How the steps of published files were rounded
is not known, and it decides how much a storage dtype can give back:

- four significant bits: bfloat16 holds every multiple, so no weight was rounded, nor is one by arithmetic in bfloat16;
- float16 or float32: bfloat16 scales give back some groups, scales of that dtype all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from g4convert.convert.lattice import solve
from g4convert.convert.quantize import STORAGE, unpack
from g4convert.loaders.config import ModelConfig
from g4convert.tests.support import KV_LEAVES, Tensors, copy_of, edit_tensors, read_json
from numpy.typing import NDArray

SAMPLE = "e2b-qat"
GROUP = 32
MATRICES = re.compile(
    r"model\.language_model\.(embed_tokens|embed_tokens_per_layer|layers\.\d+\.(self_attn\.[qkvo]_proj|"
    r"mlp\.(gate|up|down)_proj|per_layer_input_gate|per_layer_projection))\.weight"
)
# A step moves by this share of itself at most: half the distance to bfloat16's next number, or less.
SPREAD = 2.0**-9

Floats = NDArray[np.float32]
Steps = NDArray[np.float64]


def trained_for_four_bits(folder: Path, tensors: Tensors) -> list[str]:
    """The matrices on a grid: those of the language model, but for K/V that no layer reads and no training reached."""
    layers = ModelConfig.from_dict(read_json(folder / "config.json")).text.layers
    unread = tuple(f".{layer.index}.self_attn.{leaf}" for layer in layers for leaf in KV_LEAVES if layer.shares_kv)
    return [name for name in sorted(tensors) if MATRICES.fullmatch(name) and not name.endswith(unread)]


def four_bit_steps(folder: Path) -> Path:
    """The sample, its steps rounded to four significant bits, as a checkpoint in the new folder."""

    def shortened(steps: Steps, _: np.random.Generator) -> Steps:
        mantissas, exponents = np.frexp(steps)
        return np.asarray(np.ldexp(np.rint(mantissas * 16), exponents - 4))

    return _variant(folder, shortened)


def fp16_steps(folder: Path) -> Path:
    """The sample with float16 steps that lie between those of bfloat16, as a checkpoint in the new folder."""
    return _variant(folder, _between("F16"))


def float32_steps(folder: Path) -> Path:
    """The sample with float32 steps that lie between those of bfloat16, as a checkpoint in the new folder."""
    return _variant(folder, _between("F32"))


Change = Callable[[Steps, np.random.Generator], Steps]


def _between(dtype: str) -> Change:
    def moved(steps: Steps, rng: np.random.Generator) -> Steps:
        others = steps * (1 + rng.uniform(-SPREAD, SPREAD, steps.shape))
        return others.astype(STORAGE[dtype]).astype(np.float64)

    return moved


def _variant(folder: Path, change: Change) -> Path:
    copy_of(SAMPLE, folder)

    def edit(tensors: Tensors) -> None:
        rng = np.random.default_rng(0)
        for name in trained_for_four_bits(folder, tensors):
            tensors[name] = _with_steps(tensors[name], change, rng)

    edit_tensors(folder, edit)
    return folder


def _with_steps(matrix: NDArray[Any], change: Change, rng: np.random.Generator) -> NDArray[Any]:
    """The levels of a matrix, multiplied by other steps and rounded to its dtype once."""
    packed = solve(matrix.astype(np.float32), "BF16", "BF16").packed
    levels = unpack(packed.weight, 4).reshape(-1, GROUP).astype(np.float64) - 8
    steps = change(packed.scales.astype(np.float64).reshape(-1, 1), rng)
    weights = (levels * steps + 0.0).astype(np.float32)  # exact; and no -0
    return weights.astype(matrix.dtype).reshape(matrix.shape)
