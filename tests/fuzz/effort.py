"""How hard to try, and what a refusal is.

A test run makes the same few inputs each time. By hand, more of them, and others each time:

    FUZZ=100 pytest tests/fuzz
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from g4convert.schemas.errors import G4ConvertError
from hypothesis import HealthCheck, settings

T = TypeVar("T")

TIMES = int(os.environ.get("FUZZ", "1"))


def effort(examples: int) -> settings:
    """Make so many inputs, or `FUZZ` times as many."""
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def attempt(call: Callable[[], T]) -> T | str:
    """What a call returns, or the line with which it refuses; anything else that it raises is a defect."""
    try:
        return call()
    except G4ConvertError as error:
        line = str(error)
    assert line.isprintable()
    return line
