"""What stands in a prompt for a medium: as many placeholders as it has soft tokens, framed, and in its place."""

from __future__ import annotations

from itertools import cycle
from typing import Literal

import numpy as np
import pytest
from g4convert.loaders.media import Audio, Image, Kind, Video
from g4convert.loaders.placeholders import Marks, expand, expansion
from g4convert.schemas.errors import MediaError, PlaceholderError
from hypothesis import given
from hypothesis import strategies as st

MARKS: dict[Kind, Marks] = {
    "image": Marks("<|image>", "<|image|>", "<image|>"),
    "audio": Marks("<|audio>", "<|audio|>", "<audio|>"),
    "video": Marks("<|image>", "<|video|>", "<image|>"),
}
NOTHING = np.zeros((0, 0), np.float32)
NOWHERE = np.zeros((0, 2), np.int32)
NEVER = np.zeros(0, np.bool_)

Texts = dict[Kind, list[str]]


def picture(soft_tokens: int) -> Image:
    return Image(NOTHING, NOWHERE, soft_tokens)


def sound(*soft_tokens: int) -> tuple[Audio, ...]:
    """A sound of so many clips."""
    return tuple(Audio(NOTHING, NEVER, count) for count in soft_tokens)


def clip(soft_tokens: int, *labels: str) -> Video:
    """A clip with a frame at each time."""
    indices = np.arange(len(labels))
    return Video(NOTHING, NOWHERE, soft_tokens, indices, tuple(map(float, indices)), labels)


def texts(**given: list[str]) -> Texts:
    return {kind: given.get(kind, []) for kind in MARKS}


def test_a_picture_is_framed_once() -> None:
    assert expansion(picture(3), MARKS["image"]) == "<|image><|image|><|image|><|image|><image|>"


def test_each_clip_of_a_split_sound_is_framed() -> None:
    assert expansion(sound(2), MARKS["audio"]) == "<|audio><|audio|><|audio|><audio|>"
    assert expansion(sound(2, 1), MARKS["audio"]) == "<|audio><|audio|><|audio|><audio|><|audio><|audio|><audio|>"


def test_each_frame_of_a_clip_is_framed_behind_its_time() -> None:
    assert expansion(clip(1, "00:00"), MARKS["video"]) == "00:00 <|image><|video|><image|>"
    assert expansion(clip(2, "00:59", "01:00"), MARKS["video"]) == (
        "00:59 <|image><|video|><|video|><image|> 01:00 <|image><|video|><|video|><image|>"
    )


def test_placeholders_of_a_kind_are_replaced_in_order() -> None:
    text = "<|image|>a<|video|>b<|image|>"

    assert expand(text, MARKS, texts(image=["1", "2"], video=["3"])) == "1a3b2"


def test_what_is_put_in_is_not_looked_at_again() -> None:
    long = "<|image>" + "<|image|>" * 3 + "<image|>"

    assert expand("<|image|><|image|>", MARKS, texts(image=[long, "\\1"])) == long + "\\1"


def test_without_media_the_text_stays() -> None:
    assert expand("a", MARKS, texts()) == "a"
    assert expand("<|image|>", {}, {}) == "<|image|>"


@pytest.mark.parametrize(
    ("text", "media", "numbers"),
    [
        ("a", 1, "0 times, and 1 "),
        ("a<|audio|>b", 2, "1 times, and 2 "),
        ("<|audio|><|audio|>", 1, "2 times, and 1 "),
        ("<|audio|>", 0, "1 times, and 0 "),
    ],
)
def test_another_number_of_places_than_of_media_names_both(text: str, media: int, numbers: str) -> None:
    with pytest.raises(PlaceholderError, match=rf"^audio: .*<\|audio\|> {numbers}came with it; ") as caught:
        expand(text, MARKS, texts(audio=["x"] * media))
    assert isinstance(caught.value, MediaError)


def test_media_of_one_kind_do_not_make_up_for_another() -> None:
    with pytest.raises(PlaceholderError, match=r"^image: "):
        expand("<|image|>", MARKS, texts(video=["x"]))


Piece = tuple[Literal["text", "image", "audio", "video"], str]
WORDS = st.text("<|>imageaudiovideo ", max_size=12).filter(lambda word: "|>" not in word and not word.endswith("|"))
PIECES = st.lists(st.tuples(st.sampled_from(["text", *MARKS]), WORDS), max_size=12)


@given(pieces=PIECES)
def test_an_expansion_is_the_pieces_side_by_side(pieces: list[Piece]) -> None:
    written = "".join(word if kind == "text" else MARKS[kind].placeholder for kind, word in pieces)
    brought: Texts = {kind: [word for piece, word in pieces if piece == kind] for kind in MARKS}

    assert expand(written, MARKS, brought) == "".join(word for _, word in pieces)


@given(pieces=PIECES, more=st.integers(1, 3), kind=st.sampled_from(list(MARKS)))
def test_one_medium_too_many_or_too_few_is_refused(pieces: list[Piece], more: int, kind: Kind) -> None:
    written = "".join(word if piece == "text" else MARKS[piece].placeholder for piece, word in pieces)
    brought: Texts = {one: [word for piece, word in pieces if piece == one] for one in MARKS}
    brought[kind] += [word for word, _ in zip(cycle("x"), range(more), strict=False)]

    with pytest.raises(PlaceholderError):
        expand(written, MARKS, brought)
    with pytest.raises(PlaceholderError):
        expand(written + MARKS[kind].placeholder * (more + 1), MARKS, brought)
