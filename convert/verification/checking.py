"""Take a step: run its checks one after the other, and turn what they raise into findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ...schemas.errors import G4ConvertError
from .outcome import Check, Finding, Status, Step
from .subject import Subject

# How the reason begins where a check stumbles over what an earlier one has reported.
NEEDED = "needs what failed before"

Progress = Callable[[str, str], object]
"""Called with a step, and with what is being looked at in it."""


def silent(*_: str) -> None:
    """No progress."""


@dataclass
class Notes:
    """What a check has to say besides its findings.

    Attributes:
        at: to be called with what a long check is at.
        figures: JSON values for people and plots.
    """

    at: Callable[[str], object] = silent
    figures: dict[str, Any] = field(default_factory=dict)


class SkipError(Exception):
    """A check cannot be made; the message says why."""


CheckFunction = Callable[[Subject, Notes], Iterable[Finding]]
"""Yields what is wrong; may raise `SkipError`, or any `G4ConvertError`, which becomes the last finding."""


def take_step(
    name: str, checks: Mapping[str, CheckFunction], subject: Subject, reported: set[str], progress: Progress = silent
) -> Step:
    """Run the checks of a step.

    Args:
        name: of the step.
        checks: by name.
        subject: what is verified.
        reported: errors that earlier checks have raised; a check that stumbles over one of them is skipped.
        progress: called before each check, and by those that take long.
    """
    begin, say = time.perf_counter(), partial(progress, name)
    done = tuple(_run(check, function, subject, reported, say) for check, function in checks.items())
    return Step(name, done, time.perf_counter() - begin)


def _run(
    name: str, function: CheckFunction, subject: Subject, reported: set[str], say: Callable[[str], object]
) -> Check:
    say(name)
    findings: list[Finding] = []
    notes = Notes(at=lambda what: say(f"{name}, {what}"))
    try:
        for finding in function(subject, notes):
            findings.append(finding)  # one by one: what came before an error stays
    except SkipError as skip:
        if not findings:
            return Check(name, Status.SKIPPED, reason=str(skip), figures=notes.figures)
    except G4ConvertError as error:
        if str(error) in reported and not findings:
            return Check(name, Status.SKIPPED, reason=f"{NEEDED}: {error}")
        reported.add(str(error))
        findings.append(Finding.of(error))
    return Check(name, Status.FAIL if findings else Status.PASS, tuple(findings), figures=notes.figures)
