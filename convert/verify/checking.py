"""Take a step: run its checks one after the other, and turn what they raise into findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...schemas.errors import G4ConvertError
from .outcome import Check, Finding, Status, Step
from .subject import Subject


@dataclass
class Notes:
    """What a check writes down besides its findings: `figures`, JSON values for people and plots."""

    figures: dict[str, Any] = field(default_factory=dict)


class SkipError(Exception):
    """A check cannot be made; the message says why."""


CheckFunction = Callable[[Subject, Notes], Iterable[Finding]]
"""Yields what is wrong; may raise `SkipError`, or any `G4ConvertError`, which becomes the last finding."""


def take_step(name: str, checks: Mapping[str, CheckFunction], subject: Subject, reported: set[str]) -> Step:
    """Run the checks of a step.

    Args:
        name: of the step.
        checks: by name.
        subject: what is verified.
        reported: errors that earlier checks have raised; a check that stumbles over one of them is skipped.
    """
    begin = time.perf_counter()
    done = tuple(_run(check, function, subject, reported) for check, function in checks.items())
    return Step(name, done, time.perf_counter() - begin)


def _run(name: str, function: CheckFunction, subject: Subject, reported: set[str]) -> Check:
    findings: list[Finding] = []
    notes = Notes()
    try:
        for finding in function(subject, notes):
            findings.append(finding)  # one by one: what came before an error stays
    except SkipError as skip:
        return Check(name, Status.SKIPPED, reason=str(skip), figures=notes.figures)
    except G4ConvertError as error:
        if str(error) in reported and not findings:
            return Check(name, Status.SKIPPED, reason=f"needs what failed before: {error}")
        reported.add(str(error))
        findings.append(Finding.of(error))
    return Check(name, Status.FAIL if findings else Status.PASS, tuple(findings), figures=notes.figures)
