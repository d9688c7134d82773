"""Media through the towers, several at once: the same features whatever goes together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import encoding, vision
from g4convert.loaders.encoding import batches, encode, stacked
from g4convert.loaders.loading import LoadedModel, load
from g4convert.loaders.media import Kind, MediaOptions
from g4convert.loaders.messages import attachments
from g4convert.loaders.model import MultimodalModel
from g4convert.loaders.prompt import Prompt
from g4convert.tests.loaders.samples import random_network, text_only
from g4convert.tests.support import CHECKPOINTS
from hypothesis import given
from hypothesis import strategies as st

Convert = Callable[..., Path]
QUESTIONS = CHECKPOINTS / "questions"
LENGTHS = st.lists(st.integers(1, 30), max_size=12)


def medium(length: int, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Patches and positions, the first of which tells the media apart."""
    return np.full((length, 3), number, np.float32), np.zeros((length, 2), np.int32)


@given(lengths=LENGTHS, limit=st.integers(1, 60))
def test_batches_hold_all_media_in_order_within_the_limit(lengths: list[int], limit: int) -> None:
    media = [medium(length, number) for number, length in enumerate(lengths)]
    made = list(batches(media, limit))

    assert [int(first[0, 0]) for batch in made for first, _ in batch] == list(range(len(lengths)))
    for batch in made:
        assert len(batch) == 1 or len(batch) * max(len(positions) for _, positions in batch) <= limit


@given(lengths=LENGTHS, limit=st.integers(1, 60))
def test_a_batch_ends_where_the_next_medium_would_not_fit(lengths: list[int], limit: int) -> None:
    made = [[len(positions) for _, positions in batch] for batch in batches([medium(n) for n in lengths], limit)]

    assert all(made)
    for batch, following in pairwise(made):
        assert (len(batch) + 1) * max(*batch, following[0]) > limit


def test_a_medium_larger_than_the_limit_goes_alone() -> None:
    made = list(batches([medium(2), medium(50), medium(2)], limit=10))

    assert [len(batch) for batch in made] == [1, 1, 1]


def test_shorter_arrays_are_filled_up() -> None:
    stack = np.array(stacked([np.ones((1, 2), np.int32), np.ones((3, 2), np.int32)], -1))

    assert stack.shape == (2, 3, 2)
    assert stack[:, :, 0].tolist() == [[1, -1, -1], [1, 1, 1]]


@pytest.fixture(scope="module")
def model(converted: Convert) -> LoadedModel:
    return load(converted("e2b", quantize=False))


@pytest.fixture(scope="module")
def prompt(model: LoadedModel) -> Prompt:
    """Pictures, sounds and clips of several lengths."""
    shown = attachments(
        images=[QUESTIONS / f"picture-{number}.png" for number in (1, 2, 8)],
        sounds=[QUESTIONS / f"sound-{number}.wav" for number in (1, 6)],
        videos=[QUESTIONS / "clip-1.mp4"],
    )
    return model.prompt.prepare("What is it?", attachments=shown, options=MediaOptions(max_frames=2))


@pytest.fixture(scope="module")
def features(model: LoadedModel, prompt: Prompt) -> dict[Kind, np.ndarray]:
    return as_arrays(encode(model.network, prompt))


def as_arrays(features: dict[Kind, mx.array]) -> dict[Kind, np.ndarray]:
    return {kind: np.array(found) for kind, found in features.items()}


def assert_same(found: dict[Kind, np.ndarray], expected: dict[Kind, np.ndarray]) -> None:
    """Equal up to the rounding of sums in another order."""
    assert found.keys() == expected.keys()
    for kind, array in expected.items():
        np.testing.assert_allclose(found[kind], array, rtol=0, atol=1e-4 * np.abs(array).max(), err_msg=kind)


def test_there_is_a_feature_for_each_soft_token(prompt: Prompt, features: dict[Kind, np.ndarray]) -> None:
    counts = {
        "image": sum(image.soft_tokens for image in prompt.images),
        "video": sum(video.soft_tokens * len(video.labels) for video in prompt.videos),
        "audio": sum(sound.soft_tokens for sound in prompt.sounds),
    }

    assert {kind: len(found) for kind, found in features.items()} == counts


@pytest.mark.parametrize("limit", [1, 1300])
def test_features_do_not_depend_on_what_goes_together(
    limit: int,
    model: LoadedModel,
    prompt: Prompt,
    features: dict[Kind, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "PATCHES_AT_ONCE", limit)
    monkeypatch.setattr(encoding, "FRAMES_AT_ONCE", limit)

    assert_same(as_arrays(encode(model.network, prompt)), features)


def test_no_pass_is_larger_than_the_limit(model: LoadedModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def see(_: object, patches: mx.array, positions: mx.array) -> list[mx.array]:
        shapes.append(positions.shape)
        return [mx.zeros((1, 1)) for _ in range(len(patches))]

    monkeypatch.setattr(MultimodalModel, "see", see)
    monkeypatch.setattr(encoding, "PATCHES_AT_ONCE", 1300)
    encode(model.network, replace(prompt, sounds=()))

    assert [batch for batch, *_ in shapes] == [2, 1, 2]
    assert max(batch * patches for batch, patches, _ in shapes) <= 1300


@pytest.mark.parametrize("scores", [1, 7, 2 * 3 * 11, 2 * 3 * 11 * 4, 10**9])
def test_slices_of_queries_are_one_call(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys, values = mx.random.normal((3, 2, 3, 11, 8), key=mx.random.key(1))
    mask = mx.arange(11)[None, None, None] < mx.array([11, 7])[:, None, None, None]
    whole = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask=mask)

    monkeypatch.setattr(vision, "SCORES_AT_ONCE", scores)

    np.testing.assert_allclose(np.array(vision.attend(queries, keys, values, mask)), np.array(whole), atol=1e-5)


def test_padding_that_is_seen_would_show(
    model: LoadedModel, prompt: Prompt, features: dict[Kind, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "NO_FRAME", True)
    sounds = Prompt(prompt.ids, sounds=prompt.sounds)

    with pytest.raises(AssertionError):
        assert_same(as_arrays(encode(model.network, sounds)), {"audio": features["audio"]})


def test_a_model_of_text_alone_encodes_nothing(prompt: Prompt) -> None:
    assert encode(random_network(text_only()), prompt) == {}


def test_without_media_nothing_is_encoded(model: LoadedModel) -> None:
    assert encode(model.network, Prompt((2,))) == {}
