"""The sample that was trained for four bits computes the same when it is packed on its grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert import Options, hf_to_mlx
from g4convert.convert.source import open_source
from g4convert.loaders.model import Network, language_model
from g4convert.loaders.prompt import PromptFormat
from g4convert.tests.convert.qat_variants import four_bit_steps
from g4convert.tests.support import CHECKPOINTS, read_json
from g4convert.tests.unpacking import Logits, divergence, load_source, text_network, unpacked
from mlx import nn

QAT = CHECKPOINTS / "e2b-qat"
Change = Callable[[mx.array], mx.array]


def unchanged(weight: mx.array) -> mx.array:
    return weight


def rounded(weight: mx.array) -> mx.array:
    """As a runtime in bfloat16 holds an unpacked weight."""
    return weight.astype(mx.bfloat16).astype(mx.float32)


def by_mlx(weight: mx.array) -> mx.array:
    """Through MLX's own quantizer, in the same format."""
    packed = mx.quantize(weight.astype(mx.bfloat16), group_size=32, bits=4)
    words, scales, biases = packed
    exact = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(words, *exact, group_size=32, bits=4, dtype=mx.float32)


@dataclass(frozen=True)
class Pair:
    """A source and its conversion on the grid."""

    source: Path
    output: Path

    def exact(self) -> Logits:
        """What the source computes."""
        network = text_network(open_source(self.source))
        load_source(network, open_source(self.source))
        return self._logits(network)

    def packed(self, change: Change = unchanged) -> Logits:
        """What the conversion computes in float32, its weights unpacked and changed."""
        network = text_network(open_source(self.source))
        names = load_source(network, open_source(self.source))
        weights, _ = unpacked(self.output, names)
        network.load_weights([(name, change(weight)) for name, weight in weights], strict=True)
        return self._logits(network)

    def quantized_by_mlx(self) -> Logits:
        """What the source computes after `mx.quantize` of the same matrices."""
        network = text_network(open_source(self.source))
        names = load_source(network, open_source(self.source))
        tensors = read_json(self.output / "conversion.json")["tensors"]
        grids = {name for name, entry in tensors.items() if "grid" in (entry["quantization"] or {})}
        flat = dict(nn.utils.tree_flatten(network.parameters()))
        network.load_weights([(name, by_mlx(flat[name]) if name in grids else flat[name]) for name in names])
        return self._logits(network)

    def _logits(self, network: Network) -> Logits:
        form = PromptFormat.open(self.source, open_source(self.source).config)
        asked = read_json(CHECKPOINTS / "questions" / "text.json")["questions"][:12]
        ids = [
            token for one in asked for token in (*form.prepare(one["question"]).ids, *form.encode(one["answer"])[1:])
        ]
        return np.array(language_model(network)(mx.array([ids]))).astype(np.float64)


def nmse(exact: Logits, found: Logits) -> float:
    return float(((exact - found) ** 2).sum() / (exact**2).sum())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    output = tmp_path_factory.mktemp("qat") / "out"
    hf_to_mlx(QAT, output, options=Options())
    return Pair(QAT, output)


def test_every_group_is_on_the_grid(pair: Pair) -> None:
    packings = [entry["quantization"] for entry in read_json(pair.output / "conversion.json")["tensors"].values()]
    codes = [packing for packing in packings if packing and packing["part"] == "weight"]

    assert all(packing["grid"]["exact"] == packing["grid"]["groups"] for packing in codes)
    assert sum(packing["grid"]["groups"] for packing in codes) > 30_000


def test_rounded_to_bfloat16_it_computes_what_the_source_computes(pair: Pair) -> None:
    assert nmse(pair.exact(), pair.packed(rounded)) <= 1e-10


def test_steps_of_four_bits_need_no_rounding(tmp_path: Path) -> None:
    source = four_bit_steps(tmp_path / "source")
    hf_to_mlx(source, tmp_path / "out")
    pair = Pair(source, tmp_path / "out")

    assert nmse(pair.exact(), pair.packed()) <= 1e-10


def test_without_rounding_it_loses_a_hundredth_of_what_mlx_loses(pair: Pair) -> None:
    exact = pair.exact()

    ours, theirs = (float(divergence(exact, found).mean()) for found in (pair.packed(), pair.quantized_by_mlx()))

    assert 0 < ours < 1e-3
    assert theirs > 100 * ours
