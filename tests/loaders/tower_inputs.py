"""Random pictures and clips in the form in which the towers take them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

# The samples with towers, and those of them that hear.
SEEING, HEARING = ("e2b", "e4b", "26b-a4b", "31b"), ("e2b", "e4b")

PATCH_FEATURES, MEL_BINS = 3 * 16**2, 128

# What the goldens were made for. Behind 45 frames the first convolution would see padding, behind 46 the second.
GOLDEN_PICTURES = ((9, 6), (3, 12), (6, 6))
GOLDEN_CLIPS = (101, 45, 46)


def pictures(sizes: Sequence[tuple[int, int]], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of (width, height) patches, padded to the largest.

    Returns:
        Patches float32 [B, N, 768], each value a 255th, also where there is padding; positions int32 [B, N, 2].
    """
    longest = max(width * height for width, height in sizes)
    positions = np.full((len(sizes), longest, 2), -1, np.int32)
    for row, (width, height) in zip(positions, sizes, strict=True):
        row[: width * height] = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    values = np.random.default_rng(seed).integers(0, 256, (len(sizes), longest, PATCH_FEATURES))
    return (values / 255).astype(np.float32), positions


def clips(lengths: Sequence[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clips of so many mel frames, padded to the longest.

    Returns:
        Features float32 [B, T, 128], each an eighth, also where there is padding; mask bool [B, T], True = a frame.
    """
    longest = max(lengths)
    features = np.random.default_rng(seed).integers(-48, 24, (len(lengths), longest, MEL_BINS)) / 8
    return features.astype(np.float32), np.arange(longest) < np.array(lengths)[:, None]


def golden_inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Patches, positions, features and mask."""
    return *pictures(GOLDEN_PICTURES), *clips(GOLDEN_CLIPS)


def inputs_sha256() -> str:
    """Digest of `golden_inputs`, which come from numpy's generator."""
    return hashlib.sha256(b"".join(array.tobytes() for array in golden_inputs())).hexdigest()
