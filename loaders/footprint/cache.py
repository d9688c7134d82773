"""The keys and values of a context."""

from __future__ import annotations

from ..config import TextConfig

# Bytes of a key's or value's element; runtimes keep them in the precision of the activations, bfloat16.
ELEMENT = 2


def kv_cache_bytes(config: TextConfig, context: int, element: int = ELEMENT) -> int:
    """The keys and values of a context, without what a runtime keeps in reserve.

    A sliding layer holds a window of them; the KV-shared tail holds none of its own.

    Args:
        config: of the language model.
        context: tokens of prompt and answer together.
        element: bytes of an element.
    """
    return sum(
        2 * layer.kv_size * element * (min(context, config.sliding_window) if layer.is_sliding else context)
        for layer in config.layers
        if layer.owns_kv
    )
