"""What a stranger would write into a file: values, documents that are nearly right, and bytes that are nearly right."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    8,
    64,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    10**30,
    -(2**63),
    0.0,
    -0.0,
    0.5,
    1e308,
)
TEXTS = ("", " ", ".", "..", "/", "a/b", "\0", "\x1b[2J", "\n", "ü", "\U0001f600", "0", "null", "__class__", "x" * 1000)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """A document of JSON with a few values taken out, put in, replaced or exchanged."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(changed))
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(("replace", "nudge", "nudge", "remove", "exchange", "add"))):
            case "nudge" if type(holder[key]) is int:
                holder[key] += draw(st.sampled_from((-1, 1, 100, -holder[key])))
            case "nudge" if type(holder[key]) is bool:
                holder[key] = not holder[key]
            case "replace" | "nudge":
                holder[key] = draw(VALUES)
            case "exchange":
                other, place = draw(st.sampled_from(places))
                holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(holder[key])
            case "remove":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = draw(VALUES)
            case "add":
                holder.insert(key, draw(VALUES))
        if not changed:
            break
    return changed


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every value of a document, as what holds it and where."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found = []
    for key, value in items:
        found.append((document, key))
        if isinstance(value, dict | list):
            found += _places(value)
    return found


@st.composite
def damaged(draw: st.DrawFn, data: bytes, most: int = 3) -> bytes:
    """Bytes of which a few are flipped, left out, put in, or stand twice."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, len(changed)))
        length = draw(st.integers(1, 8))
        match draw(st.sampled_from(("flip", "set", "remove", "insert", "repeat", "cut"))):
            case "flip" if place < len(changed):
                changed[place] ^= 1 << draw(st.integers(0, 7))
            case "set" if place < len(changed):
                changed[place] = draw(st.sampled_from(b'0123456789-+.eE"\\{}[]:,\x00\xff \t\n'))
            case "remove":
                del changed[place : place + length]
            case "repeat":
                changed[place:place] = changed[place : place + length]
            case "cut":
                del changed[place:]
            case _:
                changed[place:place] = draw(st.binary(min_size=1, max_size=length))
    return bytes(changed)
