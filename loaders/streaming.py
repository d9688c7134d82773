"""A network that holds one layer at a time: a layer's weights are read for its turn, and dropped after it.

A pass reads every weight once, so this is for few passes over models larger than the memory: verification, calibration.
Tables are read by row. Everything is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from .checkpoint import Checkpoint, TensorInfo, pread_exactly, read_config
from .linear import dequantize, packing_of
from .loading import LoadedModel, cast, check_tensors, quantize
from .model import MultimodalModel, Network, build, language_model, text_prefix
from .module import Module
from .prompt import PromptFormat
from .text import LanguageModel

# Rows of the output head to multiply with at once: 64 MiB in float32 at a width of 4096.
ROWS_AT_ONCE = 4096

NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "U32": np.dtype(np.uint32),
    "U8": np.dtype(np.uint8),
}

Parameters = list[tuple[str, mx.array]]
After = Callable[[mx.array], mx.array]


def unchanged(x: mx.array) -> mx.array:
    """The output of a layer as it is."""
    return x


class Weights(Protocol):
    """Where a network's parameters come from, read anew each time."""

    def parameters(self, names: Sequence[str]) -> Parameters:
        """Parameters by their names in the MLX checkpoint, ready to compute with in float32."""
        ...

    def rows(self, module: str, start: int, stop: int) -> mx.array:
        """Rows `start` to `stop` of a module's weight, dequantized: float32 [rows, columns]."""
        ...


@dataclass(frozen=True)
class CheckpointWeights:
    """The weights of a converted checkpoint.

    Attributes:
        tensors: the headers.
        packings: by module, how its weight is packed: the arguments of `mx.dequantize`.
    """

    tensors: Mapping[str, TensorInfo]
    packings: Mapping[str, Mapping[str, Any]]

    def parameters(self, names: Sequence[str]) -> Parameters:
        """See `Weights.parameters`."""
        found: Parameters = []
        for file in {self.tensors[name].file for name in names}:
            loaded: Any = mx.load(str(file), format="safetensors")
            found += [(name, cast(name, loaded[name], mx.float32)) for name in names if name in loaded]
        return found

    def rows(self, module: str, start: int, stop: int) -> mx.array:
        """See `Weights.rows`."""
        packing = self.packings.get(module)
        leaves = ["weight"] if packing is None else ["weight", "scales", "biases"]
        stored = [self.tensors[f"{module}.{leaf}"] for leaf in leaves if f"{module}.{leaf}" in self.tensors]
        arrays = [mx.array(read_rows(info, start, stop)) for info in stored]
        return arrays[0].astype(mx.float32) if packing is None else dequantize(arrays, packing)


class Remembered:
    """Weights that keep what was read last, for networks whose calls of one layer follow each other."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._names: tuple[str, ...] = ()
        self._read: Parameters = []
        self._span: tuple[str, int, int] | None = None
        self._rows = mx.zeros(0)

    def parameters(self, names: Sequence[str]) -> Parameters:
        """See `Weights.parameters`."""
        if self._names != tuple(names):
            self._names, self._read = (), []  # so that two layers are never in memory together
            self._read = self._weights.parameters(names)
            self._names = tuple(names)
        return self._read

    def rows(self, module: str, start: int, stop: int) -> mx.array:
        """See `Weights.rows`."""
        if self._span != (module, start, stop):
            self._rows = self._weights.rows(module, start, stop)
            self._span = module, start, stop
        return self._rows


def read_rows(info: TensorInfo, start: int, stop: int) -> NDArray[Any]:
    """Rows of a matrix as they are stored; bfloat16 becomes float32, for mlx does not take it from numpy."""
    row_bytes = info.nbytes // info.shape[0]
    with info.file.open("rb") as stream:
        data = pread_exactly(
            stream.fileno(), (stop - start) * row_bytes, info.offset + start * row_bytes, info.file.name
        )
    rows = np.frombuffer(data, NUMPY_DTYPES[info.dtype]).reshape(stop - start, *info.shape[1:])
    return rows.astype(np.float32) if info.dtype == "BF16" else rows


class Streamed(Module):
    """A module without weights of its own: those of `module` are read for a call, and dropped after it.

    Args:
        module: what to call; its parameters are placeholders that are never computed.
        prefix: what the names of its parameters begin with.
        weights: where they are.
        after: what becomes of the output.
    """

    def __init__(self, module: nn.Module, prefix: str, weights: Weights, after: After) -> None:
        super().__init__()
        # Not an attribute that mlx would take for a child.
        object.__setattr__(self, "_streamed", (module, module.parameters(), prefix, weights, after))

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        """What the module makes of its arguments, evaluated."""
        module, placeholders, prefix, weights, after = self._streamed
        names = [f"{prefix}{name}" for name in parameter_names(placeholders)]
        module.load_weights([(name.removeprefix(prefix), array) for name, array in weights.parameters(names)])
        out: mx.array = after(module(*args, **kwargs))
        mx.eval(out)
        module.update(placeholders)
        mx.clear_cache()
        return out


class StreamedTable(Module):
    """An embedding table, or an output head, of which only some rows are read at a time."""

    def __init__(self, name: str, rows: int, weights: Weights) -> None:
        super().__init__()
        self.name, self.rows, self.weights = name, rows, weights

    def __call__(self, ids: mx.array) -> mx.array:
        """Map ids [B, L] to rows float32 [B, L, columns]."""
        wanted, places = np.unique(np.array(ids), return_inverse=True)
        rows = mx.concatenate([self.weights.rows(self.name, int(row), int(row) + 1) for row in wanted])
        return rows[mx.array(places.reshape(ids.shape))]

    def as_linear(self, x: mx.array) -> mx.array:
        """Map x [..., columns] to [..., rows]."""
        return mx.concatenate([piece for _, piece in self.pieces(x)], axis=-1)

    def pieces(self, x: mx.array) -> Iterator[tuple[int, mx.array]]:
        """The output of `as_linear` piece by piece, each with its first row, evaluated."""
        for start in range(0, self.rows, ROWS_AT_ONCE):
            piece = x @ self.weights.rows(self.name, start, min(start + ROWS_AT_ONCE, self.rows)).T
            mx.eval(piece)
            yield start, piece


class StreamedHead(StreamedTable):
    """An output head that is a module of its own."""

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., columns] to [..., rows]."""
        return self.as_linear(x)


