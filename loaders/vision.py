"""The vision tower of `gemma4`, and the embedder behind each tower; the names of attributes are the names of weights.

Shapes: B pictures (frames of a video are pictures), N patches of each, the smaller pictures padded; p pixels of a
patch's side, D a head's features. Positions are (column, row) of a patch in its picture, -1 both where there is none.
Activations have the dtype of the position table; what the pooler makes of them is float32, as in transformers, because
its scale takes them out of float16's range. The embedder norms in float32 as well and leaves the cast to whoever puts
features between embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx import nn

from .config import VisionConfig
from .linear import Linear
from .module import Module, clamp, rows
from .text import gated, value_norm

# Scores of an attention at once: 512 MiB in float32.
SCORES_AT_ONCE = 1 << 27


@dataclass(frozen=True)
class Grid:
    """Where the patches of a batch are, as the layers need it.

    Attributes:
        cos, sin: [B, N, 1, 2, D/4]: the rotation of each pair of features, by axis.
        mask: bool [B, 1, 1, N], True = a patch, False = padding.
    """

    cos: mx.array
    sin: mx.array
    mask: mx.array


def axial_angles(positions: mx.array, head_dim: int, theta: float) -> mx.array:
    """float32 [B, N, 1, 2, D/4]: a column turns one half of a head's features, a row the other, at the same rates."""
    half = head_dim // 2
    rates = mx.array((theta ** -(np.arange(0, half, 2) / half)).astype(np.float32))
    return positions[:, :, None, :, None].astype(mx.float32) * rates


def rotate(x: mx.array, grid: Grid) -> mx.array:
    """Turn [B, N, heads, D]: within each half of D, feature i pairs with i + D/4."""
    pairs = x.reshape(*x.shape[:-1], 2, 2, -1)
    one, other = pairs[..., 0, :], pairs[..., 1, :]  # [B, N, heads, 2, D/4]
    turned = [one * grid.cos - other * grid.sin, other * grid.cos + one * grid.sin]
    return mx.stack(turned, axis=-2).reshape(x.shape)


def is_patch(positions: mx.array) -> mx.array:
    """False for padding: positions [B, N, 2] to bool [B, N]."""
    return mx.any(positions != -1, axis=-1)


