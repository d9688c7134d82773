"""Masks against the definition, position by position."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from g4convert.loaders.masks import causal_mask, sliding_mask
from hypothesis import given
from hypothesis import strategies as st

COUNTS = st.integers(1, 40)


def definition(queries: int, keys: int, window: int | None) -> np.ndarray:
    """Bool [queries, keys], written out."""
    seen = np.zeros((queries, keys), bool)
    for query in range(queries):
        for key in range(keys):
            distance = keys - queries + query - key
            seen[query, key] = 0 <= distance < (window or keys)
    return seen


def as_array(mask: object, queries: int, keys: int) -> np.ndarray:
    """What a mask stands for."""
    if isinstance(mask, mx.array):
        return np.array(mask)
    return definition(queries, keys, None) if mask == "causal" else np.ones((queries, keys), bool)


@given(queries=COUNTS, past=st.integers(0, 40), window=st.none() | COUNTS)
def test_a_mask_says_what_the_definition_says(queries: int, past: int, window: int | None) -> None:
    keys = past + queries

    mask = causal_mask(queries, keys, window)

    assert (as_array(mask, queries, keys) == definition(queries, keys, window)).all()


@given(queries=COUNTS, past=st.integers(0, 40), window=COUNTS)
def test_every_row_sees_its_own_key(queries: int, past: int, window: int) -> None:
    mask = np.array(sliding_mask(queries, past + queries, window))

    assert mask[np.arange(queries), past + np.arange(queries)].all()


def test_one_query_within_the_window_needs_no_mask() -> None:
    assert causal_mask(1, 8, 8) is None
    assert causal_mask(1, 1000) is None


def test_the_window_counts_the_query_itself() -> None:
    assert np.array(sliding_mask(1, 5, 3)).tolist() == [[False, False, True, True, True]]


def test_a_prompt_within_the_window_is_plainly_causal() -> None:
    assert causal_mask(8, 8, 8) == "causal"
    assert isinstance(causal_mask(9, 9, 8), mx.array)
