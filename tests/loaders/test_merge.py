"""Features between embeddings: each in its place whatever stands around it, and passes that cut no vision block."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import merge as module
from g4convert.loaders.config import ModelConfig
from g4convert.loaders.masks import NO_BLOCK
from g4convert.loaders.media import Kind
from g4convert.loaders.merge import Merged, merge
from g4convert.loaders.model import language_model
from g4convert.loaders.text import TextModel
from g4convert.schemas.errors import MediaError, PlaceholderError
from g4convert.tests.loaders.samples import (
    AUDIO,
    BOA,
    BOI,
    BOS,
    EOA,
    EOI,
    FIRST_BYTE,
    IMAGE,
    PAD,
    VIDEO,
    multimodal,
    random_network,
    text_block,
)
from hypothesis import given, settings
from hypothesis import strategies as st

HIDDEN = 32
CAUSAL = ModelConfig.from_dict(multimodal())
BLOCKS = ModelConfig.from_dict(multimodal(text_block(use_bidirectional_attention="vision")))
TOKENS: dict[Kind, tuple[int, int, int]] = {
    "image": (BOI, IMAGE, EOI),
    "audio": (BOA, AUDIO, EOA),
    "video": (BOI, VIDEO, EOI),
}

Piece = tuple[Literal["text", "image", "audio", "video"], int]
PIECES = st.lists(st.tuples(st.sampled_from(["text", *TOKENS]), st.integers(1, 6)), max_size=8)
CHUNKS = st.integers(1, 20)


def ids_of(pieces: list[Piece]) -> list[int]:
    """BOS, then as many tokens as each piece says, media framed."""
    ids = [BOS]
    for kind, count in pieces:
        if kind == "text":
            ids += range(FIRST_BYTE, FIRST_BYTE + count)
        else:
            begin, token, end = TOKENS[kind]
            ids += [begin, *[token] * count, end]
    return ids


def features_of(pieces: list[Piece]) -> dict[Kind, mx.array]:
    """For each kind that occurs, rows that no two features share."""
    counts = {kind: sum(count for piece, count in pieces if piece == kind) for kind in TOKENS}
    return {
        kind: mx.array(np.arange(count * HIDDEN, dtype=np.float32).reshape(count, HIDDEN) + 10_000 * (1 + number))
        for number, (kind, count) in enumerate(counts.items())
        if count
    }


def by_definition(text: TextModel, ids: list[int], features: dict[Kind, mx.array]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [L, hidden] and rows of the PLE table [L, layers, P], token by token."""
    kinds: dict[int, Kind] = {token: kind for kind, (_, token, _) in TOKENS.items()}
    waiting = {kind: iter(np.array(rows)) for kind, rows in features.items()}
    embeddings, per_layer = [], []
    for token in ids:
        is_feature = kinds.get(token) in waiting
        inputs = text.embed(mx.array([[PAD if is_feature else token]]))
        embeddings.append(next(waiting[kinds[token]]) if is_feature else np.array(inputs.embeddings)[0, 0])
        per_layer.append(np.array(inputs.per_layer)[0, 0])
    return np.stack(embeddings), np.stack(per_layer)


@pytest.fixture(scope="module")
def text() -> TextModel:
    return language_model(random_network(multimodal())).model


def made(pieces: list[Piece], config: ModelConfig = CAUSAL) -> Merged:
    return merge(config, np.array(ids_of(pieces)), features_of(pieces))


@settings(max_examples=50, deadline=None)
@given(pieces=PIECES, chunk=CHUNKS)
def test_features_stand_where_their_placeholders_are(pieces: list[Piece], chunk: int, text: TextModel) -> None:
    merged = made(pieces)
    inputs = [merged.inputs(text, start, stop) for start, stop in merged.passes(chunk)]
    embeddings, per_layer = by_definition(text, ids_of(pieces), features_of(pieces))

    np.testing.assert_array_equal(np.concatenate([np.array(one.embeddings[0]) for one in inputs]), embeddings)
    np.testing.assert_array_equal(np.concatenate([np.array(one.per_layer)[0] for one in inputs]), per_layer)


@settings(deadline=None)
@given(pieces=PIECES, chunk=CHUNKS, config=st.sampled_from([CAUSAL, BLOCKS]))
def test_passes_cover_every_token_once(pieces: list[Piece], chunk: int, config: ModelConfig) -> None:
    merged = made(pieces, config)
    passes = list(merged.passes(chunk))

    assert [start for start, _ in passes] == [0, *(stop for _, stop in passes[:-1])]
    assert passes[-1][1] == len(merged.ids)
    assert all(stop - start >= chunk for start, stop in passes[:-1])