def stream(network: Network, weights: Weights, after: After = unchanged) -> None:
    """Make a network read its weights when it needs them.

    Args:
        network: as `build` made it, quantized where the weights are.
        weights: where its parameters are.
        after: what becomes of the output of each layer.
    """
    text, prefix = language_model(network), text_prefix(network)
    _stream_tables(text, prefix, weights)
    _stream_layers(text.model, f"{prefix}model.", weights, after)
    if isinstance(network, MultimodalModel):
        for path, tower in towers(network).items():
            _stream_layers(tower, f"{path}.", weights, after)
    rest = parameter_names(network.parameters())
    network.load_weights(weights.parameters(rest), strict=True)
    network.eval()


def parameter_names(parameters: Any) -> list[str]:
    """The names of a tree of parameters."""
    flat: Any = tree_flatten(parameters, destination={})
    return list(flat)


def towers(network: MultimodalModel) -> dict[str, Any]:
    """What has layers besides the language model, by its path."""
    found = {"vision_tower.encoder": network.get("vision_tower"), "audio_tower": network.get("audio_tower")}
    return {path: getattr(tower, "encoder", tower) for path, tower in found.items() if tower is not None}


def _stream_layers(owner: Any, prefix: str, weights: Weights, after: After) -> None:
    owner.layers = [
        Streamed(layer, f"{prefix}layers.{index}.", weights, after) for index, layer in enumerate(owner.layers)
    ]


def _stream_tables(text: LanguageModel, prefix: str, weights: Weights) -> None:
    config, model = text.config, text.model
    model["embed_tokens"] = StreamedTable(f"{prefix}model.embed_tokens", config.vocab_size, weights)
    if config.has_ple:
        rows = config.vocab_size_per_layer_input
        model["embed_tokens_per_layer"] = StreamedTable(f"{prefix}model.embed_tokens_per_layer", rows, weights)
    if config.untied:
        text["lm_head"] = StreamedHead(f"{prefix}lm_head", config.vocab_size, weights)


def packings(network: Network) -> dict[str, dict[str, Any]]:
    """How the modules of a quantized network are packed, by their paths."""
    return {path: packing_of(module) for path, module in network.named_modules() if hasattr(module, "bits")}


def open_streamed(folder: Path) -> LoadedModel:
    """A converted checkpoint as `load` would give it, in float32 and with one layer at a time in memory.

    Raises:
        G4ConvertError: see `load`.
    """
    checkpoint = Checkpoint.open(folder)
    _, config = read_config(folder)
    network = build(config)
    quantize(network, config.quantization, checkpoint.tensors)
    check_tensors(network, checkpoint.tensors)
    stream(network, Remembered(CheckpointWeights(checkpoint.tensors, packings(network))))
    return LoadedModel(network, config, PromptFormat.open(folder, config, strict=False), "float32")
