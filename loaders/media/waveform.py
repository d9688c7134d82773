"""Samples -> frames of them, as transformers' `Gemma4UnifiedAudioFeatureExtractor` cuts them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .config import WaveformSettings


def frames(samples: NDArray[np.float32], settings: WaveformSettings) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Cut samples [n] into frames; the last one is filled up with silence and counts all the same.

    Returns:
        [F, samples of a frame], and bool [F], all True.
    """
    size = settings.audio_samples_per_token
    whole = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
    return whole.astype(np.float32, copy=False), np.ones(len(whole), np.bool_)