class ClippedLinear(Module):
    """A linear layer that may clamp what enters and leaves it; the bounds are weights of shape ()."""

    def __init__(self, in_features: int, out_features: int, *, clipped: bool) -> None:
        super().__init__()
        self.clipped = clipped
        self.linear = Linear(in_features, out_features)
        if clipped:
            self.input_min = self.output_min = mx.array(-mx.inf)
            self.input_max = self.output_max = mx.array(mx.inf)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., in] to [..., out]."""
        if not self.clipped:
            return self.linear(x)
        return clamp(self.linear(clamp(x, self.input_min, self.input_max)), self.output_min, self.output_max)


class PatchEmbedder(Module):
    """Patches to features, plus one learned embedding for each axis."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.input_proj = Linear(config.patch_features, config.hidden_size)
        self.position_embedding_table = mx.zeros((2, config.position_embedding_size, config.hidden_size))

    def __call__(self, patches: mx.array, positions: mx.array) -> mx.array:
        """Map patches [B, N, 3 * p * p] of values from 0 to 1, positions [B, N, 2] to [B, N, hidden]."""
        pixels = (2 * (patches - 0.5)).astype(self.position_embedding_table.dtype)
        return self.input_proj(pixels) + self._embed_positions(positions)

    def _embed_positions(self, positions: mx.array) -> mx.array:
        """[B, N, hidden]; zero for padding."""
        column, row = mx.moveaxis(mx.maximum(positions, 0), -1, 0)
        embedded = self.position_embedding_table[0][column] + self.position_embedding_table[1][row]
        return mx.where(is_patch(positions)[..., None], embedded, 0)


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """Attention without a scale: queries, keys, values [B, heads, N, D], mask bool [B, 1, 1, N] to [B, heads, N, D].

    The queries come in slices: where mlx has no fused kernel it holds all scores of a call.
    """
    batch, heads, length, _ = queries.shape
    step = max(1, SCORES_AT_ONCE // (batch * heads * length))
    slices = (queries[:, :, start : start + step] for start in range(0, length, step))
    out = [mx.fast.scaled_dot_product_attention(part, keys, values, scale=1.0, mask=mask) for part in slices]
    return mx.concatenate(out, axis=2) if len(out) > 1 else out[0]


class VisionAttention(Module):
    """Bidirectional attention over the patches of a picture."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden, clipped = config.hidden_size, config.use_clipped_linears
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        self.q_proj = ClippedLinear(hidden, config.q_size, clipped=clipped)
        self.k_proj = ClippedLinear(hidden, config.kv_size, clipped=clipped)
        self.v_proj = ClippedLinear(hidden, config.kv_size, clipped=clipped)
        self.o_proj = ClippedLinear(config.q_size, hidden, clipped=clipped)
        self.q_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)

    def __call__(self, x: mx.array, grid: Grid) -> mx.array:
        """Map x [B, N, hidden] to [B, N, hidden]."""
        queries = rotate(self.q_norm(self._heads(self.q_proj(x))), grid)
        keys = rotate(self.k_norm(self._heads(self.k_proj(x))), grid)
        values = value_norm(self._heads(self.v_proj(x)), self.eps)
        queries, keys, values = (heads.transpose(0, 2, 1, 3) for heads in (queries, keys, values))
        out = attend(queries, keys, values, grid.mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))

    def _heads(self, x: mx.array) -> mx.array:
        """[B, N, heads * D] -> [B, N, heads, D]."""
        return x.reshape(*x.shape[:2], -1, self.head_dim)


class VisionMLP(Module):
    """Gated feed-forward block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden, wide, clipped = config.hidden_size, config.intermediate_size, config.use_clipped_linears
        self.gate_proj = ClippedLinear(hidden, wide, clipped=clipped)
        self.up_proj = ClippedLinear(hidden, wide, clipped=clipped)
        self.down_proj = ClippedLinear(wide, hidden, clipped=clipped)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [B, N, hidden] to [B, N, hidden]."""
        return self.down_proj(gated(self.gate_proj(x), self.up_proj(x)))


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

    def __call__(self, x: mx.array, grid: Grid) -> mx.array:
        """Map x [B, N, hidden] to [B, N, hidden]."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), grid))
        out: mx.array = self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x + out


class VisionEncoder(Module):
    """The stack of layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.head_dim, self.theta = config.head_dim, config.rope_theta
        self.layers = [VisionLayer(config) for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array, positions: mx.array) -> mx.array:
        """Map x [B, N, hidden], positions [B, N, 2] to [B, N, hidden]."""
        angles = axial_angles(positions, self.head_dim, self.theta)
        mask = is_patch(positions)[:, None, None]
        grid = Grid(mx.cos(angles).astype(x.dtype), mx.sin(angles).astype(x.dtype), mask)
        for layer in self.layers:
            x = layer(x, grid)
        return x


def pool(x: mx.array, positions: mx.array, kernel: int) -> mx.array:
    """Average squares of `kernel` by `kernel` patches, and scale by the root of the width.

    Args:
        x: [B, N, hidden], any dtype.
        positions: [B, N, 2]; the sides of a picture are multiples of the kernel.
        kernel: patches of a square's side.

    Returns:
        float32 [B, N / kernel^2, hidden], the squares of each picture row by row, then zeros.
    """
    x = mx.where(is_patch(positions)[..., None], x, 0).astype(mx.float32)
    squares = square_indices(positions, kernel)
    places = mx.arange(x.shape[1] // kernel**2)
    shares = (squares[:, None] == places[:, None]).astype(mx.float32) / kernel**2  # [B, N / kernel^2, N]
    return shares @ x * math.sqrt(x.shape[-1])


def square_indices(positions: mx.array, kernel: int) -> mx.array:
    """[B, N]: the number of each patch's square, counted row by row; padding counts to the first one."""
    positions = mx.maximum(positions, 0)
    squares_of_a_row = (positions[..., 0].max(-1, keepdims=True) + 1) // kernel
    column, row = mx.moveaxis(positions // kernel, -1, 0)
    return column + squares_of_a_row * row


class VisionTower(Module):
    """Patch embedder, encoder and, where the config says so, the statistics that standardize its output."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.kernel, self.standardizes = config.pooling_kernel_size, config.standardize
        self.patch_embedder = PatchEmbedder(config)
        self.encoder = VisionEncoder(config)
        if config.standardize:
            self.std_bias = mx.zeros(config.hidden_size)
            self.std_scale = mx.ones(config.hidden_size)

    def __call__(self, patches: mx.array, positions: mx.array) -> list[mx.array]:
        """The soft tokens of each picture.

        Args:
            patches: float32 [B, N, 3 * p * p], values from 0 to 1, N a multiple of `pooling_kernel_size` squared.
            positions: int [B, N, 2]; -1 for padding, which comes last and whose patches may hold any finite value.

        Returns:
            B arrays, float32 [soft tokens of the picture, hidden].
        """
        hidden = self.encoder(self.patch_embedder(patches, positions), positions)
        tokens = self.standardize(pool(hidden, positions, self.kernel))
        counts = is_patch(positions).sum(-1, keepdims=True) // self.kernel**2
        return rows(tokens, mx.arange(tokens.shape[1]) < counts)

    def standardize(self, tokens: mx.array) -> mx.array:
        """Map float32 [..., hidden] to the same; without statistics as it is."""
        if not self.standardizes:
            return tokens
        return (tokens - self.std_bias.astype(mx.float32)) * self.std_scale.astype(mx.float32)


class MultimodalEmbedder(Module):
    """From a tower's soft tokens into the language model's embedding space, where nothing scales them any more."""

    def __init__(self, in_features: int, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.embedding_projection = Linear(in_features, hidden_size)

    def __call__(self, tokens: mx.array) -> mx.array:
        """Map tokens [..., in] to [..., hidden], both of the tokens' dtype or, if that is wider, the weights'."""
        return self.embedding_projection(value_norm(tokens, self.eps))
