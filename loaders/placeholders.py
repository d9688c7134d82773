"""Where media stand in a prompt: the tokens that frame them, and one placeholder for each of their soft tokens.

After transformers' `Gemma4Processor`: what a chat template writes as one placeholder is expanded in the text, before it
is tokenized.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..schemas.errors import PlaceholderError
from .media import Image, Kind, Medium, Video


@dataclass(frozen=True)
class Marks:
    """The texts of the tokens that one kind of medium takes.

    Attributes:
        begin, end: what frames it.
        placeholder: what stands for a soft token, and in a template's output for the whole medium.
    """

    begin: str
    placeholder: str
    end: str

    def around(self, soft_tokens: int) -> str:
        """As many placeholders, framed."""
        return f"{self.begin}{self.placeholder * soft_tokens}{self.end}"


def expansion(medium: Medium, marks: Marks) -> str:
    """What a prompt has in the place of a medium."""
    if isinstance(medium, Image):
        return marks.around(medium.soft_tokens)
    if isinstance(medium, Video):
        return " ".join(f"{label} {marks.around(medium.soft_tokens)}" for label in medium.labels)
    return "".join(marks.around(clip.soft_tokens) for clip in medium)


def expand(text: str, marks: Mapping[Kind, Marks], expansions: Mapping[Kind, Sequence[str]]) -> str:
    """Replace the placeholders of each kind of medium, in order.

    Args:
        text: what the chat template made.
        marks: by kind, for every kind that the model takes.
        expansions: for each kind, those of its media.

    Raises:
        PlaceholderError: a kind has more or fewer placeholders than media.
    """
    for kind, found in marks.items():
        places, media = text.count(found.placeholder), len(expansions[kind])
        if places != media:
            raise PlaceholderError(
                f"the prompt has {found.placeholder} {places} times, and {media} came with it",
                where=kind,
                fix="put it into a user's message, or take another chat template"
                if places < media
                else "leave that text out of the messages and the template",
            )
    waiting = {marks[kind].placeholder: iter(texts) for kind, texts in expansions.items()}
    # Without any kind, the pattern would match everywhere.
    return re.sub("|".join(map(re.escape, waiting)), lambda match: next(waiting[match[0]]), text) if waiting else text
