"""The trained sample still answers when it is converted, at 4 bits too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders import generate, load
from g4convert.tests.support import CHECKPOINTS, read_json

Convert = Callable[..., Path]
QUESTIONS = read_json(CHECKPOINTS / "questions" / "text.json")["questions"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"quantize": False},
    "balanced": {},
    "uniform": {"recipe": "uniform"},
    "mxfp8": {"mode": "mxfp8"},
}


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
    assert wrong == {}


def test_a_broken_weight_changes_the_answers(converted: Convert) -> None:
    model = load(converted("e2b"))
    scale = model.text.model.layers[1].layer_scalar
    model.text.model.layers[1].layer_scalar = -scale

    answers = [generate(model, entry["question"], max_tokens=16).text for entry in QUESTIONS]

    assert answers != [entry["answer"] for entry in QUESTIONS]
