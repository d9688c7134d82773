"""The text model's own promises: what is left out changes nothing, and packed weights mean what they hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import text
from g4convert.loaders.cache import make_caches
from g4convert.loaders.config import RopeConfig
from g4convert.loaders.masks import NO_BLOCK
from g4convert.loaders.model import language_model
from g4convert.schemas.errors import ConfigError
from g4convert.tests.loaders.samples import WINDOW, moe_block, multimodal, random_network, text_only
from mlx import nn

LENGTH = 2 * WINDOW + 3
DOCUMENTS = {
    "ple": text_only(),
    "moe": multimodal(moe_block(), vision_config=None, audio_config=None),
    "untied": text_only(tie_word_embeddings=False),
}
MODES = [("affine", 32, 4), ("affine", 32, 8), ("affine", 32, 3), ("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)]


@pytest.fixture(params=DOCUMENTS)
def network(request: pytest.FixtureRequest) -> text.LanguageModel:
    return language_model(random_network(DOCUMENTS[request.param]))


def ids(length: int = LENGTH, batch: int = 1) -> mx.array:
    return mx.random.randint(10, 200, (batch, length), key=mx.random.key(length))


def close(ours: mx.array, theirs: mx.array, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("chunk", [1, 3, WINDOW - 1, WINDOW, WINDOW + 1, LENGTH])
def test_chunks_do_not_change_the_logits(network: text.LanguageModel, chunk: int) -> None:
    tokens, caches = ids(), make_caches(network.config)

    pieces = [network(tokens[:, start : start + chunk], caches) for start in range(0, LENGTH, chunk)]

    close(mx.concatenate(pieces, axis=1), network(tokens))


@pytest.mark.parametrize("length", [1, 2, WINDOW, LENGTH])
def test_the_last_position_alone_says_the_same(network: text.LanguageModel, length: int) -> None:
    tokens = ids(length)

    last = network(tokens, last_only=True)

    assert last.shape == (1, 1, network.config.vocab_size)
    close(last, network(tokens)[:, -1:])


def test_the_last_position_alone_fills_the_caches_all_the_same(network: text.LanguageModel) -> None:
    tokens, whole, last = ids(), make_caches(network.config), make_caches(network.config)
    network(tokens, whole)
    network(tokens, last, last_only=True)

    close(network(tokens[:, :1], last), network(tokens[:, :1], whole))


def test_rows_of_a_batch_do_not_mix(network: text.LanguageModel) -> None:
    tokens = ids(batch=3)

    close(network(tokens)[1:2], network(tokens[1:2]))


def test_a_vision_block_sees_itself_on_sliding_layers(network: text.LanguageModel) -> None:
    inputs = network.model.embed(ids())
    blocks = np.full(LENGTH, NO_BLOCK, np.int32)
    same = network(replace(inputs, blocks=blocks))
    blocks[2:6] = 0
    other = network(replace(inputs, blocks=blocks))

    close(same, network(ids()))
    close(other[:, :2], same[:, :2])
    assert not np.allclose(np.array(other[:, 2]), np.array(same[:, 2]), atol=1e-2)
    close(network(replace(inputs, blocks=blocks), last_only=True), other[:, -1:])


def test_inputs_without_the_ple_rows_are_refused() -> None:
    network = language_model(random_network(text_only()))
    embeddings = network.model.embed(ids()).embeddings

    with pytest.raises(ValueError, match="per-layer embeddings"):
        network(text.TextInputs(embeddings))


@pytest.mark.parametrize(("mode", "group_size", "bits"), MODES)
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_packed_weights_compute_what_they_hold(kind: str, mode: str, group_size: int, bits: int) -> None:
    packed = language_model(random_network(DOCUMENTS[kind]))
    plain = language_model(random_network(DOCUMENTS[kind]))
    nn.quantize(packed, group_size=group_size, bits=bits, mode=mode)
    holds = dict(packed.named_modules())
    for path, module in plain.named_modules():
        if hasattr(module, "to_quantized"):
            module.weight = dequantized(holds[path])

    close(packed(ids()), plain(ids()), 1e-4)


def dequantized(module: Any) -> mx.array:
    kinds = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
    return mx.dequantize(module.weight, module.scales, module.get("biases"), **kinds, dtype=mx.float32)


@pytest.mark.parametrize("rows", [1, 31, 32, 200])
def test_sorting_by_expert_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = text.SwitchGLU(8, 32, 32)
    for index, module in enumerate((experts.gate_proj, experts.up_proj, experts.down_proj)):
        module.weight = mx.random.normal(module.weight.shape, key=mx.random.key(index))
    x = mx.random.normal((1, rows, 32), key=mx.random.key(7))
    chosen = mx.random.randint(0, 8, (1, rows, 2), key=mx.random.key(8))

    usual = experts(x, chosen)
    monkeypatch.setattr(text, "SORT_FROM", 10**9)

    close(usual, experts(x, chosen))


def test_the_weights_of_a_tokens_experts_sum_to_one() -> None:
    network = language_model(random_network(DOCUMENTS["moe"]))
    router = network.model.layers[0].router
    router.per_expert_scale = mx.ones_like(router.per_expert_scale)

    experts, weights = router(mx.random.normal((2, 5, 32), key=mx.random.key(0)))

    assert experts.shape == weights.shape == (2, 5, 2)
    close(weights.sum(-1), mx.ones((2, 5)))


def test_proportional_rotation_divides_by_the_whole_head() -> None:
    periods = text.rotary_periods(RopeConfig(10000.0, "proportional", 0.25), 16)

    assert periods[:2].tolist() == [1.0, np.float32(10000.0 ** (2 / 16))]
    assert np.isinf(periods[2:]).all()
    assert np.isfinite(text.rotary_periods(RopeConfig(10000.0, "default", 0.25), 16)).all()


def test_a_kind_of_rotation_that_we_do_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="yarn"):
        text.rotary_periods(RopeConfig(10000.0, "yarn"), 16)


def test_the_compute_dtype_is_that_of_the_norms() -> None:
    network = language_model(random_network(text_only()))
    network.set_dtype(mx.float32)
    network.model.embed_tokens_per_layer.set_dtype(mx.bfloat16)

    assert network(ids()).dtype == mx.float32


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_pass_keeps_the_keys_and_values_that_later_layers_read_and_no_others(document: dict[str, Any]) -> None:
    network = language_model(random_network(document))
    config, step = network.config, text.Pass(0, network.config.sliding_window, {})
    for layer in network.model.layers:
        layer.self_attn.keys_values(mx.zeros((1, 3, config.hidden_size)), step)

    assert set(step.shared) == {layer.kv_source for layer in config.layers if not layer.owns_kv}
