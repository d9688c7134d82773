"""What a verification found: findings in checks, checks in steps, steps in one verdict. Data only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from ...schemas.errors import G4ConvertError


class Status(StrEnum):
    """How a check, a step, or the whole ended."""

    PASS = "pass"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        what: what is wrong, one line without a full stop.
        where: the tensor, the field of a file, or the file.
        fix: what to do about it, if that is known.
    """

    what: str
    where: str | None = None
    fix: str | None = None

    @classmethod
    def of(cls, error: G4ConvertError) -> Self:
        """What an error says."""
        return cls(error.what, error.where, error.fix)

    def __str__(self) -> str:
        return str(G4ConvertError(self.what, where=self.where, fix=self.fix))


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it is, a few words.
        status: `fail` if there are findings.
        findings: what is wrong, most important first.
        reason: why it was skipped.
        figures: numbers for people and plots, JSON values.
    """

    name: str
    status: Status
    findings: tuple[Finding, ...] = ()
    reason: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Checks that belong together, and how long they took."""

    name: str
    checks: tuple[Check, ...]
    seconds: float = 0.0

    @property
    def status(self) -> Status:
        """`fail` if a check failed, `skipped` if all were."""
        return worst(check.status for check in self.checks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all checks."""
        return tuple(finding for check in self.checks for finding in check.findings)


def worst(statuses: Any) -> Status:
    """`fail` before `pass` before `skipped`."""
    found = set(statuses)
    return next((status for status in (Status.FAIL, Status.PASS) if status in found), Status.SKIPPED)


@dataclass(frozen=True)
class Verification:
    """The result of `g4convert verify`.

    Attributes:
        model: the name of the folder that was verified.
        source: what it was compared with.
        steps: in the order in which they were taken.
        peak_memory: bytes, the largest resident size of the process.
        version: of g4convert.
    """

    model: str
    source: str | None
    steps: tuple[Step, ...]
    peak_memory: int
    version: str

    @property
    def status(self) -> Status:
        """The verdict."""
        return worst(step.status for step in self.steps)

    @property
    def checks(self) -> tuple[Check, ...]:
        """Of all steps."""
        return tuple(check for step in self.steps for check in step.checks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all checks."""
        return tuple(finding for check in self.checks for finding in check.findings)

    def check(self, step: str, name: str) -> Check | None:
        """A check by its name, if it was to be made."""
        checks = (check for one in self.steps if one.name == step for check in one.checks)
        return next((check for check in checks if check.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints; a figure that is no number is null, for JSON has no other."""
        document: dict[str, Any] = finite(
            {
                "model": self.model,
                "source": self.source,
                "verdict": self.status,
                "version": self.version,
                "peak_memory": self.peak_memory,
                "steps": [{**asdict(step), "status": step.status} for step in self.steps],
            }
        )
        return document


def finite(value: Any) -> Any:
    """A value as JSON can hold it: a figure that is no number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value
