"""The text backbone of every family against transformers 5.23 in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders.cache import make_caches
from g4convert.loaders.loading import load
from g4convert.loaders.text import LanguageModel
from g4convert.tests.parity import reference
from g4convert.tests.support import KINDS

pytestmark = pytest.mark.parity

WINDOW = 32
LENGTHS = {"1": 1, "w-1": WINDOW - 1, "w": WINDOW, "w+1": WINDOW + 1, "2w+3": 2 * WINDOW + 3}
CHUNKS = {"single pass": None, "chunks of 1": 1, "chunks of 7": 7, "chunks of w": WINDOW}


@dataclass(frozen=True)
class Pair:
    """One sample, loaded twice."""

    kind: str
    ours: LanguageModel
    theirs: object

    def expected(self, ids: np.ndarray) -> np.ndarray:
        """The reference's logits [L, vocabulary] for ids [L]."""
        return reference.reference_logits(self.theirs, ids)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, converted: Callable[..., Path]) -> Pair:
    model = load(converted(request.param, quantize=False, dtype="float32"))
    assert model.config.text.sliding_window == WINDOW
    return Pair(request.param, model.text, reference.reference_model(request.param))


def run(network: LanguageModel, ids: np.ndarray, chunk: int | None) -> np.ndarray:
    """Logits [L, vocabulary]: in one pass without a cache, or in chunks with one."""
    tokens = mx.array(ids)[None]
    if chunk is None:
        return np.array(network(tokens)[0])
    caches = make_caches(network.config)
    pieces = [np.array(network(tokens[:, i : i + chunk], caches)[0]) for i in range(0, len(ids), chunk)]
    return np.concatenate(pieces)


@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS.keys())
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS.keys())
def test_logits_are_the_reference_up_to_rounding(pair: Pair, length: int, chunk: int | None) -> None:
    ids = reference.random_ids(pair.kind, length, seed=length)

    found = reference.distance(run(pair.ours, ids, chunk), pair.expected(ids))

    assert found.is_rounding, found


def test_decoding_past_the_window_after_a_prefill(pair: Pair) -> None:
    prompt, total = WINDOW + 5, 3 * WINDOW + 11
    ids = reference.random_ids(pair.kind, total, seed=99)
    caches = make_caches(pair.ours.config)

    first = pair.ours(mx.array(ids[None, :prompt]), caches)[0]
    steps = [pair.ours(mx.array(ids[None, i : i + 1]), caches)[0] for i in range(prompt, total)]
    found = reference.distance(np.array(mx.concatenate([first, *steps])), pair.expected(ids))

    assert found.is_rounding, found


@pytest.mark.parametrize("chunk", [5, WINDOW, 1000])
def test_the_last_position_alone_is_the_same(pair: Pair, chunk: int) -> None:
    ids = reference.random_ids(pair.kind, 2 * WINDOW + 3, seed=7)
    caches = make_caches(pair.ours.config)

    for start in range(0, len(ids), chunk):
        logits = pair.ours(mx.array(ids[None, start : start + chunk]), caches, last_only=True)
    found = reference.distance(np.array(logits[0]), pair.expected(ids)[-1:])

    assert logits.shape[1] == 1
    assert found.is_rounding, found


def test_ready_embeddings_give_what_their_ids_give(pair: Pair) -> None:
    ids = mx.array(reference.random_ids(pair.kind, WINDOW + 1, seed=3))[None]

    assert mx.array_equal(pair.ours(pair.ours.model.embed(ids)), pair.ours(ids))
