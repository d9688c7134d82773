"""Stop strings: found wherever pieces begin and end, and never shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from g4convert.loaders import LoadedModel, generate, load, stream
from g4convert.loaders.stops import StopStrings
from g4convert.schemas.errors import UsageError
from g4convert.tests.conftest import Convert
from hypothesis import given
from hypothesis import strategies as st

LETTERS = st.text("ab", max_size=12)


def said(pieces: Sequence[str], stops: Sequence[str]) -> tuple[list[str], bool]:
    """What comes out for each piece and at the end, and whether a stop string was found."""
    scanner = StopStrings(stops)
    return [*map(scanner.add, pieces[:-1]), scanner.finish(pieces[-1])], scanner.found


def by_definition(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Letter by letter: over as soon as the text ends with a stop string."""
    for end in range(len(text) + 1):
        if ending := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(pieces=st.lists(LETTERS, min_size=1), stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=4))
def test_how_the_text_is_cut_makes_no_difference(pieces: list[str], stops: list[str]) -> None:
    shown, found = said(pieces, stops)

    assert ("".join(shown), found) == by_definition("".join(pieces), stops)


@given(pieces=st.lists(LETTERS, min_size=2), stop=st.text("ab", min_size=1, max_size=4))
def test_what_is_shown_is_never_taken_back(pieces: list[str], stop: str) -> None:
    whole, _ = by_definition("".join(pieces), [stop])
    scanner, shown = StopStrings([stop]), ""
    for piece in pieces:
        shown += scanner.add(piece)
        assert whole.startswith(shown)


def test_no_more_is_held_back_than_may_begin_a_stop_string() -> None:
    assert said(["star glass", " leaf", " house"], ["leaf house"])[0] == ["star glass", " ", ""]
    assert said(["star glass", " leaf", " boat"], ["leaf house"])[0] == ["star glass", " ", "leaf boat"]
    assert said(["ab", "a", ""], ["abc"])[0] == ["", "ab", "a"]


@pytest.fixture(scope="module")
def model(converted: Convert) -> LoadedModel:
    return load(converted("e2b"))


QUESTION = "Repeat: star glass leaf house"


@pytest.mark.parametrize(
    ("stops", "text", "tokens"),
    [
        (["leaf"], "star glass ", 3),
        (["ss le"], "star gla", 3),
        (["house", "glass"], "star ", 2),
        (["house"], "star glass leaf ", 4),
        (["nothing", "stars"], "star glass leaf house", 5),
    ],
)
def test_an_answer_ends_before_a_stop_string(stops: list[str], text: str, tokens: int, model: LoadedModel) -> None:
    *pieces, last = stream(model, QUESTION, max_tokens=16, stop=stops)

    assert last.generation is not None
    assert (last.generation.text, last.generation.finish_reason) == (text, "stop")
    assert len(last.generation.tokens) == tokens
    assert "".join(piece.text for piece in (*pieces, last)) == text


def test_without_stop_strings_the_answer_is_the_same(model: LoadedModel) -> None:
    *_, last = stream(model, QUESTION, max_tokens=16, stop=["never said"])

    usual = generate(model, QUESTION)
    assert last.generation is not None
    assert replace(last.generation, stats=usual.stats) == usual


def test_an_empty_stop_string_is_refused(model: LoadedModel) -> None:
    with pytest.raises(UsageError, match="a stop string is empty"):
        stream(model, QUESTION, stop=["x", ""])


@pytest.mark.parametrize(("calls", "said"), [(1, ""), (2, ""), (6, ""), (7, ""), (8, "star"), (9, "star glass")])
def test_what_is_raised_between_passes_ends_the_work(calls: int, said: str, model: LoadedModel) -> None:
    """The first call is before the media, the next five before parts of the prompt, the rest before tokens."""
    count, shown = 0, list[str]()

    def between() -> None:
        nonlocal count
        count += 1
        if count == calls:
            raise InterruptedError

    prompt = model.prompt.prepare(QUESTION)
    chunk = -(-len(prompt.ids) // 5)
    pieces = stream(model, prompt, max_tokens=16, chunk=chunk, between=between)
    with pytest.raises(InterruptedError):
        shown.extend(piece.text for piece in pieces)
    assert (count, "".join(shown)) == (calls, said)
