"""Keys and values of the past, one cache for each layer that computes its own.

Both caches keep temporal order, so that a mask follows from counts alone (`masks.py`) and a chunk of any size sees
exactly what a single pass would. They write into a buffer with room to spare; a full buffer is replaced, which for a
sliding layer happens once every `slack` tokens and copies one window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import mlx.core as mx

from .config import TextConfig

KeysValues = tuple[mx.array, mx.array]

# Tokens that a buffer can take beyond what it must hold, before it is replaced, unless a caller knows how many come.
SLACK = 256


class Cache(Protocol):
    """The past of one layer."""

    @property
    def offset(self) -> int:
        """Number of tokens seen so far, the position of the next one."""
        ...

    @property
    def state(self) -> list[mx.array]:
        """The arrays to evaluate between two chunks of a prompt."""
        ...

    def update(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Append `keys` and `values`, both [B, heads, L, head_dim].

        Returns:
            What the L queries need, [B, heads, K, head_dim], in temporal order, the new ones last.
        """
        ...


class FullCache:
    """Everything since the first token, in a buffer that grows in steps."""

    def __init__(self, slack: int = SLACK) -> None:
        self.offset = 0
        self._buffer = Buffer(slack)

    @property
    def state(self) -> list[mx.array]:
        """See `Cache.state`."""
        return self._buffer.arrays

    def update(self, keys: mx.array, values: mx.array) -> KeysValues:
        """See `Cache.update`; K counts all tokens so far."""
        self._buffer.append(keys, values, keep=self.offset)
        self.offset += keys.shape[2]
        return self._buffer.last(self.offset)


class SlidingCache:
    """What later queries can still see: the `window - 1` tokens before them."""

    def __init__(self, window: int, slack: int = SLACK) -> None:
        self.offset = 0
        self._past = window - 1
        self._buffer = Buffer(slack)

    @property
    def state(self) -> list[mx.array]:
        """See `Cache.state`."""
        return self._buffer.arrays

    def update(self, keys: mx.array, values: mx.array) -> KeysValues:
        """See `Cache.update`; K = L + min(offset, window - 1)."""
        keep, length = min(self.offset, self._past), keys.shape[2]
        self._buffer.append(keys, values, keep)
        self.offset += length
        return self._buffer.last(keep + length)


class Buffer:
    """Keys and values [B, heads, capacity, head_dim] of which the first `end` places are in use."""

    def __init__(self, slack: int) -> None:
        self.arrays: list[mx.array] = []
        self._slack = slack
        self._end = 0

    def append(self, keys: mx.array, values: mx.array, keep: int) -> None:
        """Write behind the last token; where the room is used up, only the last `keep` tokens move on."""
        length = keys.shape[2]
        if not self.arrays or self._end + length > self.arrays[0].shape[2]:
            self._replace(keys, values, keep)
        start, self._end = self._end, self._end + length
        for buffer, new in zip(self.arrays, (keys, values), strict=True):
            buffer[:, :, start : self._end] = new

    def last(self, count: int) -> KeysValues:
        """The last `count` tokens, without a copy."""
        keys, values = (buffer[:, :, self._end - count : self._end] for buffer in self.arrays)
        return keys, values

    def _replace(self, keys: mx.array, values: mx.array, keep: int) -> None:
        room = keys.shape[2] + self._slack
        kept = self.last(keep) if keep else (None, None)
        self.arrays = [_with_room(old, new, room) for old, new in zip(kept, (keys, values), strict=True)]
        self._end = keep


def _with_room(old: mx.array | None, new: mx.array, room: int) -> mx.array:
    """`old` followed by `room` empty places, in the shape and dtype of `new`."""
    empty = mx.zeros((*new.shape[:2], room, new.shape[3]), new.dtype)
    return empty if old is None else mx.concatenate([old, empty], axis=2)


def make_caches(config: TextConfig, slack: int = SLACK) -> Mapping[int, Cache]:
    """Empty caches by layer; the KV-shared tail has none.

    Args:
        config: of the language model.
        slack: tokens for which a cache has room beyond those that it is given at once.
    """
    return {
        layer.index: SlidingCache(config.sliding_window, slack) if layer.is_sliding else FullCache(slack)
        for layer in config.layers
        if layer.owns_kv
    }
