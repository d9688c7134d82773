"""Stop strings: where an answer ends because of what it says, wherever its tokens begin and end."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Text piece by piece -> the text before the stop string that is complete first.

    What may be the beginning of one is held back until it is known. How the text is cut into pieces makes no
    difference.

    Args:
        stops: the strings, none of them empty.

    Attributes:
        found: one has come, and the text is over.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.found = False
        self._stops = tuple(stops)
        self._held = ""

    def add(self, text: str) -> str:
        """The text that belongs to the answer for certain; nothing once a stop string has come."""
        if self.found:
            return ""
        held = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        self.found = bool(ends)
        certain = min(ends)[1] if ends else len(held) - max((_begun(held, stop) for stop in self._stops), default=0)
        self._held = held[certain:]
        return held[:certain]

    def finish(self, text: str) -> str:
        """The last text, with what was held back."""
        certain = self.add(text)
        return certain if self.found else certain + self._held


def _begun(text: str, stop: str) -> int:
    """How many characters of `stop` the text ends with, not all of them."""
    return next((count for count in range(len(stop) - 1, 0, -1) if text.endswith(stop[:count])), 0)
