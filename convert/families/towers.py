"""The vision and audio towers of `gemma4`, and their embedders."""

from __future__ import annotations

from collections.abc import Sequence

from ...loaders.config import AudioConfig, ModelConfig, VisionConfig
from .rules import CONV2D, DEPTHWISE1D, Dims, Dropped, Form, Role, Rule, Table

UNCLIPPED = "the config switches clipping off in this tower"
BOUNDS = ("input_min", "input_max", "output_min", "output_max")


def clipped(module: str, dims: Dims) -> tuple[Rule, ...]:
    """A linear layer in transformers' `Gemma4ClippableLinear`, with its four bounds."""
    bounds = (Rule(f"{module}.{bound}", "", Role.CLIP_BOUND, when="use_clipped_linears") for bound in BOUNDS)
    return (Rule(f"{module}.linear.weight", dims, Role.TOWER), *bounds)


def unclipped(rules: tuple[Rule, ...]) -> tuple[Dropped, ...]:
    """Bounds that a saver wrote although the tower does not clip."""
    bounds = (rule for rule in rules if rule.role is Role.CLIP_BOUND)
    return tuple(Dropped(rule.name, UNCLIPPED, when="unclipped") for rule in bounds)


def _vision(config: ModelConfig) -> Sequence[VisionConfig]:
    return (config.vision,) if isinstance(config.vision, VisionConfig) else ()


def _vision_layers(config: ModelConfig) -> Sequence[VisionConfig]:
    return [tower for tower in _vision(config) for _ in range(tower.num_hidden_layers)]


def _audio(config: ModelConfig) -> Sequence[AudioConfig]:
    return (config.audio,) if isinstance(config.audio, AudioConfig) else ()


def _audio_layers(config: ModelConfig) -> Sequence[AudioConfig]:
    return [tower for tower in _audio(config) for _ in range(tower.num_hidden_layers)]


VISION_RULES = (
    Rule("patch_embedder.input_proj.weight", "hidden_size patch_features", Role.TOWER),
    Rule("patch_embedder.position_embedding_table", "2 position_embedding_size hidden_size", Role.TOWER),
    Rule("std_bias", "hidden_size", when="standardize"),
    Rule("std_scale", "hidden_size", when="standardize"),
)

VISION_LAYER_RULES = (
    *clipped("self_attn.q_proj", "q_size hidden_size"),
    *clipped("self_attn.k_proj", "kv_size hidden_size"),
    *clipped("self_attn.v_proj", "kv_size hidden_size"),
    *clipped("self_attn.o_proj", "hidden_size q_size"),
    Rule("self_attn.q_norm.weight", "head_dim"),
    Rule("self_attn.k_norm.weight", "head_dim"),
    *clipped("mlp.gate_proj", "intermediate_size hidden_size"),
    *clipped("mlp.up_proj", "intermediate_size hidden_size"),
    *clipped("mlp.down_proj", "hidden_size intermediate_size"),
    Rule("input_layernorm.weight", "hidden_size"),
    Rule("post_attention_layernorm.weight", "hidden_size"),
    Rule("pre_feedforward_layernorm.weight", "hidden_size"),
    Rule("post_feedforward_layernorm.weight", "hidden_size"),
)


def _conv2d(name: str, channels_out: Dims, channels_in: Dims) -> Rule:
    """A 3 x 3 convolution, stored channels-last by MLX."""
    form = Form(name, f"{channels_out} {channels_in} 3 3", CONV2D)
    return Rule(name, f"{channels_out} 3 3 {channels_in}", Role.TOWER, also=(form,))


AUDIO_RULES = (
    _conv2d("subsample_conv_projection.layer0.conv.weight", "conv_channels_0", "1"),
    Rule("subsample_conv_projection.layer0.norm.weight", "conv_channels_0"),
    _conv2d("subsample_conv_projection.layer1.conv.weight", "conv_channels_1", "conv_channels_0"),
    Rule("subsample_conv_projection.layer1.norm.weight", "conv_channels_1"),
    Rule("subsample_conv_projection.input_proj_linear.weight", "hidden_size subsampled_size", Role.TOWER),
    Rule("output_proj.weight", "output_proj_dims hidden_size", Role.TOWER),
    Rule("output_proj.bias", "output_proj_dims"),
)


def _feed_forward(name: str) -> tuple[Rule, ...]:
    return (
        *clipped(f"{name}.ffw_layer_1", "feed_forward_size hidden_size"),
        *clipped(f"{name}.ffw_layer_2", "hidden_size feed_forward_size"),
        Rule(f"{name}.pre_layer_norm.weight", "hidden_size"),
        Rule(f"{name}.post_layer_norm.weight", "hidden_size"),
    )


DEPTHWISE = "lconv1d.depthwise_conv1d.weight"

AUDIO_LAYER_RULES = (
    *_feed_forward("feed_forward1"),
    *_feed_forward("feed_forward2"),
    *clipped("self_attn.q_proj", "hidden_size hidden_size"),
    *clipped("self_attn.k_proj", "hidden_size hidden_size"),
    *clipped("self_attn.v_proj", "hidden_size hidden_size"),
    *clipped("self_attn.post", "hidden_size hidden_size"),
    Rule("self_attn.relative_k_proj.weight", "hidden_size hidden_size", Role.TOWER),
    Rule("self_attn.per_dim_scale", "head_dim"),
    *clipped("lconv1d.linear_start", "gated_size hidden_size"),
    *clipped("lconv1d.linear_end", "hidden_size hidden_size"),
    Rule(
        DEPTHWISE,
        "hidden_size conv_kernel_size 1",
        Role.TOWER,
        also=(Form(DEPTHWISE, "hidden_size 1 conv_kernel_size", DEPTHWISE1D),),
    ),
    Rule("lconv1d.pre_layer_norm.weight", "hidden_size"),
    Rule("lconv1d.conv_norm.weight", "hidden_size"),
    Rule("norm_pre_attn.weight", "hidden_size"),
    Rule("norm_post_attn.weight", "hidden_size"),
    Rule("norm_out.weight", "hidden_size"),
)

TOWER_TABLES = (
    Table("vision", "vision_tower.", _vision, VISION_RULES),
    Table(
        "vision", "vision_tower.encoder.layers.{}.", _vision_layers, VISION_LAYER_RULES, unclipped(VISION_LAYER_RULES)
    ),
    Table("audio", "audio_tower.", _audio, AUDIO_RULES),
    Table("audio", "audio_tower.layers.{}.", _audio_layers, AUDIO_LAYER_RULES, unclipped(AUDIO_LAYER_RULES)),
)
