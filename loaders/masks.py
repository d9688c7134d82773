"""Which keys a query may see: causal, and on sliding layers no further back than the window.

The keys of a forward pass stand in temporal order without gaps and end with the last query, so a mask follows from two
counts: query `i` of `queries` is at the place of key `keys - queries + i`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import mlx.core as mx

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
