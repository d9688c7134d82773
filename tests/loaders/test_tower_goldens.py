"""The towers and embedders against what transformers says (`tests/parity/make_goldens.py`), and a tower in float16.

Deliberate bugs must not pass. The parity tests compare stages and many more pictures and clips; these need no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import audio, text, vision
from g4convert.loaders.config import VisionConfig
from g4convert.loaders.loading import load
from g4convert.loaders.model import MultimodalModel
from g4convert.loaders.module import rows
from g4convert.tests.loaders.samples import weights_sha256
from g4convert.tests.loaders.test_towers import LARGE_VISION
from g4convert.tests.loaders.tower_inputs import HEARING, SEEING, golden_inputs, inputs_sha256, pictures
from mlx import nn
from mlx.utils import tree_map

GOLDENS = Path(__file__).parents[1] / "goldens"
LARGEST_NMSE = 1e-10

Patch = pytest.MonkeyPatch
Outputs = dict[str, mx.array]


@dataclass(frozen=True)
class Golden:
    """A loaded sample and what it must make of `golden_inputs`: all of it by name, see `make_goldens`."""

    network: MultimodalModel
    expected: dict[str, np.ndarray]

    def see(self) -> Outputs:
        """Soft tokens and features of all pictures, one after the other."""
        patches, positions, _, _ = map(mx.array, golden_inputs())
        tokens = mx.concatenate(self.network.vision_tower(patches, positions))
        return {"picture_tokens": tokens, "picture_features": self.network.embed_vision(tokens)}

    def hear(self) -> Outputs:
        """Soft tokens and features of all clips, one after the other."""
        _, _, features, mask = map(mx.array, golden_inputs())
        tokens = mx.concatenate(rows(*self.network.audio_tower(features, mask)))
        return {"clip_tokens": tokens, "clip_features": self.network.embed_audio(tokens)}

    def nmse(self, outputs: Outputs) -> float:
        """The largest normalised mean squared error."""
        return max(nmse(output, self.expected[name]) for name, output in outputs.items())


def nmse(found: mx.array, expected: np.ndarray) -> float:
    difference = np.array(found).astype(np.float64) - expected
    return float((difference**2).sum() / (expected.astype(np.float64) ** 2).sum())


@pytest.fixture(scope="module")
def goldens(converted: Callable[..., Path]) -> Callable[[str], Golden]:
    loaded: dict[str, Golden] = {}

    def get(kind: str) -> Golden:
        if kind not in loaded:
            network = load(converted(kind, quantize=False, dtype="float32")).network
            assert isinstance(network, MultimodalModel)
            loaded[kind] = Golden(network, dict(np.load(GOLDENS / f"towers-{kind}.npz")))
        return loaded[kind]

    return get


@pytest.mark.parametrize("kind", SEEING)
def test_a_golden_belongs_to_its_sample_and_inputs(kind: str) -> None:
    saved = np.load(GOLDENS / f"towers-{kind}.npz")
    found = (str(saved["sha256"]), str(saved["inputs"]))

    assert found == (weights_sha256(kind), inputs_sha256()), "run tests/parity/make_goldens.py"


@pytest.mark.parametrize("kind", SEEING)
def test_pictures_are_those_of_transformers(goldens: Callable[[str], Golden], kind: str) -> None:
    golden = goldens(kind)

    assert golden.nmse(golden.see()) <= LARGEST_NMSE


@pytest.mark.parametrize("kind", HEARING)
def test_clips_are_those_of_transformers(goldens: Callable[[str], Golden], kind: str) -> None:
    golden = goldens(kind)

    assert golden.nmse(golden.hear()) <= LARGEST_NMSE


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_packed_towers_run(converted: Callable[..., Path], dtype: str) -> None:
    network = load(converted("e2b"), dtype=dtype).network
    assert isinstance(network, MultimodalModel)
    golden = Golden(network, {})

    outputs = golden.see() | golden.hear()

    assert all(mx.isfinite(output).all() for output in outputs.values())


# Deliberate bugs in what sees.


def columns_and_rows_swapped_in_the_table(patch: Patch, network: MultimodalModel) -> None:
    embedder = network.vision_tower.patch_embedder
    patch.setitem(embedder, "position_embedding_table", embedder.position_embedding_table[::-1])


def columns_and_rows_swapped_in_the_rotation(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, vision, "axial_angles", lambda call, positions, *rest: call(positions[..., ::-1], *rest))


def columns_and_rows_swapped_in_the_pooler(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, vision, "square_indices", lambda call, positions, kernel: call(positions[..., ::-1], kernel))


def wrap(patch: Patch, owner: Any, name: str, changed: Callable[..., object]) -> None:
    """Give `changed` the original function, then its arguments."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args: changed(original, *args))


