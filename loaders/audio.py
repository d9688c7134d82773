"""The audio tower of E2B and E4B, a Conformer, as a parameter tree.

The names and shapes are those of the MLX checkpoint (convolutions channels last), so that loading is strict about the
tower too; its forward pass belongs to the part that brings sound.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from .config import AudioConfig
from .module import Module
from .vision import ClippedLinear

SUBSAMPLING_KERNEL = 3


class SubsampleLayer(Module):
    """A convolution that halves time and frequency, and its norm."""

    def __init__(self, in_channels: int, out_channels: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, SUBSAMPLING_KERNEL, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(out_channels, eps, bias=False)


class SubsampleProjection(Module):
    """Mel frames to features at a quarter of the rate."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        first, second = config.subsampling_conv_channels
        self.layer0 = SubsampleLayer(1, first, config.rms_norm_eps)
        self.layer1 = SubsampleLayer(first, second, config.rms_norm_eps)
        self.input_proj_linear = nn.Linear(config.subsampled_size, config.hidden_size, bias=False)


class AudioFeedForward(Module):
    """Half-step feed-forward block."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden, wide, clipped = config.hidden_size, config.feed_forward_size, config.use_clipped_linears
        self.ffw_layer_1 = ClippedLinear(hidden, wide, clipped=clipped)
        self.ffw_layer_2 = ClippedLinear(wide, hidden, clipped=clipped)
        self.pre_layer_norm = nn.RMSNorm(hidden, config.rms_norm_eps)
        self.post_layer_norm = nn.RMSNorm(hidden, config.rms_norm_eps)


class AudioAttention(Module):
    """Chunked local attention with relative positions."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden, clipped = config.hidden_size, config.use_clipped_linears
        self.q_proj = ClippedLinear(hidden, hidden, clipped=clipped)
        self.k_proj = ClippedLinear(hidden, hidden, clipped=clipped)
        self.v_proj = ClippedLinear(hidden, hidden, clipped=clipped)
        self.post = ClippedLinear(hidden, hidden, clipped=clipped)
        self.relative_k_proj = nn.Linear(hidden, hidden, bias=False)
        self.per_dim_scale = mx.zeros(config.head_dim)


class DepthwiseConv1d(Module):
    """One kernel for each channel: `weight` [channels, kernel, 1]."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, kernel_size, 1))


class LightConv1d(Module):
    """Gated linear unit, depthwise convolution, linear layer."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden, clipped = config.hidden_size, config.use_clipped_linears
        self.linear_start = ClippedLinear(hidden, config.gated_size, clipped=clipped)
        self.linear_end = ClippedLinear(hidden, hidden, clipped=clipped)
        self.depthwise_conv1d = DepthwiseConv1d(hidden, config.conv_kernel_size)
        self.pre_layer_norm = nn.RMSNorm(hidden, config.rms_norm_eps)
        self.conv_norm = nn.RMSNorm(hidden, config.rms_norm_eps)


class AudioLayer(Module):
    """One Conformer block."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.feed_forward1 = AudioFeedForward(config)
        self.feed_forward2 = AudioFeedForward(config)
        self.self_attn = AudioAttention(config)
        self.lconv1d = LightConv1d(config)
        self.norm_pre_attn = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_post_attn = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_out = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


class AudioTower(Module):
    """Subsampling, Conformer blocks, output projection."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.subsample_conv_projection = SubsampleProjection(config)
        self.layers = [AudioLayer(config) for _ in range(config.num_hidden_layers)]
        self.output_proj = nn.Linear(config.hidden_size, config.output_proj_dims)
