"""Samples whose weights are stored packed, as compressed-tensors and transformers write them, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from g4convert.tests.support import WEIGHTS, Tensors, copy_of, edit_json, read_tensors, write_tensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[Any]
Floats = NDArray[np.float32]
BF16 = ml_dtypes.bfloat16
E4M3 = ml_dtypes.float8_e4m3fn

# What Google's w4a16 leaves in bf16: embeddings, router, towers, and everything that is no matrix.
PLAIN = ("embed", "tower", "router", "norm", "lm_head", "per_layer_model_projection", "experts")


def is_linear(name: str, array: Array) -> bool:
    return array.ndim == 2 and not any(part in name for part in PLAIN)


def is_text_matrix(name: str, array: Array) -> bool:
    """Linear layers, and the stacked experts of transformers."""
    return is_linear(name, array) or "experts" in name


def weights_args(**other: Any) -> dict[str, Any]:
    """How compressed-tensors 0.20 writes down the packing of weights."""
    return {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32, "strategy": "group", "dynamic": False,
            "actorder": None, "block_structure": None, **other}  # fmt: skip


def compressed(form: str = "pack-quantized", **other: Any) -> dict[str, Any]:
    """A `quantization_config` of compressed-tensors."""
    group = {"targets": ["Linear"], "weights": weights_args(**other), "input_activations": None, "format": None}
    return {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None,
    }  # fmt: skip


FLOAT8 = {"num_bits": 8, "type": "float", "group_size": None, "actorder": None}


# -- int4 --------------------------------------------------------------------------------------------------------------


def levels_of(weights: Array, scale: Any = BF16) -> tuple[Array, Array]:
    """Integers -8..7 [.., rows, columns] and a scale [.., rows, columns / 32] for every group."""
    groups = weights.astype(np.float32).reshape(*weights.shape[:-1], -1, 32)
    scales = (np.abs(groups).max(-1) / 7.5).astype(scale)
    levels = np.clip(np.rint(groups / np.where(scales == 0, 1, scales).astype(np.float32)[..., None]), -8, 7)
    _add_rare_groups(levels)
    return levels.reshape(weights.shape).astype(np.int8), scales


def _add_rare_groups(levels: Array) -> None:
    """Groups whose levels have a common divisor, lie on one side, or are none at all."""
    rare = ([0, 7], [0, -7, 7], [3, -3], [6, 0, -6], [5, 0], [-8], [7], [-8, 7], [0], [4, -8, 0], [1, 0], [-1])
    flat = levels.reshape(-1, 32)
    for number, pattern in enumerate(rare):
        row = number * len(flat) // len(rare)
        flat[row] = np.resize(pattern, 32)


def pack_int4(levels: Array) -> Array:
    """Eight levels a word, the first in the lowest bits: int32 [.., columns / 8]."""
    codes = (levels.astype(np.int64) + 8).astype(np.uint32).reshape(*levels.shape[:-1], -1, 8)
    words = np.zeros(codes.shape[:-1], np.uint32)
    for place in range(8):
        words |= codes[..., place] << np.uint32(4 * place)
    return words.view(np.int32)


def decode_int4(tensors: Tensors, name: str) -> Floats:
    """What int4 entries mean, one code after the other: float32."""
    words, scales = tensors[f"{name}_packed"].view(np.uint32), tensors[f"{name}_scale"].astype(np.float32)
    columns = [(words >> np.uint32(4 * place) & np.uint32(15)).astype(np.int32) - 8 for place in range(8)]
    levels = np.stack(columns, -1).reshape(*words.shape[:-1], -1)
    return np.stack([levels[..., c].astype(np.float32) * scales[..., c // 32] for c in range(levels.shape[-1])], -1)


def int4_entries(name: str, weights: Array, scale: Any = BF16) -> Tensors:
    levels, scales = levels_of(weights, scale)
    return {
        f"{name}_packed": pack_int4(levels),
        f"{name}_scale": scales,
        f"{name}_shape": np.array(weights.shape, np.int64),
    }


# -- FP8 ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Float8:
    """A way to scale FP8 weights.

    Attributes:
        config: the `quantization_config`.
        block: rows and columns that share a scale; None is all.
        shape: of the scale of a matrix, from that of one scale a block.
        ending: of the scale's name.
        dtype: of the scale.
    """

    config: Mapping[str, Any]
    block: tuple[int | None, int | None]
    shape: Callable[[Array], Array] = lambda scale: scale
    ending: str = "_scale"
    dtype: Any = np.float32

    def entries(self, name: str, weights: Array) -> Tensors:
        scales = _per_block(weights.astype(np.float32), self.block)
        spread = _spread(scales.astype(self.dtype).astype(np.float32), weights.shape, self.block)
        codes = np.clip(weights.astype(np.float32) / spread, -448, 448).astype(E4M3)
        return {name: codes, name + self.ending: self.shape(scales.astype(self.dtype))}

    def decode(self, tensors: Tensors, name: str) -> Array:
        """What FP8 entries mean: bfloat16."""
        codes, scales = tensors[name], tensors[name + self.ending].astype(np.float32)
        rows, columns = (
            1 if size is None else -(-whole // size) for size, whole in zip(self.block, codes.shape[-2:], strict=True)
        )
        spread = _spread(scales.reshape(*codes.shape[:-2], rows, columns), codes.shape, self.block)
        return (codes.astype(np.float32) * spread).astype(BF16)


def _edges(whole: int, size: int | None) -> list[slice]:
    step = size or whole
    return [slice(start, min(start + step, whole)) for start in range(0, whole, step)]


def _per_block(weights: Floats, block: tuple[int | None, int | None]) -> Floats:
    rows, columns = (_edges(whole, size) for whole, size in zip(weights.shape[-2:], block, strict=True))
    peaks = [[np.abs(weights[..., r, c]).max((-2, -1)) for c in columns] for r in rows]
    scales: Floats = (np.moveaxis(np.array(peaks), (0, 1), (-2, -1)) / 448 + 1e-6).astype(np.float32)
    return scales


def _spread(scales: Floats, shape: Sequence[int], block: tuple[int | None, int | None]) -> Floats:
    spread = np.empty(tuple(shape), np.float32)
    rows, columns = (_edges(whole, size) for whole, size in zip(shape[-2:], block, strict=True))
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            spread[..., r, c] = scales[..., i, j, None, None]
    return spread


def _scalar(scale: Array) -> Array:
    return scale.reshape(())


def _one(scale: Array) -> Array:
    return scale.reshape(1)


def _row(scale: Array) -> Array:
    return scale[..., 0]


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": ["lm_head"]}
BLOCKS = (128, 128)
FLOAT8_KINDS: Mapping[str, Float8] = {
    "tensor": Float8(compressed("float-quantized", **FLOAT8, strategy="tensor"), (None, None), _one, dtype=BF16),
    "scalar": Float8({**FP8, "activation_scheme": "static"}, (None, None), _scalar),
    "channel": Float8(compressed("float-quantized", **FLOAT8, strategy="channel"), (1, None), dtype=BF16),
    "row": Float8(FP8, (1, None), _row),
    "blocks": Float8({**FP8, "weight_block_size": list(BLOCKS)}, BLOCKS, ending="_scale_inv"),
    "blocks of powers of two": Float8(
        {**FP8, "weight_block_size": list(BLOCKS)}, BLOCKS, ending="_scale_inv", dtype=ml_dtypes.float8_e8m0fnu
    ),
    "small blocks": Float8({**FP8, "weight_block_size": [48, 40]}, (48, 40), ending="_scale_inv"),
    "compressed blocks": Float8(
        compressed("float-quantized", **FLOAT8, strategy="block", block_structure=list(BLOCKS)), BLOCKS, dtype=BF16
    ),
}


# -- checkpoints -------------------------------------------------------------------------------------------------------

Entries = Callable[[str, Array], Tensors]
Chooses = Callable[[str, Array], bool]


def packed_source(
    kind: str, to: Path, entries: Entries, config: Mapping[str, Any], chooses: Chooses = is_linear
) -> Path:
    """A sample with chosen weights packed."""
    folder = copy_of(kind, to)
    stored: Tensors = {}
    for name, array in read_tensors(folder).items():
        stored.update(entries(name, array) if chooses(name, array) else {name: array})
    write_tensors(folder, stored)
    declare(folder, config)
    return folder


def w4a16(kind: str, to: Path, scale: Any = BF16, chooses: Chooses = is_linear) -> Path:
    """A sample as Google's `qat-w4a16-ct` is stored."""
    return packed_source(kind, to, lambda name, array: int4_entries(name, array, scale), compressed(), chooses)


def float8(kind: str, to: Path, how: str, chooses: Chooses = is_linear) -> Path:
    """A sample in FP8."""
    return packed_source(kind, to, FLOAT8_KINDS[how].entries, FLOAT8_KINDS[how].config, chooses)


def declare(folder: Path, config: Mapping[str, Any] | None) -> None:
    """Say how weights are packed."""
    edit_json(folder / "config.json", lambda document: document.update(quantization_config=config))


def sharded(folder: Path, file_of: Callable[[str], str]) -> Path:
    """Spread the tensors of a single-file checkpoint over shards."""
    tensors = read_tensors(folder)
    (folder / WEIGHTS).unlink()
    weight_map = {name: file_of(name) for name in tensors}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
