"""The vision tower of `gemma4` and the embedder behind each tower, as parameter trees.

The names and shapes are those of the MLX checkpoint, so that loading is strict about the towers too; their forward
passes belong to the part that brings pictures.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from .config import VisionConfig
from .module import Module


class ClippedLinear(Module):
    """A linear layer that may clamp what enters and leaves it; the bounds are weights of shape ()."""

    def __init__(self, in_features: int, out_features: int, *, clipped: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        if clipped:
            self.input_min = self.output_min = mx.array(-mx.inf)
            self.input_max = self.output_max = mx.array(mx.inf)


class PatchEmbedder(Module):
    """Patches to features, plus one learned embedding for each axis."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.input_proj = nn.Linear(config.patch_features, config.hidden_size, bias=False)
        self.position_embedding_table = mx.zeros((2, config.position_embedding_size, config.hidden_size))


class VisionAttention(Module):
    """Bidirectional attention over the patches of a picture."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden, clipped = config.hidden_size, config.use_clipped_linears
        self.q_proj = ClippedLinear(hidden, config.q_size, clipped=clipped)
        self.k_proj = ClippedLinear(hidden, config.kv_size, clipped=clipped)
        self.v_proj = ClippedLinear(hidden, config.kv_size, clipped=clipped)
        self.o_proj = ClippedLinear(config.q_size, hidden, clipped=clipped)
        self.q_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)


class VisionMLP(Module):
    """Gated feed-forward block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden, wide, clipped = config.hidden_size, config.intermediate_size, config.use_clipped_linears
        self.gate_proj = ClippedLinear(hidden, wide, clipped=clipped)
        self.up_proj = ClippedLinear(hidden, wide, clipped=clipped)
        self.down_proj = ClippedLinear(wide, hidden, clipped=clipped)


class VisionLayer(Module):
    """Attention and feed-forward block, each between two norms."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.mlp = VisionMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_feedforward_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_feedforward_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


class VisionEncoder(Module):
    """The stack of layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = [VisionLayer(config) for _ in range(config.num_hidden_layers)]


class VisionTower(Module):
    """Patch embedder, encoder and, where the config says so, the statistics that standardize its output."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedder = PatchEmbedder(config)
        self.encoder = VisionEncoder(config)
        if config.standardize:
            self.std_bias = mx.zeros(config.hidden_size)
            self.std_scale = mx.ones(config.hidden_size)


class MultimodalEmbedder(Module):
    """From a tower's soft tokens into the language model's embedding space."""

    def __init__(self, in_features: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_projection = nn.Linear(in_features, hidden_size, bias=False)
