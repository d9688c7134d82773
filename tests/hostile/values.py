"""Weights that are no numbers, are not what the config calls for, or are packed in a way that nobody declared."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from g4convert.schemas.errors import (
    MissingTensorError,
    NonFiniteError,
    QuantizedSourceError,
    TensorError,
    TensorShapeError,
    UnknownTensorError,
)
from g4convert.tests.support import Tensors
from numpy.typing import NDArray

from .breaks import (
    BOUND,
    EMBEDDING,
    NORM,
    PLE,
    TOWER,
    UP,
    Break,
    Breaks,
    Damage,
    Refusal,
    beside,
    changed,
    dropped,
    named,
    tensors,
)

SURPLUS = Refusal(UnknownTensorError, "the model has no such parameter")
LACKS = Refusal(MissingTensorError, "the checkpoint lacks this tensor")
DTYPE = Refusal(TensorShapeError, "the dtype is")
SHAPE = "config calls for ["

# Tensors of each kind: packed, looked up, kept, exact, of a tower.
PLACES = {
    "a packed weight": UP, "the embedding": EMBEDDING, "the per-layer table": PLE, "a norm": NORM, "a clip bound": BOUND,
    "a tower": TOWER,
}  # fmt: skip
NO_NUMBERS = {
    "NaN": 0x7FC0, "negative NaN": 0xFFC0, "a signalling NaN": 0x7F81, "infinity": 0x7F80, "minus infinity": 0xFF80,
}  # fmt: skip


def poisoned(ending: str, bits: int) -> Damage:
    """Give the last element of a bfloat16 tensor these bits."""

    def edit(array: NDArray[Any]) -> NDArray[Any]:
        stored = array.copy()
        stored.reshape(-1).view(np.uint16)[-1] = bits
        return stored

    return changed(ending, edit)


def cast(dtype: Any) -> Damage:
    return changed(UP, lambda array: array.astype(np.float32).astype(dtype))


def leaf(name: str, dtype: Any) -> Damage:
    """Add what a method of quantization stores beside a weight."""
    return beside(UP, name, np.zeros((4, 4), dtype))


def packed(name: str, dtype: Any, says: str) -> Break:
    return Break(leaf(name, dtype), QuantizedSourceError, f"already quantized: {says}", SURPLUS)


def misspelt(content: Tensors) -> None:
    name = named(content, UP)
    content[name.replace("weight", "wieght")] = content.pop(name)


BREAKS: Breaks = {
    **{f"NaN in {place}": Break(poisoned(ending, 0x7FC0), NonFiniteError, f"{ending} holds NaN or infinity") for place, ending in PLACES.items()},
    **{f"{name} in a packed weight": Break(poisoned(UP, bits), NonFiniteError, f"{UP} holds NaN or infinity") for name, bits in NO_NUMBERS.items()},
    **{f"{name} in a norm": Break(poisoned(NORM, bits), NonFiniteError, f"{NORM} holds NaN or infinity") for name, bits in NO_NUMBERS.items()},
    "infinite clip bound": Break(poisoned(BOUND, 0x7F80), NonFiniteError, f"{BOUND} holds NaN or infinity"),
    "integers": Break(cast(np.int32), TensorShapeError, "has the dtype I32", DTYPE),
    "bytes": Break(cast(np.uint8), TensorShapeError, "has the dtype U8", DTYPE),
    "truths": Break(cast(np.bool_), TensorShapeError, "has the dtype BOOL", DTYPE),
    "words": Break(cast(np.uint32), TensorShapeError, "has the dtype U32", DTYPE),
    "doubles": Break(cast(np.float64), TensorShapeError, "has the dtype F64", DTYPE),
    "FP8": Break(cast(ml_dtypes.float8_e4m3fn), QuantizedSourceError, "already quantized: FP8", DTYPE),
    "unknown tensor": Break(beside(UP, "extra", np.zeros(4, np.float32)), UnknownTensorError, "up_proj.extra is not part of gemma4", SURPLUS),
    "bias": Break(beside(UP, "bias", np.zeros(128, np.float32)), UnknownTensorError, "up_proj.bias is not part of gemma4", SURPLUS),
    "missing tensor": Break(dropped(UP), MissingTensorError, f"calls for language_model.model.{UP}", LACKS),
    "missing norm": Break(dropped(NORM), MissingTensorError, "calls for language_model.model.norm.weight", LACKS),
    "missing clip bound": Break(dropped(BOUND), MissingTensorError, f"calls for {BOUND}", LACKS),
    "missing tensor of a tower": Break(dropped(TOWER), MissingTensorError, f"calls for {TOWER}", LACKS),
    "no tensors": Break(tensors(lambda content: content.clear()), MissingTensorError, "and 317 more", LACKS),
    "misspelt tensor": Break(tensors(misspelt), UnknownTensorError, "up_proj.wieght is not part of gemma4", LACKS),
    "wrong shape": Break(changed(UP, lambda array: array.T[:, :5]), TensorShapeError, SHAPE),
    "flat": Break(changed(UP, lambda array: array.reshape(-1)), TensorShapeError, SHAPE),
    "one dimension more": Break(changed(UP, lambda array: array[None]), TensorShapeError, SHAPE),
    "empty": Break(changed(UP, lambda array: array[:0]), TensorShapeError, SHAPE),
    "scalar with a dimension": Break(changed(BOUND, lambda array: array.reshape(1)), TensorShapeError, "config calls for []"),
    "a tensor under two names": Break(tensors(lambda content: content.update({f"module.{named(content, NORM)}": content[named(content, NORM)]})), TensorError, "are the same tensor under two names", SURPLUS),
    "GPTQ": packed("qweight", np.int32, "GPTQ or AWQ"),
    "GPTQ's zeros": packed("qzeros", np.int32, "GPTQ or AWQ"),
    "bitsandbytes": packed("absmax", np.float32, "bitsandbytes"),
    "compressed-tensors": packed("weight_packed", np.int32, "compressed-tensors"),
    "block-wise FP8": packed("weight_scale_inv", np.float32, "FP8"),
    "ModelOpt": packed("weight_scale_2", np.float32, "ModelOpt NVFP4"),
    "MLX": packed("scales", np.float32, "MLX"),
}  # fmt: skip
