"""The audio tower of E2B and E4B, a Conformer; the names of attributes are the names of weights.

Shapes: B clips, T mel frames of the longest, L frames after the subsampling, about T / 4, in C chunks of W; each chunk
sees a context of S frames; H heads of D features; P relative positions. Convolutions have their channels last. A mask
is bool, True = a frame of the clip, False = padding. Activations have the dtype of the norms; attention is computed in
float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx import nn

from .config import AudioConfig
from .module import Module, clamp
from .text import softcap
from .vision import ClippedLinear

SUBSAMPLING_KERNEL = 3

# Transformers gives these to most norms, whatever the config says.
NORM_EPS = 1e-6

# Queries and keys are scaled so that a per_dim_scale of 0 and a key scale of 1, each through softplus, count as 1.
QUERY_SCALE = 1 / math.log(2)
KEY_SCALE = math.log(1 + math.e) / math.log(2)

LONGEST_PERIOD = 10000.0


@dataclass(frozen=True)
class Context:
    """What the layers of one forward pass have in common.

    Attributes:
        frames: [C, S], the index of each frame of a chunk's context, counted from the first of the padding before.
        visible: bool [B, 1, C, W, S], True where a query may see a frame of its context.
        positions: [P, hidden], see `relative_positions`.
    """

    frames: mx.array
    visible: mx.array
    positions: mx.array


def make_context(config: AudioConfig, mask: mx.array, dtype: mx.Dtype) -> Context:
    """What follows from the mask [B, L]."""
    chunks = -(-mask.shape[1] // config.attention_chunk_size)
    frames = mx.arange(chunks)[:, None] * config.attention_chunk_size + mx.arange(context_size(config))
    is_frame = mx.pad(mask, [(0, 0), context_padding(config)])[:, frames]  # [B, C, S]
    visible = is_frame[:, None, :, None] & local_window(config)
    return Context(frames, visible, relative_positions(config).astype(dtype))


def context_size(config: AudioConfig) -> int:
    """Frames that a chunk may look at: those before it, its own, those behind it."""
    return config.attention_context_left - 1 + config.attention_chunk_size + config.attention_context_right


def context_padding(config: AudioConfig) -> tuple[int, int]:
    """Frames of zeros that stand before and behind a clip, so that every chunk has a whole context."""
    return config.attention_context_left - 1, config.attention_context_right + config.attention_chunk_size - 1


def local_window(config: AudioConfig) -> mx.array:
    """Which frames of its context a query of a chunk may see, bool [W, S]; the outermost of either side is hidden."""
    past = config.attention_context_left - 1
    distance = mx.arange(config.attention_chunk_size)[:, None] + past - mx.arange(context_size(config))
    behind = (distance >= 0) & (distance < past)
    return behind | ((distance < 0) & (-distance < config.attention_context_right))


def relative_positions(config: AudioConfig) -> mx.array:
    """float32 [P, hidden]: sines, then cosines, of half the context's distances, the largest first, 0 last."""
    half = config.hidden_size // 2
    rates = np.exp(np.arange(half) * -(math.log(LONGEST_PERIOD) / max(half - 1, 1)))
    angles = np.arange(context_size(config) // 2, -1, -1)[:, None] * rates
    return mx.array(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32))


def shift(scores: mx.array, size: int) -> mx.array:
    """Map scores by distance [..., W, P] to scores by frame of the context [..., W, S]: row i moves i to the right."""
    *outer, width, positions = scores.shape
    padded = mx.pad(scores, [(0, 0)] * (len(outer) + 1) + [(0, size + 1 - positions)])
    return padded.reshape(*outer, -1)[..., : width * size].reshape(*outer, width, size)


