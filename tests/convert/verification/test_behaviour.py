"""Questions with known answers, and what becomes of a model that no longer answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from g4convert.convert.source import open_source
from g4convert.convert.verification import behaviour as module
from g4convert.convert.verification.answering import answer
from g4convert.convert.verification.behaviour import MOST_TOKENS, QUESTIONS, Question, behaviour, degenerate, long_text
from g4convert.convert.verification.checking import take_step
from g4convert.convert.verification.outcome import Check, Status, Verification
from g4convert.convert.verification.subject import Subject
from g4convert.convert.verification.tracing import converted_runner
from g4convert.loaders import generate, load
from g4convert.tests.support import CHECKPOINTS, edit_json, edit_tensors

Convert = Callable[..., Path]


def step(subject: Subject) -> tuple[Check, Check]:
    ours, theirs = take_step("behaviour", behaviour(subject), subject, set()).checks
    return ours, theirs


def text_subject(converted: Convert) -> Subject:
    return Subject(converted("text"), open_source(CHECKPOINTS / "text"))


def test_the_trained_sample_answers_rightly_and_so_does_its_source(verified: Verification) -> None:
    ours, theirs = (verified.check("behaviour", name) for name in ("answers", "answers of the source"))
    assert ours is not None
    assert theirs is not None
    for check in (ours, theirs):
        assert [entry for entry in check.figures["answers"] if not entry["right"]] == []
        assert check.figures["right"] == check.figures["questions"] == len(QUESTIONS) + 1
    assert theirs.figures["same"] == theirs.figures["questions"]


def test_every_kind_of_medium_is_asked_about(verified: Verification) -> None:
    check = verified.check("behaviour", "answers")
    assert check is not None
    media = [tuple(entry["media"]) for entry in check.figures["answers"]]

    assert {(), ("image",), ("audio",), ("video",), ("image", "audio", "video")} == set(media)


def test_the_fact_stands_further_back_than_the_window(converted: Convert) -> None:
    prompt = text_subject(converted).prompt

    text = long_text(prompt)

    assert text.startswith("The code is lamp. ")
    assert text.endswith(" What is the code?")
    assert len(prompt.encode(text)) > prompt.config.text.sliding_window


def test_a_model_that_takes_text_is_asked_about_text(converted: Convert) -> None:
    ours, theirs = step(text_subject(converted))

    assert [entry["media"] for entry in ours.figures["answers"]] == [[], []]
    assert (ours.status, theirs.status) == (Status.PASS, Status.PASS)


@pytest.mark.parametrize("kind", ["text", "26b-a4b"])
def test_answers_side_by_side_are_the_answers_one_by_one(kind: str, converted: Convert) -> None:
    folder = converted(kind, quantize=False)
    model, subject = load(folder, dtype="float32"), Subject(folder)
    prompts = [model.prompt.prepare(question) for question in ("What is the capital of Peru?", "Repeat: star", "I")]

    found = answer(converted_runner(subject), subject.prompt, prompts, 5)

    for prompt, tokens in zip(prompts, found, strict=True):
        expected = generate(model, prompt, max_tokens=5).tokens
        assert tuple(tokens) == expected
    assert model.prompt.stop_ids.isdisjoint(token for tokens in found for token in tokens[:-1])


@pytest.mark.parametrize(
    ("expected", "said", "right"),
    [
        ("three", "There are 3 beeps.", True),
        ("three", "two", False),
        ("red two right", "Red. Two beeps; it moves right.", True),
        ("red two right", "right two red", False),
        ("Paris", "The capital of France is **Paris**", True),
        ("lamp", "lamps", False),
        ("up", "", False),
    ],
)
def test_the_right_words_in_their_order(expected: str, said: str, right: bool) -> None:
    assert Question("?", expected).is_answered_by(said) == right


@pytest.mark.parametrize(
    ("tokens", "texts", "what"),
    [
        ([[1], [1]], ["", ""], "every answer is empty"),
        ([[7] * MOST_TOKENS] * 3, ["xx"] * 3, "every question has the same answer, which does not end: 'xx'"),
        ([[7] * MOST_TOKENS, [8] * MOST_TOKENS], ["xx", "yy"], None),
        ([[7, 1], [7, 1]], ["x", "x"], None),
        ([[1], [7, 1]], ["", "x"], None),
    ],
)
def test_what_is_no_answer(tokens: list[list[int]], texts: list[str], what: str | None) -> None:
    assert degenerate(tokens, texts) == what


def deaf(folder: Path) -> Path:
    """A model whose final norm lets nothing through, so that all logits are equal."""
    edit_tensors(folder, lambda tensors: tensors["model.norm.weight"].fill(0))
    return folder


def test_a_model_that_says_the_same_to_everything_fails(converted: Convert, tmp_path: Path) -> None:
    folder = deaf(Path(shutil.copytree(converted("text"), tmp_path / "model")))

    ours, theirs = step(Subject(folder, open_source(CHECKPOINTS / "text")))

    assert ours.status is Status.FAIL
    assert theirs.status is Status.PASS
    assert (theirs.figures["same"], theirs.figures["questions"]) == (0, 2)


def test_a_source_that_is_no_better_excuses_it(converted: Convert, tmp_path: Path) -> None:
    folder = deaf(Path(shutil.copytree(converted("text"), tmp_path / "model")))
    source = deaf(Path(shutil.copytree(CHECKPOINTS / "text", tmp_path / "source")))

    ours, _ = step(Subject(folder, open_source(source)))

    assert ours.status is Status.PASS


def test_a_base_checkpoint_is_not_asked(converted: Convert, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted("text"), tmp_path / "model"))
    (folder / "chat_template.jinja").unlink()
    edit_json(folder / "tokenizer_config.json", lambda document: document.pop("chat_template", None))

    checks = step(Subject(folder))

    assert [check.status for check in checks] == [Status.SKIPPED] * 2
    assert checks[0].reason == "a base checkpoint: there is no chat template to ask with"


def test_no_source_no_answers_of_it(converted: Convert) -> None:
    _, theirs = step(Subject(converted("text")))

    assert (theirs.status, theirs.reason) == (Status.SKIPPED, "no source was given")


def test_a_checkpoint_that_would_read_too_much_is_not_asked(
    converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 12 * 1_000_000)

    ours, theirs = step(text_subject(converted))

    assert ours.status is Status.PASS
    assert theirs.status is Status.SKIPPED
    assert theirs.reason is not None
    assert theirs.reason.startswith("12 tokens of 0.0013")


def test_most_likely_tokens_that_are_suppressed_are_not_said(converted: Convert, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted("text"), tmp_path / "model"))
    first = said(Subject(folder))[0]
    edit_json(folder / "generation_config.json", lambda document: document.update(suppress_tokens=[first]))

    assert first not in said(Subject(folder))


def said(subject: Subject) -> Sequence[int]:
    prompt = subject.prompt.prepare("What is the capital of Peru?")
    return answer(converted_runner(subject), subject.prompt, [prompt], 2)[0]
