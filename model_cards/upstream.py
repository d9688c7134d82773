"""The card of the source: its metadata, and its text, which goes on below ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import yaml

from .sections import begins

# Below this line stands what the source's card says.
UPSTREAM = "<!-- g4convert: upstream -->"

# Characters of a YAML block; it takes a second to read so many.
LONGEST_METADATA = 100_000
# The YAML block at the head of a card.
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(?P<metadata>.*?)(?:^|\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Upstream:
    """What the source's card says.

    Attributes:
        metadata: its YAML block; empty where there is none that can be read.
        text: what follows the block.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def parse(cls, card: str) -> Self:
        """Read a card; of one of ours, the text is what it says of its own source."""
        head = FRONT_MATTER.match(card := card.removeprefix("\ufeff"))
        metadata = {} if head is None else _mapping(head["metadata"])
        text = card if head is None else card[head.end() :]
        before, mark, below = text.partition(UPSTREAM)
        own = "" if begins(before) else before  # one of ours, whose source said nothing
        return cls(metadata, (below if mark else own).strip())

    def words(self, key: str) -> str | None:
        """A value of the metadata, if it is a text of one line."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value.isprintable() and value else None

    def names(self, key: str) -> list[str]:
        """A value of the metadata as a list of names; what is no name is left out."""
        value = self.metadata.get(key)
        values = value if isinstance(value, list) else [value]
        return [one for one in values if isinstance(one, str) and one.isprintable() and one]


class _Plain(yaml.SafeLoader):
    """YAML without objects of Python, and without merge keys, of which a few lines become gigabytes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave `<<` where it is; there is no such key, so the block is none."""


def _mapping(text: str) -> Mapping[str, Any]:
    """A block of metadata; a broken one is none."""
    if len(text) > LONGEST_METADATA:
        return {}
    try:
        document = yaml.load(text, _Plain)
    except Exception:  # PyYAML lets through whatever a value makes Python raise, such as the KeyError of `!!bool x`
        return {}
    return document if isinstance(document, dict) else {}