class SubsampleLayer(Module):
    """A convolution that halves time and frequency, and its norm."""

    def __init__(self, in_channels: int, out_channels: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, SUBSAMPLING_KERNEL, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(out_channels, eps, bias=False)

    def __call__(self, x: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        """Map x [B, T, mel, in], mask [B, T] to [B, T / 2, mel / 2, out] and [B, T / 2], both rounded up."""
        x = mx.where(mask[:, :, None, None], x, 0).astype(self.conv.weight.dtype)
        return nn.relu(self.norm(self.conv(x))), mask[:, ::2]


class SubsampleProjection(Module):
    """Mel frames to features at a quarter of the rate."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        first, second = config.subsampling_conv_channels
        self.layer0 = SubsampleLayer(1, first, config.rms_norm_eps)
        self.layer1 = SubsampleLayer(first, second, config.rms_norm_eps)
        self.input_proj_linear = nn.Linear(config.subsampled_size, config.hidden_size, bias=False)

    def __call__(self, features: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        """Map features [B, T, mel], mask [B, T] to [B, L, hidden] and [B, L]."""
        x, mask = self.layer0(features[..., None], mask)
        x, mask = self.layer1(x, mask)
        return self.input_proj_linear(x.flatten(2)), mask


class AudioFeedForward(Module):
    """Half-step feed-forward block."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden, wide, clipped = config.hidden_size, config.feed_forward_size, config.use_clipped_linears
        self.limit, self.residual_weight = config.gradient_clipping, config.residual_weight
        self.ffw_layer_1 = ClippedLinear(hidden, wide, clipped=clipped)
        self.ffw_layer_2 = ClippedLinear(wide, hidden, clipped=clipped)
        self.pre_layer_norm = nn.RMSNorm(hidden, NORM_EPS)
        self.post_layer_norm = nn.RMSNorm(hidden, NORM_EPS)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [B, L, hidden] to [B, L, hidden]."""
        out = self.pre_layer_norm(bounded(x, self.limit))
        out = self.ffw_layer_2(nn.silu(self.ffw_layer_1(out)))
        half_step: mx.array = self.post_layer_norm(bounded(out, self.limit)) * self.residual_weight
        return x + half_step


def bounded(x: mx.array, limit: float) -> mx.array:
    """Limit x to [-limit, limit], or to the finite numbers of its dtype where that is less."""
    limit = min(limit, float(mx.finfo(x.dtype).max))
    return clamp(x, -limit, limit)


class AudioAttention(Module):
    """Chunked local attention with relative positions."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden, clipped = config.hidden_size, config.use_clipped_linears
        self.config = config
        self.q_proj = ClippedLinear(hidden, hidden, clipped=clipped)
        self.k_proj = ClippedLinear(hidden, hidden, clipped=clipped)
        self.v_proj = ClippedLinear(hidden, hidden, clipped=clipped)
        self.post = ClippedLinear(hidden, hidden, clipped=clipped)
        self.relative_k_proj = nn.Linear(hidden, hidden, bias=False)
        self.per_dim_scale = mx.zeros(config.head_dim)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        """Map x [B, L, hidden] to [B, L, hidden]."""
        queries = self._queries(x)
        keys = self._in_context(self.k_proj(x), context) * KEY_SCALE
        values = self._in_context(self.v_proj(x), context)
        scores = queries @ keys.swapaxes(-1, -2) + self._position_scores(queries, context)
        scores = softcap(scores, self.config.attention_logit_cap)
        scores = mx.where(context.visible, scores, self.config.attention_invalid_logits_value)
        out = mx.softmax(scores, axis=-1) @ values  # [B, H, C, W, D]
        out = out.transpose(0, 2, 3, 1, 4).reshape(x.shape[0], -1, x.shape[-1])[:, : x.shape[1]]
        return self.post(out.astype(x.dtype))

    def _queries(self, x: mx.array) -> mx.array:
        """[B, L, hidden] -> float32 [B, H, C, W, D], scaled."""
        queries = self._heads(self.q_proj(x)) * self._query_scales()
        behind = -x.shape[1] % self.config.attention_chunk_size
        padded = mx.pad(queries, [(0, 0), (0, behind), (0, 0), (0, 0)])
        chunks = padded.reshape(x.shape[0], -1, self.config.attention_chunk_size, *queries.shape[2:])
        return chunks.transpose(0, 3, 1, 2, 4)

    def _query_scales(self) -> mx.array:
        """float32 [D]."""
        learned: mx.array = nn.softplus(self.per_dim_scale.astype(mx.float32))
        return learned * (QUERY_SCALE / math.sqrt(self.config.head_dim))

    def _in_context(self, x: mx.array, context: Context) -> mx.array:
        """[B, L, hidden] -> float32 [B, H, C, S, D]: the context of each chunk."""
        padded = mx.pad(self._heads(x), [(0, 0), context_padding(self.config), (0, 0), (0, 0)])
        return padded[:, context.frames].transpose(0, 3, 1, 2, 4)

    def _position_scores(self, queries: mx.array, context: Context) -> mx.array:
        """Float32 [B, H, C, W, S], for queries [B, H, C, W, D]."""
        keys = self._heads(self.relative_k_proj(context.positions)[None])  # [1, P, H, D]
        scores = queries @ keys.transpose(0, 2, 3, 1)[:, :, None]  # [B, H, C, W, P]
        return shift(scores, context.frames.shape[1])

    def _heads(self, x: mx.array) -> mx.array:
        """[B, L, hidden] -> float32 [B, L, H, D]."""
        return x.astype(mx.float32).reshape(*x.shape[:2], -1, self.config.head_dim)


class DepthwiseConv1d(Module):
    """One kernel for each channel: `weight` [channels, kernel, 1]; a frame sees itself and the ones before."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, kernel_size, 1))

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [B, L, channels] to [B, L, channels]."""
        channels, kernel_size, _ = self.weight.shape
        padded = mx.pad(x, [(0, 0), (kernel_size - 1, 0), (0, 0)])
        return mx.conv1d(padded, self.weight, groups=channels)


class LightConv1d(Module):
    """Gated linear unit, depthwise convolution, linear layer."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden, clipped = config.hidden_size, config.use_clipped_linears
        self.limit = config.gradient_clipping
        self.linear_start = ClippedLinear(hidden, config.gated_size, clipped=clipped)
        self.linear_end = ClippedLinear(hidden, hidden, clipped=clipped)
        self.depthwise_conv1d = DepthwiseConv1d(hidden, config.conv_kernel_size)
        self.pre_layer_norm = nn.RMSNorm(hidden, config.rms_norm_eps)
        self.conv_norm = nn.RMSNorm(hidden, config.rms_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [B, L, hidden] to [B, L, hidden]."""
        out = nn.glu(self.linear_start(self.pre_layer_norm(x)))
        out = self.conv_norm(bounded(self.depthwise_conv1d(out), self.limit))
        return x + self.linear_end(nn.silu(out))


class AudioLayer(Module):
    """One Conformer block."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.limit = config.gradient_clipping
        self.feed_forward1 = AudioFeedForward(config)
        self.feed_forward2 = AudioFeedForward(config)
        self.self_attn = AudioAttention(config)
        self.lconv1d = LightConv1d(config)
        self.norm_pre_attn = nn.RMSNorm(config.hidden_size, NORM_EPS)
        self.norm_post_attn = nn.RMSNorm(config.hidden_size, NORM_EPS)
        self.norm_out = nn.RMSNorm(config.hidden_size, NORM_EPS)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        """Map x [B, L, hidden] to [B, L, hidden]."""
        x = self.feed_forward1(x)
        attended = self.self_attn(self.norm_pre_attn(bounded(x, self.limit)), context)
        x = x + self.norm_post_attn(bounded(attended, self.limit))
        x = self.feed_forward2(self.lconv1d(x))
        normed: mx.array = self.norm_out(bounded(x, self.limit))
        return normed


class AudioTower(Module):
    """Subsampling, Conformer blocks, output projection."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.subsample_conv_projection = SubsampleProjection(config)
        self.layers = [AudioLayer(config) for _ in range(config.num_hidden_layers)]
        self.output_proj = nn.Linear(config.hidden_size, config.output_proj_dims)

    def __call__(self, features: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        """The soft tokens of each clip, which do not depend on the other clips or on the padding.

        Args:
            features: float32 [B, T, mel], log-mel frames.
            mask: bool [B, T], True = a frame of the clip, False = padding, which comes last.

        Returns:
            Tokens [B, L, output_proj_dims] and their mask, bool [B, L], of the same polarity. `module.rows` picks the
            tokens of each clip; what stands at padding means nothing.
        """
        x, mask = self.subsample_conv_projection(features, mask)
        context = make_context(self.config, mask, x.dtype)
        for layer in self.layers:
            x = layer(x, context)
        return self.output_proj(x), mask
