"""The text backbone against logits of transformers (`tests/parity/make_goldens.py`), and deliberate bugs against them.

The parity tests compare more lengths and chunks; these run without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import masks, text
from g4convert.loaders.cache import make_caches
from g4convert.loaders.config import RopeConfig
from g4convert.loaders.loading import load
from g4convert.tests.loaders.samples import weights_sha256
from g4convert.tests.support import KINDS
from mlx import nn

GOLDENS = Path(__file__).parents[1] / "goldens"
LARGEST_NMSE, LARGEST_KL = 1e-10, 2e-10

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Golden:
    """A loaded sample and what it must say: `logits` [positions, vocabulary] for `ids` [1, L]."""

    network: text.LanguageModel
    ids: mx.array
    positions: np.ndarray
    logits: np.ndarray

    def nmse(self, logits: mx.array) -> float:
        """Normalised mean squared error of logits [1, L, vocabulary]."""
        difference = np.array(logits[0])[self.positions].astype(np.float64) - self.logits
        return float((difference**2).sum() / (self.logits.astype(np.float64) ** 2).sum())


@pytest.fixture(scope="module")
def goldens(converted: Callable[..., Path]) -> Callable[[str], Golden]:
    loaded: dict[str, Golden] = {}

    def get(kind: str) -> Golden:
        if kind not in loaded:
            saved = np.load(GOLDENS / f"text-{kind}.npz")
            network = load(converted(kind, quantize=False, dtype="float32")).text
            loaded[kind] = Golden(network, mx.array(saved["ids"])[None], saved["positions"], saved["logits"])
        return loaded[kind]

    return get


@pytest.fixture(autouse=True)
def fresh_masks() -> Iterator[None]:
    """A mutated mask must not stay in the cache."""
    masks.sliding_mask.cache_clear()
    yield
    masks.sliding_mask.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_belongs_to_its_sample(kind: str) -> None:
    saved = str(np.load(GOLDENS / f"text-{kind}.npz")["sha256"])

    assert saved == weights_sha256(kind), "the sample was made anew: run tests/parity/make_goldens.py"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 7, 32, 1000])
def test_logits_are_those_of_transformers(goldens: Callable[[str], Golden], kind: str, chunk: int) -> None:
    golden = goldens(kind)
    caches = make_caches(golden.network.config)

    length = golden.ids.shape[1]
    pieces = [golden.network(golden.ids[:, i : i + chunk], caches) for i in range(0, length, chunk)]
    logits = mx.concatenate(pieces, axis=1)
    ours, theirs = log_softmax(np.array(logits[0])[golden.positions]), log_softmax(golden.logits)

    assert golden.nmse(logits) <= LARGEST_NMSE
    assert (np.exp(theirs) * (theirs - ours)).sum(-1).max() <= LARGEST_KL
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    normalised: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised


def window_off_by_one(patch: Patch, network: text.LanguageModel) -> None:
    patch.setattr(text, "causal_mask", lambda q, k, window=None: masks.causal_mask(q, k, window and window + 1))


def window_ignored(patch: Patch, network: text.LanguageModel) -> None:
    patch.setattr(text, "causal_mask", lambda q, k, _=None: masks.causal_mask(q, k))


def rotation_denominator_of_the_rotated_part(patch: Patch, network: text.LanguageModel) -> None:
    def periods(config: RopeConfig, head_dim: int) -> np.ndarray:
        rotated = int(config.partial_rotary_factor * head_dim)
        inner = config.rope_theta ** (np.arange(0, rotated, 2) / rotated)
        return np.concatenate([inner, np.full((head_dim - rotated) // 2, np.inf)]).astype(np.float32)

    for layer in network.model.layers:
        config = network.config.rope_parameters[layer.layer.attention]
        patch.setattr(layer.self_attn.rope, "_periods", mx.array(periods(config, layer.layer.head_dim)))


def whole_head_rotates(patch: Patch, network: text.LanguageModel) -> None:
    for layer in network.model.layers:
        config = replace(network.config.rope_parameters[layer.layer.attention], rope_type="default")
        periods = text.rotary_periods(config, layer.layer.head_dim)
        patch.setattr(layer.self_attn.rope, "_periods", mx.array(periods))


def values_not_normed(patch: Patch, network: text.LanguageModel) -> None:
    patch.setattr(text, "value_norm", lambda x, _: x)


def layer_scalar_ignored(patch: Patch, network: text.LanguageModel) -> None:
    for layer in network.model.layers:
        patch.setitem(layer, "layer_scalar", mx.ones(1))


def softcap_missing(patch: Patch, network: text.LanguageModel) -> None:
    patch.setattr(text, "softcap", lambda logits, _: logits)


def gate_and_up_swapped(patch: Patch, network: text.LanguageModel) -> None:
    swap(patch, [layer.mlp for layer in network.model.layers], "gate_proj", "up_proj")


def expert_gate_and_up_swapped(patch: Patch, network: text.LanguageModel) -> None:
    swap(patch, [layer.experts.switch_glu for layer in network.model.layers], "gate_proj", "up_proj")


def swap(patch: Patch, modules: list[nn.Module], one: str, other: str) -> None:
    for module in modules:
        first, second = module[one], module[other]
        patch.setitem(module, one, second)
        patch.setitem(module, other, first)


def ple_table_not_scaled(patch: Patch, network: text.LanguageModel) -> None:
    scaled = text.TextModel.embed_ids_per_layer
    width = network.config.hidden_size_per_layer_input
    patch.setattr(text.TextModel, "embed_ids_per_layer", lambda self, ids: scaled(self, ids) / width**0.5)


def ple_left_out(patch: Patch, network: text.LanguageModel) -> None:
    patch.setattr(text.DecoderLayer, "_per_layer", lambda _layer, x, _rows: mx.zeros_like(x))


def tail_reads_another_layer(patch: Patch, network: text.LanguageModel) -> None:
    for layer in network.model.layers:
        if not layer.layer.owns_kv:
            earlier = [
                other.index
                for other in network.config.layers
                if other.owns_kv and other.attention == layer.layer.attention and other.index != layer.layer.kv_source
            ]
            source = earlier[-1] if earlier else layer.layer.kv_source
            patch.setattr(layer.self_attn, "layer", replace(layer.layer, kv_source=source))
            lender = network.model.layers[source].self_attn
            patch.setattr(lender, "layer", replace(lender.layer, lends_kv=True))


def tail_rotated_as_one_token_later(patch: Patch, network: text.LanguageModel) -> None:
    for layer in network.model.layers:
        if not layer.layer.owns_kv:
            rope = layer.self_attn.rope
            patch.setattr(layer.self_attn, "rope", lambda x, offset, rope=rope: rope(x, offset + 1))


def embeddings_not_scaled(patch: Patch, network: text.LanguageModel) -> None:
    patch.setattr(text.TextModel, "embed_ids", lambda self, ids: self._rows(self.embed_tokens, ids))


def exact_gelu(patch: Patch, network: text.LanguageModel) -> None:
    patch.setattr(text, "gelu", nn.gelu)


def experts_weighted_alike(patch: Patch, network: text.LanguageModel) -> None:
    # Without the division alone nothing would change: the norm behind the experts takes any common factor out.
    patch.setattr(text, "renormalise", lambda weights: mx.ones_like(weights) / weights.shape[-1])


def router_scale_ignored(patch: Patch, network: text.LanguageModel) -> None:
    for layer in network.model.layers:
        patch.setitem(layer.router, "scale", mx.ones_like(layer.router.scale))


def experts_see_the_norm_of_the_dense_block(patch: Patch, network: text.LanguageModel) -> None:
    for layer in network.model.layers:
        patch.setitem(layer, "pre_feedforward_layernorm_2", layer.pre_feedforward_layernorm)


def per_expert_scale_ignored(patch: Patch, network: text.LanguageModel) -> None:
    for layer in network.model.layers:
        patch.setitem(layer.router, "per_expert_scale", mx.ones_like(layer.router.per_expert_scale))


def values_from_rotated_keys(patch: Patch, network: text.LanguageModel) -> None:
    project = text.Attention._project

    def mutated(self: text.Attention, x: mx.array, offset: int) -> tuple[mx.array, mx.array]:
        keys, values = project(self, x, offset)
        return keys, values if self.layer.has_v_proj else text.value_norm(keys, self.eps)

    patch.setattr(text.Attention, "_project", mutated)


MUTATIONS = {
    "e4b": [
        window_off_by_one,
        window_ignored,
        rotation_denominator_of_the_rotated_part,
        whole_head_rotates,
        values_not_normed,
        layer_scalar_ignored,
        softcap_missing,
        gate_and_up_swapped,
        ple_table_not_scaled,
        ple_left_out,
        tail_reads_another_layer,
        tail_rotated_as_one_token_later,
        embeddings_not_scaled,
        exact_gelu,
    ],
    "26b-a4b": [
        expert_gate_and_up_swapped,
        experts_weighted_alike,
        router_scale_ignored,
        experts_see_the_norm_of_the_dense_block,
        per_expert_scale_ignored,
        values_from_rotated_keys,
        values_not_normed,
    ],
    "31b": [values_from_rotated_keys, window_off_by_one],
}
CASES = [(kind, mutate) for kind, mutations in MUTATIONS.items() for mutate in mutations]


@pytest.mark.parametrize(("kind", "mutate"), CASES, ids=[f"{kind}-{mutate.__name__}" for kind, mutate in CASES])
def test_a_bug_does_not_pass(
    goldens: Callable[[str], Golden],
    monkeypatch: Patch,
    kind: str,
    mutate: Callable[[Patch, text.LanguageModel], None],
) -> None:
    golden = goldens(kind)
    mutate(monkeypatch, golden.network)

    assert golden.nmse(golden.network(golden.ids)) > 100 * LARGEST_NMSE
