"""What a config says of memory is what the queries of a token read."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from g4convert.loaders import text
from g4convert.loaders.cache import make_caches
from g4convert.loaders.config import TextConfig
from g4convert.loaders.footprint import kv_cache_bytes
from g4convert.loaders.model import language_model
from g4convert.tests.loaders.samples import WINDOW, moe_block, multimodal, random_network, text_only

DOCUMENTS = {"shared tail": text_only(), "moe": multimodal(moe_block(), vision_config=None, audio_config=None)}


def read_by_the_last_token(network: text.LanguageModel, context: int) -> int:
    """Bytes of keys and values that the last of `context` tokens sees, in all caches together."""
    caches, found = make_caches(network.config), 0
    network(mx.ones((1, context - 1), mx.int32), caches)
    for layer in network.config.layers:
        if layer.owns_kv:
            new = mx.zeros((1, layer.num_key_value_heads, 1, layer.head_dim), mx.float32)
            found += sum(array.nbytes for array in caches[layer.index].update(new, new))
    return found


@pytest.mark.parametrize("context", [2, WINDOW - 1, WINDOW, WINDOW + 1, 5 * WINDOW])
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_the_cache_of_a_context(document: dict[str, Any], context: int) -> None:
    network = language_model(random_network(document))

    assert kv_cache_bytes(network.config, context, element=4) == read_by_the_last_token(network, context)


def test_a_shared_tail_and_windows_are_not_counted_twice() -> None:
    config = TextConfig.from_dict({**text_only(), "num_hidden_layers": 6})
    naive = sum(2 * 2 * layer.kv_size * 1000 for layer in config.layers)

    assert kv_cache_bytes(config, 1000) < naive / 2
