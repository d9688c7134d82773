"""Parts of a card that are written anew when the checkpoint is published; what stands around them may be edited."""

from __future__ import annotations

import re

USE, VERIFICATION = "use", "verification"


def section(name: str, text: str) -> str:
    """A part of a card between marks that no reader sees."""
    return f"{_begin(name)}\n{text.strip()}\n{_end(name)}"


def replace_section(card: str, name: str, text: str) -> str:
    """Put another text into a part of a card; a card without that part stays as it is."""
    pattern = re.compile(f"{re.escape(_begin(name))}.*?{re.escape(_end(name))}", re.DOTALL)
    return pattern.sub(lambda _: section(name, text), card, count=1)


def begins(card: str) -> bool:
    """Whether it is a card of ours, with a part that is written anew."""
    return _begin(USE) in card or _begin(VERIFICATION) in card


def _begin(name: str) -> str:
    return f"<!-- g4convert: {name} -->"


def _end(name: str) -> str:
    return f"<!-- g4convert: end of {name} -->"