@settings(deadline=None)
@given(pieces=PIECES, chunk=CHUNKS)
def test_no_pass_ends_inside_a_picture_that_sees_itself(pieces: list[Piece], chunk: int) -> None:
    ids, merged = ids_of(pieces), made(pieces, BLOCKS)
    vision = (IMAGE, VIDEO)

    for start, stop in list(merged.passes(chunk))[:-1]:
        assert not (ids[stop - 1] in vision and ids[stop] in vision)
        # Not a token further than it must.
        assert stop == start + chunk or ids[stop - 1] in vision


@settings(deadline=None)
@given(pieces=PIECES)
def test_a_block_is_the_tokens_of_one_picture_or_frame(pieces: list[Piece]) -> None:
    merged = made(pieces, BLOCKS)
    seen = [count for kind, count in pieces if kind in ("image", "video")]

    if not seen:
        assert merged.blocks is None
        return
    assert merged.blocks is not None
    numbers, counts = np.unique(merged.blocks[merged.blocks != NO_BLOCK], return_counts=True)
    assert (numbers.tolist(), counts.tolist()) == (list(range(len(seen))), seen)


@settings(deadline=None)
@given(pieces=PIECES)
def test_without_bidirectional_attention_there_are_no_blocks(pieces: list[Piece]) -> None:
    assert made(pieces).blocks is None


def test_a_pass_takes_its_part_of_the_blocks(text: TextModel) -> None:
    merged = made([("image", 2), ("text", 3), ("video", 1), ("audio", 2)], BLOCKS)

    assert [one.blocks is None for one in (merged.inputs(text, 0, 2), merged.inputs(text, 5, 8))] == [True, True]
    for start, stop in ((0, 5), (2, 4), (5, 13), (0, 16)):
        blocks = merged.inputs(text, start, stop).blocks
        assert merged.blocks is not None
        assert blocks is not None
        assert blocks.tolist() == merged.blocks[start:stop].tolist()


def test_text_alone_is_the_text_path(text: TextModel) -> None:
    ids = np.array([BOS, 30, 31])
    merged = merge(CAUSAL, ids, {})

    inputs, plain = merged.inputs(text, 0, 3), text.embed(mx.array(ids)[None])

    assert (merged.ids.tolist(), merged.places.tolist(), merged.features) == (ids.tolist(), [], None)
    assert mx.array_equal(inputs.embeddings, plain.embeddings)
    assert inputs.blocks is None


def test_the_pad_id_stands_where_features_do() -> None:
    pieces: list[Piece] = [("text", 2), ("image", 2), ("audio", 1)]

    merged = made(pieces)

    assert merged.ids.tolist() == [BOS, FIRST_BYTE, FIRST_BYTE + 1, BOI, PAD, PAD, EOI, BOA, PAD, EOA]
    assert merged.places.tolist() == [4, 5, 8]


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("more", [-1, 1])
def test_another_number_of_features_than_of_placeholders_names_both(kind: Kind, more: int) -> None:
    pieces: list[Piece] = [(one, 3) for one in TOKENS]
    features = features_of(pieces) | {kind: mx.zeros((3 + more, HIDDEN))}

    with pytest.raises(
        PlaceholderError, match=rf"^{kind}: the prompt has 3 placeholders, .* {3 + more} features$"
    ) as e:
        merge(CAUSAL, np.array(ids_of(pieces)), features)
    assert isinstance(e.value, MediaError)


def test_features_come_in_the_dtype_of_the_embeddings(text: TextModel) -> None:
    merged = merge(CAUSAL, np.array([BOS, BOI, IMAGE, EOI]), {"image": mx.ones((1, HIDDEN), mx.bfloat16)})

    assert merged.inputs(text, 0, 4).embeddings.dtype == mx.float32


def test_passes_that_cut_a_block_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    merged = made([("image", 6)], BLOCKS)
    assert list(merged.passes(3)) == [(0, 8), (8, 9)]

    monkeypatch.setattr(module.Merged, "_is_inside", lambda self, stop: False)

    assert list(merged.passes(3)) == [(0, 3), (3, 6), (6, 9)]
