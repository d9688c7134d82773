"""Caches against attention over the whole sequence with the whole mask."""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders.cache import Cache, FullCache, SlidingCache, make_caches
from g4convert.loaders.config import TextConfig
from g4convert.loaders.masks import Mask, causal_mask
from g4convert.tests.loaders.samples import WINDOW, text_block
from hypothesis import given, settings
from hypothesis import strategies as st

HEADS, DIM = 2, 4
# Room of the caches, small enough that buffers overflow within a short test.
SLACK = 5


def random_heads(length: int, seed: int) -> list[mx.array]:
    """Queries, keys and values [1, HEADS, length, DIM]."""
    keys = mx.random.split(mx.random.key(seed), 3)
    return [mx.random.normal((1, HEADS, length, DIM), key=key) for key in keys]


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: Mask) -> np.ndarray:
    return np.array(mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask=mask))


def in_chunks(cache: Cache, cuts: list[int], heads: list[mx.array], window: int | None) -> np.ndarray:
    pieces = []
    for start, end in pairwise(cuts):
        queries, new_keys, new_values = (array[:, :, start:end] for array in heads)
        keys, values = cache.update(new_keys, new_values)
        pieces.append(attend(queries, keys, values, causal_mask(end - start, keys.shape[2], window)))
    return np.concatenate(pieces, axis=2)


def naive(heads: list[mx.array], window: int | None) -> np.ndarray:
    queries, keys, values = heads
    at = np.arange(queries.shape[2])
    seen = (at[None] <= at[:, None]) & (at[None] > at[:, None] - (window or len(at)))
    return attend(queries, keys, values, mx.array(seen))


@settings(deadline=None)
@given(
    length=st.integers(1, 60),
    cuts=st.sets(st.integers(1, 59)),
    window=st.none() | st.integers(1, 20),
    slack=st.integers(0, 20),
)
def test_chunks_of_any_size_see_what_a_single_pass_sees(
    length: int, cuts: set[int], window: int | None, slack: int
) -> None:
    heads = random_heads(length, 1)
    cache: Cache = FullCache(slack) if window is None else SlidingCache(window, slack)
    ends = [0, *sorted(cut for cut in cuts if cut < length), length]

    out = in_chunks(cache, ends, heads, window)

    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, naive(heads, window), atol=2e-6)
    assert cache.offset == length


@pytest.mark.parametrize("window", [None, 1, 2, 7])
def test_token_by_token_far_past_the_window(window: int | None) -> None:
    heads = random_heads(100, 2)
    cache: Cache = FullCache(SLACK) if window is None else SlidingCache(window, SLACK)

    np.testing.assert_allclose(in_chunks(cache, list(range(101)), heads, window), naive(heads, window), atol=2e-6)


@pytest.mark.parametrize("slack", [1, SLACK, 256])
def test_a_sliding_cache_keeps_a_window_and_some_room(slack: int) -> None:
    cache = SlidingCache(WINDOW, slack)
    for seed in range(200):
        _, keys, values = random_heads(1, seed)
        cache.update(keys, values)

    assert max(array.shape[2] for array in cache.state) <= WINDOW + 2 * slack


def test_a_long_chunk_does_not_stay_in_a_sliding_cache() -> None:
    cache = SlidingCache(WINDOW, SLACK)
    for length in (500, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1):
        _, keys, values = random_heads(length, length)
        cache.update(keys, values)

    assert cache.state[0].shape[2] <= WINDOW + 2 * SLACK


def test_a_single_token_gets_exactly_the_window() -> None:
    cache = SlidingCache(WINDOW, SLACK)
    _, keys, values = random_heads(3 * WINDOW, 0)
    cache.update(keys, values)
    _, key, value = random_heads(1, 1)

    seen, _ = cache.update(key, value)

    assert seen.shape[2] == WINDOW
    assert mx.array_equal(seen[:, :, :-1], keys[:, :, -(WINDOW - 1) :])


def test_only_layers_that_compute_keys_have_a_cache() -> None:
    caches = make_caches(TextConfig.from_dict(text_block()))

    assert list(caches) == [0, 1, 2, 3]
    assert [type(cache) for cache in caches.values()] == [SlidingCache, FullCache] * 2
