"""Features between embeddings: a prompt with media -> what the language model takes, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import PlaceholderError
from .config import ModelConfig
from .masks import NO_BLOCK, Blocks, vision_blocks
from .media import Kind
from .text import TextInputs, TextModel

Ids = NDArray[np.int64]

VISION: tuple[Kind, ...] = ("image", "video")


@dataclass(frozen=True)
class Merged:
    """A whole prompt, from which every pass takes its part.

    Attributes:
        ids: [L]; the pad id where a feature stands, whose row of the PLE table belongs there.
        places: [M], ascending: where features stand.
        features: [M, hidden], in the order of their places; None without media. They are not scaled as embeddings are.
        blocks: [L], the vision blocks, see `masks.py`; None where all is causal.
    """

    ids: Ids
    places: Ids
    features: mx.array | None
    blocks: Blocks | None

    def passes(self, chunk: int) -> Iterator[tuple[int, int]]:
        """Where passes of about `chunk` tokens start and stop; each ends where a vision block does not go on."""
        start = 0
        while start < len(self.ids):
            stop = self._block_end(min(start + chunk, len(self.ids)))
            yield start, stop
            start = stop

    def _block_end(self, stop: int) -> int:
        while self.blocks is not None and 0 < stop < len(self.ids) and self._is_inside(stop):
            stop += 1
        return stop

    def _is_inside(self, stop: int) -> bool:
        assert self.blocks is not None
        return bool(self.blocks[stop] != NO_BLOCK and self.blocks[stop] == self.blocks[stop - 1])

    def inputs(self, text: TextModel, start: int, stop: int) -> TextInputs:
        """What the decoder layers take for the tokens from `start` up to `stop`."""
        inputs = text.embed(mx.array(self.ids[start:stop])[None])
        first, last = np.searchsorted(self.places, (start, stop))
        if self.features is None or first == last:
            return inputs
        embeddings = inputs.embeddings
        embeddings[0, mx.array(self.places[first:last] - start)] = self.features[first:last].astype(embeddings.dtype)
        return replace(inputs, embeddings=embeddings, blocks=None if self.blocks is None else self.blocks[start:stop])


def merge(config: ModelConfig, ids: Ids, features: Mapping[Kind, mx.array]) -> Merged:
    """Give every placeholder its feature.

    Args:
        config: of the model.
        ids: int64 [L], with placeholders.
        features: by kind of medium: [m, hidden], in prompt order.

    Raises:
        PlaceholderError: a kind has more or fewer placeholders than features.
    """
    tokens = config.media_tokens
    token = {"image": tokens.image_token_id, "video": tokens.video_token_id, "audio": tokens.audio_token_id}
    places = {kind: np.flatnonzero(ids == token[kind]) for kind in features}
    for kind, found in places.items():
        _check_count(kind, len(found), len(features[kind]))
    everywhere = np.concatenate([np.zeros(0, np.int64), *places.values()])
    order = np.argsort(everywhere)
    is_vision = _marked(len(ids), [places[kind] for kind in VISION if kind in places])
    return Merged(
        ids=np.where(_marked(len(ids), list(places.values())), config.text.pad_token_id, ids),
        places=everywhere[order],
        features=mx.concatenate(list(features.values()))[mx.array(order)] if features else None,
        blocks=vision_blocks(is_vision) if config.text.has_vision_blocks and is_vision.any() else None,
    )


def _marked(length: int, places: Sequence[Ids]) -> NDArray[np.bool_]:
    """Bool [length], True at the places."""
    marked = np.zeros(length, np.bool_)
    for found in places:
        marked[found] = True
    return marked


def _check_count(kind: Kind, places: int, features: int) -> None:
    if places != features:
        raise PlaceholderError(f"the prompt has {places} placeholders, and there are {features} features", where=kind)
