"""Masks against the definition, position by position."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import masks
from g4convert.loaders.masks import NO_BLOCK, block_mask, causal_mask, sliding_mask, vision_blocks
from hypothesis import given, settings
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


IS_VISION = st.lists(st.booleans(), min_size=1, max_size=30)


def numbered(is_vision: list[bool]) -> list[int]:
    """The number of each token's run of True, written out; -1 outside of one."""
    numbers, number = [], -1
    for index, inside in enumerate(is_vision):
        number += inside and not (index and is_vision[index - 1])
        numbers.append(number if inside else -1)
    return numbers


def blocks_by_definition(blocks: list[int], queries: int, window: int) -> np.ndarray:
    """Bool [queries, keys]: causal or in the same block, and not `window` or more places back."""
    keys = len(blocks)
    seen = np.zeros((queries, keys), bool)
    for row, query in enumerate(range(keys - queries, keys)):
        for key in range(keys):
            together = blocks[query] != -1 and blocks[query] == blocks[key]
            seen[row, key] = (key <= query or together) and query - key < window
    return seen


@settings(deadline=None)
@given(is_vision=IS_VISION)
def test_each_run_of_media_tokens_is_a_block(is_vision: list[bool]) -> None:
    blocks = vision_blocks(np.array(is_vision))

    assert blocks.tolist() == numbered(is_vision)
    assert NO_BLOCK == -1


@settings(deadline=None)
@given(past=st.integers(0, 30), is_vision=IS_VISION, window=COUNTS)
def test_a_block_mask_says_what_the_definition_says(past: int, is_vision: list[bool], window: int) -> None:
    queries, keys = len(is_vision), past + len(is_vision)

    mask = np.array(block_mask(vision_blocks(np.array(is_vision)), queries, keys, window))

    assert (mask == blocks_by_definition([-1] * past + numbered(is_vision), queries, window)).all()


@settings(deadline=None)
@given(is_vision=IS_VISION, few=st.integers(1, 30), window=COUNTS)
def test_the_last_queries_see_what_they_see_among_all(is_vision: list[bool], few: int, window: int) -> None:
    length, blocks = len(is_vision), vision_blocks(np.array(is_vision))
    few = min(few, length)

    whole, part = (np.array(block_mask(blocks, queries, length, window)) for queries in (length, few))

    assert (part == whole[-few:]).all()


@settings(deadline=None)
@given(queries=COUNTS, past=st.integers(0, 40), window=COUNTS)
def test_without_a_block_a_block_mask_is_a_sliding_mask(queries: int, past: int, window: int) -> None:
    nothing = np.full(queries, NO_BLOCK, np.int32)

    mask = block_mask(nothing, queries, past + queries, window)

    assert mx.array_equal(mask, sliding_mask(queries, past + queries, window))


def test_a_picture_larger_than_the_window_ends_on_its_far_side_only() -> None:
    mask = np.array(block_mask(np.zeros(5, np.int32), 5, 5, 2))

    assert mask[0].tolist() == [True] * 5
    assert mask[4].tolist() == [False, False, False, True, True]


def test_two_pictures_do_not_see_each_other_ahead() -> None:
    is_vision = np.array([True, True, False, True, True])

    assert np.array(block_mask(vision_blocks(is_vision), 5, 5, 9))[0].tolist() == [True, True, False, False, False]


def test_text_that_saw_itself_as_a_block_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "NO_BLOCK", -2)
    text = np.full(4, -1, np.int32)

    assert not mx.array_equal(block_mask(text, 4, 4, 9), sliding_mask(4, 4, 9))
