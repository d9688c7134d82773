"""Media of a prompt -> features, by the towers of a network; several at once, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .media import Kind
from .model import MultimodalModel, Network
from .prompt import Prompt

# Patches to a pass through the vision tower, padding included: six pictures of 280 soft tokens.
PATCHES_AT_ONCE = 16384
# Mel frames to a pass through the audio tower, padding included: four clips of 30 s.
FRAMES_AT_ONCE = 12288

Array = NDArray[Any]
Medium = tuple[Array, Array]
"""Patches and positions of a picture, or features and mask of a clip: as long as each other."""

Sense = Callable[[mx.array, mx.array], list[mx.array]]

NO_PATCH, NO_FRAME = -1, False


def encode(network: Network, prompt: Prompt) -> dict[Kind, mx.array]:
    """The features of a prompt's media by kind: [M, hidden], in prompt order, evaluated."""
    if not isinstance(network, MultimodalModel):
        return {}
    media = media_of(prompt)
    features: dict[Kind, mx.array | None] = {
        "image": _features(network.see, media["image"], NO_PATCH, PATCHES_AT_ONCE),
        "video": _features(network.see, media["video"], NO_PATCH, PATCHES_AT_ONCE),
        "audio": _features(network.hear, media["audio"], NO_FRAME, FRAMES_AT_ONCE),
    }
    return {kind: found for kind, found in features.items() if found is not None}


def media_of(prompt: Prompt) -> dict[Kind, list[Medium]]:
    """What goes through the towers, by kind; of clips, every frame."""
    return {
        "image": [(image.patches, image.positions) for image in prompt.images],
        "video": [frame for clip in prompt.videos for frame in zip(clip.patches, clip.positions, strict=True)],
        "audio": [(sound.features, sound.valid) for sound in prompt.sounds],
    }


def _features(sense: Sense, media: Sequence[Medium], padding: int, limit: int) -> mx.array | None:
    """[M, hidden], or None without media."""
    found: list[mx.array] = []
    for batch in batches(media, limit):
        firsts, seconds = zip(*batch, strict=True)
        features = sense(mx.array(stacked(firsts, 0)), mx.array(stacked(seconds, padding)))
        mx.eval(features)
        found += features
    return mx.concatenate(found) if found else None


def batches(media: Sequence[Medium], limit: int) -> Iterator[list[Medium]]:
    """Media that go through a tower together: as many as stay below `limit` when all are as long as the longest."""
    batch: list[Medium] = []
    for medium in media:
        longest = max(len(positions) for _, positions in [*batch, medium])
        if batch and longest * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(medium)
    if batch:
        yield batch


def stacked(arrays: Sequence[Array], padding: int, *, more: int = 0) -> Array:
    """[n, ...] each, to [B, longest n + more, ...], filled up with `padding`."""
    longest = max(map(len, arrays)) + more
    whole = np.full((len(arrays), longest, *arrays[0].shape[1:]), padding, arrays[0].dtype)
    for row, array in zip(whole, arrays, strict=True):
        row[: len(array)] = array
    return whole
