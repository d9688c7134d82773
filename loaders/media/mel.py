"""Samples -> log-mel frames, bit for bit as transformers' `Gemma4AudioFeatureExtractor` with the same numpy.

The precisions are the reference's: window, product and transform in float32, the mel filters' matmul and the logarithm
in float64, the result float32. The matmul's last bits depend on the number of its rows, so the padding to a multiple of
128 samples is part of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .config import AudioSettings

MULTIPLE = 128
"""Samples are padded to a multiple of this, whatever the processor config says."""

DITHER_SEED = 0
"""Dither is the same for every clip; the reference's comes from numpy's global generator."""


def log_mel(samples: NDArray[np.float32], settings: AudioSettings) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Log-mel features of one clip.

    Args:
        samples: [n] mono, at `sampling_rate`.
        settings: the checkpoint's.

    Returns:
        [F, feature_size] features, zero where a frame reaches into the padding; [F] bool, True where it does not.
    """
    padded, real = _pad(samples, settings)
    windows = sliding_window_view(padded, settings.frame_length + 1)[:: settings.hop_length]  # F, frame_length + 1
    frames = _preemphasize(windows, settings) * _window(settings.frame_length)
    magnitude = np.abs(np.fft.rfft(frames, n=settings.fft_length))  # F, fft_length // 2 + 1
    mel = magnitude @ _mel_filters(settings)
    mel += settings.mel_floor
    features = _normalize(np.log(mel, out=mel), settings).astype(np.float32)
    valid = real[settings.frame_length :: settings.hop_length][: len(features)]
    features *= valid[:, None]
    return features, valid


def count_soft_tokens(valid: NDArray[np.bool_]) -> int:
    """Soft tokens of a clip: valid frames that both stride-2 convolutions leave over.

    Each halves the frames and keeps every second entry of the mask (`Gemma4AudioSubSampleConvProjectionLayer`).

    Args:
        valid: [F], from `log_mel`.
    """
    return int(valid[::2][::2].sum())


def _pad(samples: NDArray[np.float32], settings: AudioSettings) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Dither, scale and pad; the second array tells samples from padding."""
    missing = -len(samples) % MULTIPLE
    sides = (0, missing) if settings.padding_side == "right" else (missing, 0)
    padded = np.pad(samples, sides, constant_values=settings.padding_value) if missing else samples
    if settings.dither > 0:
        noise = np.random.default_rng(DITHER_SEED).standard_normal(len(padded), np.float32)
        padded = padded + settings.dither * noise
    if settings.input_scale_factor != 1:
        padded = padded * settings.input_scale_factor
    real = np.pad(np.ones(len(samples), bool), sides)
    return np.pad(padded, (settings.pad_left, 0)), np.pad(real, (settings.pad_left, 0))


def _preemphasize(windows: NDArray[np.float32], settings: AudioSettings) -> NDArray[np.float32]:
    """[F, frame_length + 1] -> [F, frame_length]: subtract a part of the sample before, if at all."""
    coefficient = settings.preemphasis
    if coefficient == 0:
        return windows[:, :-1]
    if not settings.preemphasis_htk_flavor:
        return windows[:, 1:] - coefficient * windows[:, :-1]
    first = windows[:, :1] * (1.0 - coefficient)
    return np.concatenate([first, windows[:, 1:-1] - coefficient * windows[:, :-2]], axis=1)


def _normalize(features: NDArray[np.float64], settings: AudioSettings) -> NDArray[np.float64]:
    if settings.per_bin_mean is not None:
        features = features - np.array(settings.per_bin_mean)
    if settings.per_bin_stddev is not None:
        features = features / np.array(settings.per_bin_stddev)
    return features


@lru_cache(maxsize=8)
def _window(frame_length: int) -> NDArray[np.float32]:
    """The periodic Hann window."""
    return np.hanning(frame_length + 1)[:-1].astype(np.float32)


@lru_cache(maxsize=8)
def _mel_filters(settings: AudioSettings) -> NDArray[np.float64]:
    """[fft_length // 2 + 1, feature_size] triangles, evenly spaced on the HTK mel scale, not normalised.

    A filter narrower than the distance of two frequencies may be all zero.
    """
    low, high = (_hertz_to_mel(hertz) for hertz in (settings.min_frequency, settings.max_frequency))
    corners = _mel_to_hertz(np.linspace(low, high, settings.feature_size + 2))
    frequencies = np.linspace(0, settings.sampling_rate // 2, settings.fft_length // 2 + 1)
    distance = corners - frequencies[:, None]  # frequencies, feature_size + 2
    widths = np.diff(corners)
    rising, falling = -distance[:, :-2] / widths[:-1], distance[:, 2:] / widths[1:]
    filters: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return filters


def _hertz_to_mel(hertz: float) -> Any:
    """The scale of the Hidden Markov Model Toolkit."""
    return 2595.0 * np.log10(1.0 + hertz / 700.0)


def _mel_to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    hertz: NDArray[np.float64] = 700.0 * (np.power(10, mel / 2595.0) - 1.0)
    return hertz
