"""One whole verification that several tests look at, since it is the dearest of all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from g4convert.convert.verification import numerics
from g4convert.convert.verification.outcome import Verification
from g4convert.convert.verification.probes import Probe, make_probes
from g4convert.convert.verification.run import verify
from g4convert.loaders.prompt import PromptFormat
from g4convert.tests.support import CHECKPOINTS

PROBES = ("text", "image", "audio")


def cheap_probes(prompt: PromptFormat) -> list[Probe]:
    """Those without clips, which take most of the time."""
    return [probe for probe in make_probes(prompt) if probe.name in PROBES]


@pytest.fixture(scope="session")
def verified(converted: Callable[..., Path]) -> Verification:
    """The trained sample at 4 bits, verified beside its source, once a session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numerics, "make_probes", cheap_probes)
        return verify(converted("e2b"), source=CHECKPOINTS / "e2b")