def rotation_missing(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(vision, "rotate", lambda x, _: x)


def rotation_across_the_axes(patch: Patch, network: MultimodalModel) -> None:
    def mutated(x: mx.array, grid: vision.Grid) -> mx.array:
        one, other = mx.split(x, 2, axis=-1)
        cos, sin = (turn.flatten(-2) for turn in (grid.cos, grid.sin))
        return mx.concatenate([one * cos - other * sin, other * cos + one * sin], axis=-1)

    patch.setattr(vision, "rotate", mutated)


def values_not_normed(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, vision.VisionAttention, "__call__", lambda call, self, *args: unnormed(patch, call, self, *args))


def unnormed(patch: Patch, call: Callable[..., object], *args: object) -> object:
    """The embedder norms by the same function, and must go on doing so."""
    with patch.context() as context:
        context.setattr(vision, "value_norm", lambda x, _: x)
        return call(*args)


def scores_scaled(patch: Patch, network: MultimodalModel) -> None:
    for layer in network.vision_tower.encoder.layers:
        norm = layer.self_attn.q_norm
        patch.setitem(norm, "weight", norm.weight * layer.self_attn.head_dim**-0.5)


def nothing_clipped(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(vision, "clamp", lambda x, *_: x)


def outputs_not_clipped(patch: Patch, network: MultimodalModel) -> None:
    for _, module in network.named_modules():
        if isinstance(module, vision.ClippedLinear):
            patch.setitem(module, "output_min", mx.array(-mx.inf))
            patch.setitem(module, "output_max", mx.array(mx.inf))


def pixels_not_centred(patch: Patch, network: MultimodalModel) -> None:
    def mutated(call: Callable[..., object], self: object, patches: mx.array, positions: mx.array) -> object:
        return call(self, patches / 2 + 0.5, positions)

    wrap(patch, vision.PatchEmbedder, "__call__", mutated)


def another_gelu(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(text, "gelu", nn.gelu_fast_approx)


def padding_seen(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, vision.VisionEncoder, "__call__", lambda call, self, x, p: call(self, x, mx.maximum(p, 0)))


def padding_pooled(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, vision, "pool", lambda call, x, positions, kernel: call(x, mx.maximum(positions, 0), kernel))


def padding_has_a_position(patch: Patch, network: MultimodalModel) -> None:
    """Harmless: nobody looks at padding. It shows that the goldens do not depend on it."""
    wrap(patch, vision.PatchEmbedder, "__call__", lambda call, self, x, p: call(self, x, mx.maximum(p, 0)))


def pooler_not_scaled(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, vision, "pool", lambda call, x, *args: call(x, *args) / x.shape[-1] ** 0.5)


def pooled_by_neighbours(patch: Patch, network: MultimodalModel) -> None:
    def mutated(positions: mx.array, kernel: int) -> mx.array:
        return mx.broadcast_to(mx.arange(positions.shape[1]) // kernel**2, positions.shape[:2])

    patch.setattr(vision, "square_indices", mutated)


def not_standardized(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(vision.VisionTower, "standardize", lambda _, tokens: tokens)


def standardized_scale_first(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(vision.VisionTower, "standardize", lambda self, x: x * self.std_scale - self.std_bias)


def embedder_does_not_norm(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(vision.MultimodalEmbedder, "__call__", lambda self, x: self.embedding_projection(x))


def embedder_norms_last(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(
        vision.MultimodalEmbedder,
        "__call__",
        lambda self, x: text.value_norm(self.embedding_projection(x), self.eps),
    )


# Deliberate bugs in what hears.


def mask_inverted(patch: Patch, network: MultimodalModel) -> None:
    def mutated(call: Callable[..., Any], self: object, features: mx.array, mask: mx.array) -> object:
        return call(self, features, ~mask)[0], mask[:, ::2][:, ::2]

    wrap(patch, audio.AudioTower, "__call__", mutated)


def padding_subsampled_in_the_first_layer(patch: Patch, network: MultimodalModel) -> None:
    padding_subsampled(patch, 1)


def padding_subsampled_in_the_second_layer(patch: Patch, network: MultimodalModel) -> None:
    padding_subsampled(patch, network.audio_tower.config.conv_channels_0)


def padding_subsampled(patch: Patch, channels: int) -> None:
    """The layer with so many input channels does not look at its mask."""

    def mutated(call: Callable[..., Any], self: object, x: mx.array, mask: mx.array) -> object:
        seen = mx.ones_like(mask) if x.shape[-1] == channels else mask
        return call(self, x, seen)[0], mask[:, ::2]

    wrap(patch, audio.SubsampleLayer, "__call__", mutated)


def time_and_frequency_swapped(patch: Patch, network: MultimodalModel) -> None:
    projection = network.audio_tower.subsample_conv_projection
    for layer in (projection.layer0, projection.layer1):
        patch.setitem(layer.conv, "weight", layer.conv.weight.swapaxes(1, 2))


def subsampling_flattened_by_channel(patch: Patch, network: MultimodalModel) -> None:
    layer = network.audio_tower.subsample_conv_projection.input_proj_linear
    channels = network.audio_tower.config.conv_channels_1
    weight = layer.weight.reshape(layer.weight.shape[0], channels, -1).swapaxes(1, 2).flatten(1)
    patch.setitem(layer, "weight", weight)


def window_one_wider(patch: Patch, network: MultimodalModel) -> None:
    def mutated(call: Callable[..., mx.array], config: Any) -> mx.array:
        return call(config) | mx.roll(call(config), -1, -1)

    wrap(patch, audio, "local_window", mutated)


def relative_positions_off_by_one(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, audio, "relative_positions", lambda call, config: mx.roll(call(config), 1, 0))


def relative_positions_reversed(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, audio, "relative_positions", lambda call, config: call(config)[::-1])


def relative_positions_not_shifted(patch: Patch, network: MultimodalModel) -> None:
    def mutated(scores: mx.array, size: int) -> mx.array:
        return mx.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, size - scores.shape[-1])])

    patch.setattr(audio, "shift", mutated)


def softcap_missing(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(audio, "softcap", lambda scores, _: scores)


def per_dim_scale_missing(patch: Patch, network: MultimodalModel) -> None:
    for layer in network.audio_tower.layers:
        patch.setitem(layer.self_attn, "per_dim_scale", mx.zeros_like(layer.self_attn.per_dim_scale))


def key_scale_missing(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(audio, "KEY_SCALE", 1.0)


def query_scale_missing(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(audio, "QUERY_SCALE", 1.0)


def whole_residual(patch: Patch, network: MultimodalModel) -> None:
    for layer in network.audio_tower.layers:
        for block in (layer.feed_forward1, layer.feed_forward2):
            patch.setattr(block, "residual_weight", 1.0)


def convolution_reversed_in_time(patch: Patch, network: MultimodalModel) -> None:
    for layer in network.audio_tower.layers:
        convolution = layer.lconv1d.depthwise_conv1d
        patch.setitem(convolution, "weight", convolution.weight[:, ::-1])


def convolution_sees_the_future(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, audio.DepthwiseConv1d, "__call__", lambda call, self, x: mx.roll(call(self, x), -1, 1))


def gate_and_value_swapped(patch: Patch, network: MultimodalModel) -> None:
    wrap(patch, nn, "glu", lambda call, x: call(mx.roll(x, x.shape[-1] // 2, -1)))


def gelu_for_silu(patch: Patch, network: MultimodalModel) -> None:
    patch.setattr(nn, "silu", nn.gelu)


SEEING_MUTATIONS = {
    "e2b": [
        columns_and_rows_swapped_in_the_table,
        columns_and_rows_swapped_in_the_rotation,
        columns_and_rows_swapped_in_the_pooler,
        rotation_missing,
        rotation_across_the_axes,
        values_not_normed,
        scores_scaled,
        nothing_clipped,
        outputs_not_clipped,
        pixels_not_centred,
        another_gelu,
        padding_seen,
        padding_pooled,
        pooler_not_scaled,
        pooled_by_neighbours,
        embedder_does_not_norm,
        embedder_norms_last,
    ],
    "26b-a4b": [
        rotation_missing,
        padding_seen,
        padding_pooled,
        pooler_not_scaled,
        not_standardized,
        standardized_scale_first,
    ],
    "31b": [not_standardized],
}
HEARING_MUTATIONS = [
    mask_inverted,
    padding_subsampled_in_the_first_layer,
    padding_subsampled_in_the_second_layer,
    time_and_frequency_swapped,
    subsampling_flattened_by_channel,
    window_one_wider,
    relative_positions_off_by_one,
    relative_positions_reversed,
    relative_positions_not_shifted,
    softcap_missing,
    per_dim_scale_missing,
    key_scale_missing,
    query_scale_missing,
    whole_residual,
    convolution_reversed_in_time,
    convolution_sees_the_future,
    gate_and_value_swapped,
    gelu_for_silu,
    nothing_clipped,
    outputs_not_clipped,
    embedder_does_not_norm,
]
SEEING_CASES = [(kind, mutate) for kind, mutations in SEEING_MUTATIONS.items() for mutate in mutations]

Mutate = Callable[[Patch, MultimodalModel], None]


@pytest.mark.parametrize(
    ("kind", "mutate"), SEEING_CASES, ids=[f"{kind}-{mutate.__name__}" for kind, mutate in SEEING_CASES]
)
def test_a_bug_in_what_sees_does_not_pass(
    goldens: Callable[[str], Golden], monkeypatch: Patch, kind: str, mutate: Mutate
) -> None:
    golden = goldens(kind)
    mutate(monkeypatch, golden.network)

    assert golden.nmse(golden.see()) > 100 * LARGEST_NMSE


@pytest.mark.parametrize("mutate", HEARING_MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_bug_in_what_hears_does_not_pass(
    goldens: Callable[[str], Golden], monkeypatch: Patch, mutate: Mutate
) -> None:
    golden = goldens("e2b")
    mutate(monkeypatch, golden.network)

    assert golden.nmse(golden.hear()) > 100 * LARGEST_NMSE


def test_what_stands_at_padding_does_not_matter(goldens: Callable[[str], Golden], monkeypatch: Patch) -> None:
    golden = goldens("e2b")
    padding_has_a_position(monkeypatch, golden.network)

    assert golden.nmse(golden.see()) <= LARGEST_NMSE


# The 26B's tower, with the activations that were measured in it: thousands before the pooler.
LAYERS, NORM, LARGEST_BIAS = 2, 1000.0, 53760.0


@pytest.fixture(scope="module")
def large_tower() -> vision.VisionTower:
    """Random weights that float16 can say, in float32."""
    mx.random.seed(0)
    tower = vision.VisionTower(VisionConfig.from_dict({**LARGE_VISION, "num_hidden_layers": LAYERS}))
    tower.apply(lambda x: mx.random.normal(x.shape) * x.shape[-1] ** -0.5 if x.ndim == 2 else x)
    for layer in tower.encoder.layers:
        layer.post_attention_layernorm.weight *= NORM
        layer.post_feedforward_layernorm.weight *= NORM
    tower.std_bias = mx.random.uniform(-LARGEST_BIAS, LARGEST_BIAS, tower.std_bias.shape)
    tower.std_scale = mx.random.uniform(0.5, 2, tower.std_scale.shape) / LARGEST_BIAS
    tower.update(tree_map(lambda weight: weight.astype(mx.float16).astype(mx.float32), tower.parameters()))
    return tower


def in_half(tower: vision.VisionTower) -> vision.VisionTower:
    half = vision.VisionTower(VisionConfig.from_dict({**LARGE_VISION, "num_hidden_layers": LAYERS}))
    half.update(tree_map(lambda weight: weight.astype(mx.float16), tower.parameters()))
    return half


def test_large_activations_in_float16(large_tower: vision.VisionTower, monkeypatch: Patch) -> None:
    patches, positions = map(mx.array, pictures([(9, 6), (6, 6)]))
    pooled: list[mx.array] = []

    def keep(call: Callable[..., mx.array], *args: object) -> mx.array:
        pooled.append(call(*args))
        return pooled[-1]

    wrap(monkeypatch, vision, "pool", keep)
    expected = mx.concatenate(large_tower(patches, positions))
    found = mx.concatenate(in_half(large_tower)(patches, positions))

    assert mx.abs(pooled[0]).max() > np.finfo(np.float16).max
    assert mx.isfinite(found).all()
    assert nmse(found, np.array(expected)) <= 1e-2**2


def test_a_pooler_in_float16_is_noticed(large_tower: vision.VisionTower, monkeypatch: Patch) -> None:
    patches, positions = map(mx.array, pictures([(9, 6), (6, 6)]))
    wrap(monkeypatch, vision, "pool", lambda call, x, *args: call(x, *args).astype(x.dtype))

    assert not mx.isfinite(mx.concatenate(in_half(large_tower)(patches, positions))).all()
