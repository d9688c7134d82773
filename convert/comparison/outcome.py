"""What a comparison found. Data only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..verification.listing import GONE
from ..verification.outcome import finite

TENSORS, TEMPLATE = "tensors", "chat template"
"""Parts of a checkpoint that are no file."""


class Severity(StrEnum):
    """What a difference can do."""

    ANSWERS = "answers"
    """It may change what the model says, or whether a program loads it."""
    FORM = "form"
    """The same model, stored or spelled otherwise."""
    FILES = "files"
    """A file that no runtime reads."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in A and B.

    Attributes:
        part: the file, or `tensors`, or `chat template`.
        where: the JSON path in the file, or the tensor; empty where it is about the part as a whole.
        a, b: what either has, JSON values; `GONE` for what is not there.
        meaning: what it does, one line without a full stop.
        severity: what it can do.
        figures: numbers, and lists of what one line stands for; JSON values.
    """

    part: str
    where: str
    a: Any
    b: Any
    meaning: str
    severity: Severity
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """One entry of what `--json` prints; a side that has nothing has no key."""
        sides = {name: value for name, value in (("a", self.a), ("b", self.b)) if value is not GONE}
        said = {"part": self.part, "where": self.where, **sides, "meaning": self.meaning, "severity": self.severity}
        return {**said, "figures": finite(self.figures)}


@dataclass(frozen=True)
class Summary:
    """One of the two checkpoints.

    Attributes:
        name: of its folder, or its name on the Hub with the commit.
        model_type: of its config.
        tensors: how many.
        nbytes: of their data.
    """

    name: str
    model_type: str
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class Comparison:
    """The result of `g4convert diff`.

    Attributes:
        a, b: what was compared.
        differences: all, file by file, tensors last.
        weights: how many both hold.
        files: how many files beside the weights both have.
        peak_memory: bytes, the largest resident size of the process.
        version: of g4convert.
    """

    a: Summary
    b: Summary
    differences: tuple[Difference, ...]
    weights: int
    files: int
    peak_memory: int
    version: str

    @property
    def equal(self) -> bool:
        """Whether nothing differs, not even in form."""
        return not self.differences

    @property
    def counts(self) -> dict[Severity, int]:
        """How many differences there are of each severity."""
        found = Counter(difference.severity for difference in self.differences)
        return {severity: found[severity] for severity in Severity}

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "a": _summary(self.a),
            "b": _summary(self.b),
            "equal": self.equal,
            "counts": {severity.value: count for severity, count in self.counts.items()},
            "weights": self.weights,
            "files": self.files,
            "peak_memory": self.peak_memory,
            "version": self.version,
            "differences": [difference.to_dict() for difference in self.differences],
        }


def _summary(side: Summary) -> dict[str, Any]:
    return {"name": side.name, "model_type": side.model_type, "tensors": side.tensors, "bytes": side.nbytes}
