"""Converted checkpoints that contradict themselves: packed weights, and the block of the config that describes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from g4convert.schemas.errors import (
    ConfigError,
    MissingTensorError,
    NonFiniteError,
    TensorShapeError,
    UnknownTensorError,
    UsageError,
)
from g4convert.tests.support import CHECKPOINTS
from numpy.typing import NDArray

from .breaks import EMBEDDING, NORM, UP, Break, Breaks, Damage, beside, changed, document, dropped, tensors

CONFIG = "config.json"
MODULE = "language_model.model.layers.0.mlp.up_proj"
SCALES, BIASES = "layers.0.mlp.up_proj.scales", "layers.0.mlp.up_proj.biases"
SAME = {"bits": 4, "group_size": 64, "mode": "affine"}


def block(**changes: Any) -> Damage:
    """Change the defaults of the quantization."""
    return document(CONFIG, lambda config: config["quantization"].update(changes))


def entry(path: str, setting: Any) -> Damage:
    """Change what is said of one module."""
    return document(CONFIG, lambda config: config["quantization"].update({path: setting}))


def altered(**changes: Any) -> Damage:
    return document(CONFIG, lambda config: config["quantization"][MODULE].update(changes))


def config(**changes: Any) -> Damage:
    return document(CONFIG, lambda content: content.update(changes))


def poisoned(ending: str, value: float) -> Damage:
    def edit(array: NDArray[Any]) -> NDArray[Any]:
        stored = array.copy()
        stored.reshape(-1)[-1] = value
        return stored

    return changed(ending, edit)


def cast(ending: str, dtype: Any) -> Damage:
    return changed(ending, lambda array: array.astype(dtype))


def unconverted(folder: Any) -> None:
    """Weights as Hugging Face has them, beside a converted config."""
    (folder / "model.safetensors").write_bytes((CHECKPOINTS / "e2b" / "model.safetensors").read_bytes())


BREAKS: Breaks = {
    "weights of Hugging Face": Break(unconverted, UsageError, "this is a Hugging Face checkpoint"),
    "NaN in the scales": Break(poisoned(SCALES, float("nan")), NonFiniteError, f"{SCALES} holds NaN or infinity"),
    "infinite scales": Break(poisoned(SCALES, float("inf")), NonFiniteError, f"{SCALES} holds NaN or infinity"),
    "NaN in the biases": Break(poisoned(BIASES, float("nan")), NonFiniteError, f"{BIASES} holds NaN or infinity"),
    "NaN in a norm": Break(poisoned(NORM, float("nan")), NonFiniteError, f"{NORM} holds NaN or infinity"),
    "no scales": Break(dropped(SCALES), MissingTensorError, "lacks this tensor"),
    "no biases": Break(dropped(BIASES), MissingTensorError, "lacks this tensor"),
    "no weight": Break(dropped(UP), MissingTensorError, "lacks this tensor"),
    "scales of half the groups": Break(changed(SCALES, lambda array: array[:, ::2]), TensorShapeError, "calls for ["),
    "scales on their side": Break(changed(SCALES, lambda array: array.T), TensorShapeError, "calls for ["),
    "scales of another dtype": Break(cast(SCALES, np.int32), TensorShapeError, "the dtype is I32"),
    "scales as bytes": Break(cast(SCALES, np.uint8), TensorShapeError, "the dtype is U8"),
    "weight as signed words": Break(changed(UP, lambda array: array.view(np.int32)), TensorShapeError, "the dtype is I32"),
    "weight as bytes": Break(changed(UP, lambda array: array.view(np.uint8)), TensorShapeError, "the dtype is U8"),
    "weight as numbers": Break(cast(UP, np.float32), TensorShapeError, "the dtype is F32"),
    "weight of half a row": Break(changed(UP, lambda array: array[:, ::2]), TensorShapeError, "calls for ["),
    "embedding of half the vocabulary": Break(changed(EMBEDDING, lambda array: array[::2]), TensorShapeError, "calls for ["),
    "zero points besides": Break(beside(UP, "zeros", np.zeros(4, np.float32)), UnknownTensorError, "no such parameter"),
    "scales of what is not packed": Break(beside(NORM, "scales", np.zeros(4, np.float32)), UnknownTensorError, "no such parameter"),
    "a layer too many": Break(tensors(lambda t: t.update({"language_model.model.layers.6.layer_scalar": np.ones(1, np.float32)})), UnknownTensorError, "no such parameter"),
    "no block": Break(document(CONFIG, lambda c: c.pop("quantization")), UnknownTensorError, "no such parameter"),
    "block is null": Break(config(quantization=None), UnknownTensorError, "no such parameter"),
    "block is empty": Break(config(quantization={}), ConfigError, "found no key 'bits'"),
    "block is a list": Break(config(quantization=[4, 64]), ConfigError, "$.quantization"),
    "block of 20,000 ghosts": Break(document(CONFIG, lambda c: c["quantization"].update({f"ghost{i}": 0 for i in range(20_000)})), ConfigError, "of at most 10000 keys"),
    "block of the published name": Break(document(CONFIG, lambda c: c.update(quantization={"quant_method": "awq", "bits": 4})), ConfigError, "found no key 'group_size'"),
    "module without an entry": Break(document(CONFIG, lambda c: (c["quantization"].pop(MODULE), c["quantization"].update(bits=8))), TensorShapeError, "calls for ["),
    "seven bits": Break(altered(bits=7), ConfigError, "found 7"),
    "bits in a word": Break(altered(bits="4"), ConfigError, 'found "4"'),
    "bits as a fraction": Break(altered(bits=4.0), ConfigError, "found 4.0"),
    "10**18 bits": Break(altered(bits=10**18), ConfigError, "found 1000000000000000000"),
    "other bits": Break(altered(bits=8), TensorShapeError, "calls for ["),
    "fewer bits": Break(altered(bits=2), TensorShapeError, "calls for ["),
    "group of zero": Break(altered(group_size=0), ConfigError, "found 0"),
    "group of 48": Break(altered(group_size=48), ConfigError, "found 48"),
    "other group": Break(altered(group_size=32), TensorShapeError, "calls for ["),
    "another mode": Break(altered(mode="mxfp4", group_size=32), UnknownTensorError, "no such parameter"),
    "mode that is none": Break(altered(mode="q4_k"), ConfigError, 'found "q4_k"'),
    "mode with another group": Break(altered(mode="nvfp4"), ConfigError, "with mode nvfp4"),
    "entry is true": Break(entry(MODULE, True), ConfigError, "found true"),
    "entry is null": Break(entry(MODULE, None), ConfigError, "found null"),
    "entry is false": Break(entry(MODULE, False), UnknownTensorError, "no such parameter"),
    "entry has a key too many": Break(altered(bias=True), ConfigError, '"bias"'),
    "entry of a module that does not exist": Break(entry("language_model.ghost", SAME), ConfigError, "which is no module of the model"),
    "entry of a norm": Break(entry("language_model.model.norm", SAME), ConfigError, "which holds no weight to quantize"),
    "entry of a tower's linear": Break(entry("vision_tower.patch_embedder.input_proj", SAME), MissingTensorError, "lacks this tensor"),
    "entry with a path that climbs": Break(entry("../../etc/passwd", SAME), ConfigError, "which is no module of the model"),
    "entry that clears the screen": Break(entry("\x1b[2J", False), ConfigError, "[2J, which is no module"),
    "no audio": Break(config(audio_config=None), ConfigError, "quantization names audio_tower"),
    "no vision": Break(config(vision_config=None), ConfigError, "quantization names embed_vision"),
    "unclipped vision": Break(document(CONFIG, lambda c: c["vision_config"].update(use_clipped_linears=False)), UnknownTensorError, "no such parameter"),
}  # fmt: skip
