"""A converted checkpoint's folder -> a network that runs. Nothing is defaulted, skipped or reshaped on the way.

The network is built from `config.json`, its modules are quantized as `config.json` says, and the headers must then list
exactly the tensors that it has. Only after that are the weights read.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from ..schemas import validate
from ..schemas.errors import (
    ConfigError,
    MissingTensorError,
    ShardError,
    TensorShapeError,
    UnknownTensorError,
    UsageError,
)
from .checkpoint import Checkpoint, TensorInfo, read_config
from .config import ModelConfig
from .model import Network, build, language_model
from .module import on_cpu
from .prompt import PromptFormat
from .tables import PLE_TABLE, map_table
from .text import ExpertLinear, LanguageModel
from .values import check_finite

DTYPES: Mapping[str, mx.Dtype] = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
HEADER_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

CLIP_BOUNDS = (".input_min", ".input_max", ".output_min", ".output_max")
EXPERTS = ".experts."
EXACT = (*CLIP_BOUNDS, f"{PLE_TABLE}.weight")
PACKING = (".scales", ".biases")

# How transformers begins the names of a multimodal checkpoint, and MLX never does.
UNCONVERTED = ("model.language_model.", "model.vision_tower.", "model.audio_tower.")

QUANTIZATION_KEYS = {"group_size", "bits", "mode"}

Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class LoadedModel:
    """What `load` returns.

    Attributes:
        network: the modules; the weights of the language model are read, those of towers when they are first used, and
            on the CPU rows of the PLE table whenever they are.
        config: what `config.json` says.
        prompt: the tokenizer, the chat template and the stop tokens.
        dtype: what activations are computed in: float32, bfloat16 or float16.
    """

    network: Network
    config: ModelConfig
    prompt: PromptFormat
    dtype: str

    @property
    def text(self) -> LanguageModel:
        """The part of the network that reads and writes text."""
        return language_model(self.network)


def load(path: str | Path, *, dtype: str | None = None, prompt: PromptFormat | None = None) -> LoadedModel:
    """Load a converted checkpoint; its files stay as they are while the model is in use.

    Args:
        path: its folder.
        dtype: float32, bfloat16 or float16 for activations and unquantized weights. By default that of the checkpoint,
            except on the CPU, where the others are no faster than float32, and some products lack them.
        prompt: what `open_prompt` returned for this checkpoint, where that has been called: a tokenizer takes seconds.

    Raises:
        SourceNotFoundError: there is no such folder.
        ConfigError: a JSON file breaks its schema, or contradicts the network.
        UnsupportedModelError: the architecture is not one of ours.
        CheckpointError: the files are damaged; MissingTensorError, UnknownTensorError and TensorShapeError name the
            tensor that is not what the config calls for, NonFiniteError one that holds NaN or infinity.
        UsageError: `dtype` is not one of the three, or mlx cannot compute in it here.
    """
    folder = Path(path)
    checkpoint = Checkpoint.open(folder)
    _check_converted(folder, checkpoint.tensors)
    _, config = read_config(folder)
    prompt = prompt or PromptFormat.open(folder, config)
    network = build(config)
    quantize(network, config.quantization, checkpoint.tensors)
    check_tensors(network, checkpoint.tensors)
    check_finite(checkpoint.tensors.values(), _modes(network))
    chosen = choose_dtype(dtype, checkpoint.tensors)
    _check_experts(network, chosen)
    if on_cpu():
        map_table(network, checkpoint.tensors)
    network.load_weights(list(_read(checkpoint, parameters_of(network), DTYPES[chosen])), strict=True)
    network.eval()
    mx.eval(language_model(network).parameters())
    return LoadedModel(network, config, prompt, chosen)


def open_prompt(path: str | Path) -> PromptFormat:
    """How a converted checkpoint is spoken to, without its weights; see `load` for what is raised."""
    folder = Path(path)
    _check_converted(folder, Checkpoint.open(folder).tensors)
    _, config = read_config(folder)
    return PromptFormat.open(folder, config)


def _check_converted(folder: Path, tensors: Tensors) -> None:
    if any(name.startswith(UNCONVERTED) for name in tensors):
        raise UsageError(
            "this is a Hugging Face checkpoint", where=folder, fix="convert it first, with g4convert hf-to-mlx"
        )


def choose_dtype(asked: str | None, tensors: Tensors) -> str:
    """The compute dtype: what is asked for, else float32 on the CPU, else what the final norm is stored in.

    Raises:
        UsageError: `asked` is not a dtype to compute in.
    """
    if asked is not None:
        if asked not in DTYPES:
            raise UsageError(f"the dtype {asked!r} is not one of {', '.join(DTYPES)}")
        return asked
    if on_cpu():
        return "float32"
    return next(HEADER_DTYPES[info.dtype] for name, info in tensors.items() if name.endswith("model.norm.weight"))


def _check_experts(network: Network, dtype: str) -> None:
    plain = any(isinstance(module, ExpertLinear) for module in network.modules())
    if plain and on_cpu() and dtype != "float32":
        raise UsageError(f"mlx cannot compute unquantized experts in {dtype} on the CPU", fix="use float32")


def quantize(network: Network, quantization: Mapping[str, Any] | None, tensors: Tensors) -> None:
    """Replace the modules that the checkpoint holds packed, as `quantization` in `config.json` says.

    A module's own entry decides; without one, a module whose weight is packed takes the settings at the top.

    Raises:
        ConfigError: an entry names no module, or settings that its weight does not allow.
    """
    if quantization is None:
        return
    validate(quantization, "quantization", where="config.json")
    default = {key: value for key, value in quantization.items() if key in QUANTIZATION_KEYS}
    entries = {path: entry for path, entry in quantization.items() if path not in QUANTIZATION_KEYS}
    _check_paths(entries, dict(network.named_modules()))

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        entry = entries.get(path, default if _is_packed(f"{path}.weight", tensors) else False)
        return settings(path, module, entry)

    nn.quantize(network, class_predicate=choose)


def _check_paths(entries: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> None:
    """Every entry names a module, and one that can be quantized where it says how."""
    for path, entry in entries.items():
        if path not in modules:
            raise ConfigError(f"quantization names {path}, which is no module of the model", where="config.json")
        if entry is not False and not hasattr(modules[path], "to_quantized"):
            raise ConfigError(f"quantization names {path}, which holds no weight to quantize", where="config.json")


def _is_packed(name: str, tensors: Tensors) -> bool:
    return name in tensors and tensors[name].dtype == "U32"


def settings(path: str, module: nn.Module, entry: Mapping[str, Any] | bool) -> bool | dict[str, Any]:
    """What `nn.quantize` does with a module: False, or the arguments of its `to_quantized`.

    Raises:
        ConfigError: the module cannot be quantized so.
    """
    if isinstance(entry, bool):
        return False
    try:
        # Lazy: this asks mlx whether it takes the settings, and computes nothing.
        mx.quantize(module["weight"], **entry)
    except ValueError as error:
        raise ConfigError(f"quantization of {path} is not possible: {error}", where="config.json") from None
    return dict(entry)


def check_tensors(network: Network, tensors: Tensors) -> None:
    """The headers must list exactly the network's parameters, with their shapes and kinds of dtype.

    Raises:
        MissingTensorError: the network has a parameter that the checkpoint lacks.
        UnknownTensorError: the checkpoint has a tensor that the network lacks.
        TensorShapeError: a tensor has another shape, or packed words where numbers belong, or the reverse.
    """
    expected = parameters_of(network)
    if missing := expected.keys() - tensors.keys():
        raise MissingTensorError(f"the checkpoint lacks this tensor{_others(missing)}", where=min(missing))
    if surplus := tensors.keys() - expected.keys():
        raise UnknownTensorError(f"the model has no such parameter{_others(surplus)}", where=min(surplus))
    for name, parameter in expected.items():
        _check_tensor(tensors[name], parameter)


def _others(names: set[str]) -> str:
    return f" and {len(names) - 1} others" if len(names) > 1 else ""


def _check_tensor(info: TensorInfo, parameter: mx.array) -> None:
    allowed = _header_dtypes(parameter.dtype)
    if info.dtype not in allowed:
        raise TensorShapeError(f"the dtype is {info.dtype}, not {' or '.join(allowed)}", where=info.name)
    if info.shape != parameter.shape:
        found, called_for = list(info.shape), list(parameter.shape)
        raise TensorShapeError(f"the shape is {found}, the config calls for {called_for}", where=info.name)


def _header_dtypes(dtype: mx.Dtype) -> tuple[str, ...]:
    """How safetensors may spell the dtype of a parameter: packed words and the scales of mx* and nv* are exact."""
    return {mx.uint32: ("U32",), mx.uint8: ("U8",)}.get(dtype, tuple(HEADER_DTYPES))


def _modes(network: Network) -> dict[str, str]:
    """How modules are packed, by their paths."""
    return {path: module.mode for path, module in network.named_modules() if hasattr(module, "mode")}


def parameters_of(network: Network) -> dict[str, mx.array]:
    """A network's parameters by name."""
    found: Any = tree_flatten(network.parameters())
    return dict(found)


def _read(checkpoint: Checkpoint, names: Container[str], dtype: mx.Dtype) -> Iterator[tuple[str, mx.array]]:
    """Tensors by name, lazily, in the dtypes that they are computed with.

    Raises:
        ShardError: mlx cannot read a shard.
    """
    for shard in checkpoint.shards:
        try:
            tensors: Any = mx.load(str(shard), format="safetensors")
        except RuntimeError as error:
            raise ShardError(f"mlx cannot read it: {error}", where=shard.name) from None
        yield from ((name, cast(name, tensor, dtype)) for name, tensor in tensors.items() if name in names)


def cast(name: str, tensor: mx.array, dtype: mx.Dtype) -> mx.array:
    """A tensor in the compute dtype, unless it is packed, a clip bound, or the table whose rows are only looked up.

    The scales of packed weights stay as they are on the CPU, see `packed_product`; those of experts are float32 there,
    because a product with a few experts would cast those of all.
    """
    if not mx.issubdtype(tensor.dtype, mx.floating) or name.endswith(EXACT):
        return tensor
    if on_cpu() and name.endswith(PACKING):
        return tensor.astype(mx.float32) if EXPERTS in name else tensor
    return tensor.astype(dtype)
