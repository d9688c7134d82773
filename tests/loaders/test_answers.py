"""The trained samples still answer when they are converted, at 4 bits too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from g4convert.loaders import LoadedModel, generate, load
from g4convert.loaders.media import MediaOptions, Reach
from g4convert.loaders.messages import Attachment
from g4convert.tests.support import CHECKPOINTS, read_json

Convert = Callable[..., Path]
QUESTIONS = read_json(CHECKPOINTS / "questions" / "text.json")["questions"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"quantize": False},
    "balanced": {},
    "uniform": {"recipe": "uniform"},
    "mxfp8": {"mode": "mxfp8"},
}
# With 4-bit embeddings a sample of 1.8 million parameters has near ties, of which one may fall the other way.
MOST_WRONG = {"uniform": 1}


def test_there_are_enough_questions() -> None:
    assert len(QUESTIONS) >= 24
    assert len({question["kind"] for question in QUESTIONS}) >= 4


@pytest.mark.parametrize("options", OPTIONS)
def test_the_answers_are_right(options: str, converted: Convert) -> None:
    model = load(converted("e2b", **OPTIONS[options]))

    wrong = {
        entry["question"]: answer
        for entry in QUESTIONS
        if (answer := generate(model, entry["question"], max_tokens=16).text) != entry["answer"]
    }
    assert len(wrong) <= MOST_WRONG.get(options, 0), wrong


def test_a_broken_weight_changes_the_answers(converted: Convert) -> None:
    model = load(converted("e2b"))
    scale = model.text.model.layers[1].layer_scalar
    model.text.model.layers[1].layer_scalar = -scale

    answers = [generate(model, entry["question"], max_tokens=16).text for entry in QUESTIONS]

    assert answers != [entry["answer"] for entry in QUESTIONS]


FOLDER = CHECKPOINTS / "questions"
MEDIA_QUESTIONS = read_json(FOLDER / "media.json")["questions"]


def answer(model: LoadedModel, entry: Any) -> str:
    """What the model says to a question with media."""
    media = [Attachment(medium["type"], medium["file"]) for medium in entry["media"]]
    options = MediaOptions(reach=Reach(FOLDER))
    prompt = model.prompt.prepare(entry["question"], attachments=media, options=options)
    return generate(model, prompt, max_tokens=16).text


def wrong_answers(model: LoadedModel, entries: list[Any]) -> dict[str, str]:
    said = {str(entry): (answer(model, entry), entry["answer"]) for entry in entries}
    return {entry: found for entry, (found, right) in said.items() if found != right}


def showing(*kinds: str) -> list[Any]:
    """The questions whose media are exactly of these kinds."""
    return [entry for entry in MEDIA_QUESTIONS if [medium["type"] for medium in entry["media"]] == list(kinds)]


def test_there_are_enough_media_questions() -> None:
    assert len(MEDIA_QUESTIONS) == 18
    assert [len(showing(kind)) for kind in ("image", "audio", "video")] == [5, 5, 4]
    assert showing("image", "audio")
    assert showing("image", "audio", "video")


@pytest.mark.parametrize("options", ["plain", "uniform"])
def test_the_12b_answers_as_well(options: str, converted: Convert) -> None:
    model = load(converted("12b", **OPTIONS[options]))
    known = read_json(FOLDER / "12b.json")
    texts = [QUESTIONS[index] for index in known["text"]]
    answers = [generate(model, entry["question"], max_tokens=16).text for entry in texts]

    assert (len(texts), len(known["media"])) == (30, 17)
    assert answers == [entry["answer"] for entry in texts]
    assert wrong_answers(model, [MEDIA_QUESTIONS[index] for index in known["media"]]) == {}


@pytest.mark.parametrize("options", ["plain", "balanced"])
def test_what_is_shown_is_answered_about_rightly(options: str, converted: Convert) -> None:
    assert wrong_answers(load(converted("e2b", **OPTIONS[options])), MEDIA_QUESTIONS) == {}


def test_swapped_pictures_swap_the_answers(converted: Convert) -> None:
    model = load(converted("e2b"))
    for question in ("Where is it?", "What colour is the background?"):
        one, other = (entry for entry in showing("image") if entry["question"] == question)

        said = [answer(model, {**entry, "media": shown["media"]}) for entry, shown in ((one, other), (other, one))]

        assert one["answer"] != other["answer"]
        assert said == [other["answer"], one["answer"]]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("image", "vision_tower.encoder.layers.0.self_attn.q_proj.linear"),
        ("video", "embed_vision.embedding_projection"),
        ("audio", "audio_tower.layers.0.self_attn.q_proj.linear"),
    ],
)
def test_a_broken_tower_changes_the_answers(kind: str, path: str, converted: Convert) -> None:
    model = load(converted("e2b"))
    modules: dict[str, Any] = dict(model.network.named_modules())
    modules[path].weight = mx.negative(modules[path].weight)

    assert wrong_answers(model, showing(kind)[:3]) != {}
