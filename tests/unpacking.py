"""The language model of a checkpoint, unpacked to float32, whoever packed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from g4convert.convert.source import Source
from g4convert.convert.verification.weights import SourceWeights
from g4convert.loaders.model import Network, build
from g4convert.loaders.streaming import parameter_names
from g4convert.tests.support import read_json
from numpy.typing import NDArray

Logits = NDArray[np.float64]


def text_network(source: Source) -> Network:
    """The language model alone, unpacked."""
    return build(replace(source.config, vision=None, audio=None, quantization=None))


def unpacked(folder: Path, names: Sequence[str]) -> tuple[list[tuple[str, mx.array]], int]:
    """Weights of an MLX checkpoint in float32, and the bytes that they take as they are."""
    tensors: dict[str, mx.array] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        loaded: Any = mx.load(str(shard))
        tensors |= loaded
    block = read_json(folder / "config.json")["quantization"]
    found = [(name, _unpacked(name, tensors, block)) for name in names]
    leaves = {f"{name.removesuffix('.weight')}.{leaf}" for name in names for leaf in ("scales", "biases")}
    return found, sum(tensors[name].nbytes for name in {*names, *leaves} & tensors.keys())


def _unpacked(name: str, tensors: Mapping[str, mx.array], block: Mapping[str, Any]) -> mx.array:
    module = name.removesuffix(".weight")
    if f"{module}.scales" not in tensors:
        return tensors[name].astype(mx.float32)
    own = block.get(module)
    packing = own if isinstance(own, dict) else block
    scales, biases = (tensors[f"{module}.{leaf}"].astype(mx.float32) for leaf in ("scales", "biases"))
    size, bits = packing["group_size"], packing["bits"]
    return mx.dequantize(tensors[name], scales, biases, group_size=size, bits=bits, dtype=mx.float32)


def load_source(network: Network, source: Source) -> list[str]:
    """Give a network the weights of its source; their names."""
    names = parameter_names(network.parameters())
    network.load_weights(SourceWeights.of(source, ("text",)).parameters(names), strict=True)
    return names


def log_softmax(values: Logits) -> Logits:
    shifted = values - values.max(-1, keepdims=True)
    found: Logits = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def divergence(exact: Logits, found: Logits) -> Logits:
    """KL of every position, in nats: [..., vocabulary] to [...]."""
    p, q = log_softmax(exact), log_softmax(found)
    total: Logits = (np.exp(p) * (p - q)).sum(-1)
    return total
