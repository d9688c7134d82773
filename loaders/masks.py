"""Which keys a query may see: causal, and on sliding layers no further back than the window.

The keys of a forward pass stand in temporal order without gaps and end with the last query, so a mask follows from two
counts: query `i` of `queries` is at the place of key `keys - queries + i`. On the sliding layers of 26B-A4B, 31B and
12B, the tokens of a picture, or of a frame, see each other as well: they are a vision block.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Mask = mx.array | Literal["causal"] | None
"""What `mx.fast.scaled_dot_product_attention` takes: nothing hidden, plain causal, or bool [queries, keys]."""


def causal_mask(queries: int, keys: int, window: int | None = None) -> Mask:
    """The cheapest mask that hides the future and, with a window, what left it.

    Args:
        queries: number of queries, the last ones of the keys.
        keys: number of keys, in temporal order.
        window: how many keys a query sees, itself included; None for all.

    Returns:
        None where nothing is hidden, `"causal"` where only the future is, else bool [queries, keys], True = seen.
        Every row sees at least its own key.
    """
    if window is not None and keys > window:
        return sliding_mask(queries, keys, window)
    return None if queries == 1 else "causal"


@lru_cache(maxsize=4)
def sliding_mask(queries: int, keys: int, window: int) -> mx.array:
    """A bool [queries, keys], True where the key is neither in the future nor `window` or more places back.

    The layers of a pass, and the chunks of a prompt, ask for the same one.
    """
    at_query = mx.arange(keys - queries, keys)[:, None]
    at_key = mx.arange(keys)[None]
    mask = (at_key <= at_query) & (at_key > at_query - window)
    # A lazy array would belong to the stream of the thread that asked first.
    mx.eval(mask)
    return mask


Blocks = NDArray[np.int32]
"""For each token of a pass the number of its vision block, or `NO_BLOCK`."""

NO_BLOCK = -1


def vision_blocks(is_vision: NDArray[np.bool_]) -> Blocks:
    """Number the runs of True in bool [L]; what frames a picture in the prompt keeps it apart from the next one."""
    starts = is_vision & ~np.concatenate([[False], is_vision[:-1]])
    return np.where(is_vision, np.cumsum(starts) - 1, NO_BLOCK).astype(np.int32)


def block_mask(blocks: Blocks, queries: int, keys: int, window: int) -> mx.array:
    """What sliding layers see where there are vision blocks: (causal or in the same block) and within the window.

    After transformers' `create_masks_for_vision_model`; the window ends a block on its far side only.

    Args:
        blocks: [L], of the last L keys; a block is whole, so that none of the keys before belongs to it.
        queries: number of queries, the last ones of the keys.
        keys: number of keys, in temporal order.
        window: how many keys up to its own a query sees.

    Returns:
        Bool [queries, keys], True = seen.
    """
    of_key = np.concatenate([np.full(keys - len(blocks), NO_BLOCK, np.int32), blocks])
    at_key = np.arange(keys)
    at_query, of_query = at_key[keys - queries :, None], of_key[keys - queries :, None]
    together = (of_query == of_key) & (of_query != NO_BLOCK)
    return mx.array(((at_key <= at_query) | together) & (at_key > at_query - window))
