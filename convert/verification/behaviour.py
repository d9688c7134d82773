"""The step `behaviour`: a few questions with known answers, for people to look at.

Wrong answers do not fail the step. On the sample models, networks with a missing norm, a transposed kernel or unclipped
activations went on answering every question rightly, while a sound 4-bit model now and then answers wrongly: answers
catch few bugs, and catch them at random. `numerics` is what decides. What fails here is a model that no longer answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import Any

from ...loaders.checkpoint import Checkpoint
from ...loaders.prompt import Prompt, PromptFormat
from ..source import Source
from .answering import answer
from .checking import CheckFunction, Notes, SkipError
from .outcome import Finding
from .probes import CHEAP
from .subject import Subject
from .tracing import converted_runner, source_runner
from .worlds import Beeps, Clip, Picture, World

# The longest answer; every token of all answers together reads the whole checkpoint once.
MOST_TOKENS = 12
# What the answers of one model may read: ten minutes from a disk of 500 MB/s.
MOST_BYTES = 300_000_000_000

BLUE_CIRCLE, RED_SQUARE = Picture("circle", "blue", "middle", "black"), Picture("square", "red", "left", "white")
HIGH, LOW = Beeps(2, "high"), Beeps(3, "low")
RIGHT, UP = Clip("green", "right", "white"), Clip("red", "up", "black")

CODE = "lamp"
STORY = (
    "the goat sees the moon.",
    "a boat is on the river.",
    "the king opens the door.",
    "a leaf is under the tree.",
    "the horse eats an apple.",
    "a bell is in the house.",
)

DIGITS = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five"}


@dataclass(frozen=True)
class Question:
    """What is asked, about what, and the words that a right answer has, in this order."""

    text: str
    answer: str
    worlds: tuple[World, ...] = ()

    def is_answered_by(self, text: str) -> bool:
        """Whether the right words are among those of an answer; digits count as words."""
        said = iter([DIGITS.get(word, word) for word in re.findall(r"\w+", text.casefold())])
        return all(word in said for word in self.answer.casefold().split())


QUESTIONS = (
    Question("What colour is the circle?", "blue", (BLUE_CIRCLE,)),
    Question("What colour is the background?", "black", (BLUE_CIRCLE,)),
    Question("What shape is it?", "square", (RED_SQUARE,)),
    Question("Where is it?", "left", (RED_SQUARE,)),
    Question("How many beeps?", "three", (LOW,)),
    Question("Is the tone high or low?", "high", (HIGH,)),
    Question("Which way does it move?", "right", (RIGHT,)),
    Question("Which way does it move?", "up", (UP,)),
    Question(
        "What colour is the shape, how many beeps and which way does it move?",
        "red two right",
        (RED_SQUARE, HIGH, RIGHT),
    ),
    Question("What is the capital of France?", "Paris"),
)


def questions(prompt: PromptFormat) -> list[Question]:
    """The questions for what a model takes; the last one is longer than its sliding window."""
    taken = set(prompt.marks)
    possible = [question for question in QUESTIONS if taken.issuperset(world.kind for world in question.worlds)]
    return [*possible, Question(long_text(prompt), CODE)]


def long_text(prompt: PromptFormat) -> str:
    """A fact, a story that fills the sliding window, and the question what the fact was."""
    words = len(prompt.encode(" ".join(STORY)))
    sentences = max(len(STORY), prompt.config.text.sliding_window * len(STORY) // words + 1)
    return f"The code is {CODE}. {' '.join(islice(cycle(STORY), sentences))} What is the code?"


def behaviour(subject: Subject) -> Mapping[str, CheckFunction]:
    """The checks of the step, which share the answers."""
    work = _Behaviour(subject)
    return {
        "answers": lambda _, notes: work.answers(notes),
        "answers of the source": lambda _, notes: work.comparison(notes),
    }


class _Behaviour:
    """The questions, and what two models say."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @cached_property
    def questions(self) -> list[Question]:
        return questions(self.subject.prompt)

    @cached_property
    def prompts(self) -> list[Prompt]:
        if self.subject.prompt.template is None:
            raise SkipError("a base checkpoint: there is no chat template to ask with")
        prompt = self.subject.prompt
        return [
            prompt.prepare(question.text, attachments=[one.attachment() for one in question.worlds], options=CHEAP)
            for question in self.questions
        ]

    @cached_property
    def said(self) -> list[list[int]]:
        """The tokens of each answer."""
        prompts = self.prompts
        _check_cost(self.subject.checkpoint)
        return answer(converted_runner(self.subject), self.subject.prompt, prompts, MOST_TOKENS)

    @cached_property
    def source_said(self) -> list[list[int]]:
        """The tokens of each answer of the source."""
        source, prompts = self._source(), self.prompts
        _check_cost(source.checkpoint)
        runner = source_runner(source, self.subject.config)
        return answer(runner, self.subject.prompt, prompts, MOST_TOKENS)

    def _source(self) -> Source:
        if self.subject.source is None:
            raise SkipError("no source was given")
        return self.subject.source

    def answers(self, notes: Notes) -> Iterator[Finding]:
        """The model answers, rightly or wrongly."""
        texts = [self.text(tokens) for tokens in self.said]
        entries = [_entry(question, text) for question, text in zip(self.questions, texts, strict=True)]
        right = sum(entry["right"] for entry in entries)
        notes.figures.update(right=right, questions=len(entries), most_tokens=MOST_TOKENS, answers=entries)
        if (what := degenerate(self.said, texts)) is not None and not self._source_is_no_better():
            yield Finding(what, "answers", "compare with the answers of the source; look at the findings of numerics")

    def _source_is_no_better(self) -> bool:
        try:
            return degenerate(self.source_said, [self.text(tokens) for tokens in self.source_said]) is not None
        except SkipError:
            return False

    def comparison(self, notes: Notes) -> Iterator[Finding]:
        """What the source answers, side by side; differences are for people to judge."""
        pairs = zip(self.questions, self.said, self.source_said, strict=True)
        entries = [{**_entry(question, self.text(theirs)), "same": ours == theirs} for question, ours, theirs in pairs]
        same = sum(entry["same"] for entry in entries)
        right = sum(entry["right"] for entry in entries)
        notes.figures.update(same=same, right=right, questions=len(entries), answers=entries)
        yield from ()

    def text(self, tokens: Sequence[int]) -> str:
        """An answer as people read it."""
        return str(self.subject.prompt.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def _entry(question: Question, text: str) -> dict[str, Any]:
    return {
        "question": question.text,
        "media": [world.kind for world in question.worlds],
        "expected": question.answer,
        "answer": text,
        "right": question.is_answered_by(text),
    }


def _check_cost(checkpoint: Checkpoint) -> None:
    size = sum(info.nbytes for info in checkpoint.tensors.values())
    if size * MOST_TOKENS > MOST_BYTES:
        raise SkipError(
            f"{MOST_TOKENS} tokens of {size / 1e9:.3g} GB each would read more than {MOST_BYTES / 1e9:.0f} GB"
        )


def degenerate(tokens: Sequence[Sequence[int]], texts: Sequence[str]) -> str | None:
    """What is wrong with answers that are none: all are empty, or all are the same and go on to the limit; else None.

    An answer that repeats itself is not enough: untrained models do so, each question in its own way.
    """
    if not any(texts):
        return "every answer is empty"
    if len({tuple(answer) for answer in tokens}) == 1 and len(tokens[0]) == MOST_TOKENS:
        return f"every question has the same answer, which does not end: {texts[0]!r}"
    return None
