"""The parser of JSON: the standard's, without numbers that are not finite, halves of characters, and repeated keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from g4convert.schemas import parse_json
from hypothesis import example, given
from hypothesis import strategies as st

from .effort import effort
from .nasty import TEXTS, VALUES, damaged

REFUSALS = (ValueError, RecursionError)


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may repeat."""


def written(value: Any) -> str:
    """JSON, with what it forbids where the value has it."""
    if isinstance(value, Pairs):
        return f"{{{','.join(f'{json.dumps(key)}: {written(inner)}' for key, inner in value)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return json.dumps(value)


def sound(value: Any) -> bool:
    """Whether every object has each key once."""
    if isinstance(value, Pairs):
        keys = [key for key, _ in value]
        return len(keys) == len(set(keys)) and all(sound(inner) for _, inner in value)
    return not isinstance(value, list) or all(map(sound, value))


KEYS = st.sampled_from(("a", "b", "ü", "", "\U0001f600"))
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=4).map(Pairs),
    max_leaves=10,
)


@effort(400)
@given(TREES)
def test_a_key_stands_once_or_the_document_is_refused(tree: Any) -> None:
    text = written(tree)

    if sound(tree):
        assert parse_json(text) == json.loads(text)
    else:
        with pytest.raises(ValueError, match="stands twice"):
            parse_json(text)


@effort(400)
@given(
    st.text(alphabet='{}[]",:\\u0dD8eE+-.19 \nntrufalsNIiyü')
    | damaged(json.dumps({"a": [1, 2.5, "ü", {"b": None}]}).encode()).map(lambda data: data.decode("latin-1"))
)
@example("[1e999]")
@example("-Infinity")
def test_what_is_taken_is_what_python_reads_and_can_be_written_again(text: str) -> None:
    try:
        document = parse_json(text)
    except REFUSALS:
        return

    assert document == json.loads(text)
    again = json.dumps(document, allow_nan=False, ensure_ascii=False)
    again.encode()
    assert parse_json(again) == document


@effort(100)
@given(VALUES, st.sampled_from((*TEXTS, "\ud800", "\udc00\ud800", "a\ud83d")), st.booleans())
def test_halves_of_characters_are_refused_wherever_they_stand(value: Any, text: str, key: bool) -> None:
    document = [value, {text: 1} if key else text]

    if any("\ud800" <= character <= "\udfff" for character in text):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            parse_json(json.dumps(document))
    else:
        assert parse_json(json.dumps(document)) == document
