"""The estimate of memory beside what mlx takes, and what would happen if a part of it were forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert.inspection.parts import stored_weights
from g4convert.convert.inspection.subject import opened
from g4convert.loaders.footprint import CPU_FLOAT32, tape
from g4convert.loaders.footprint.estimate import Estimator, Load
from g4convert.loaders.footprint.operations import Operations
from g4convert.tests.loaders.peak import measured

Convert = Callable[..., Path]
Case = tuple[str, dict[str, Any], Load]

NEAR = 0.1
TRIES = 3
FOUR, EIGHT, PLAIN = {"bits": 4}, {"bits": 8}, {"quantize": False}

CASES: list[Case] = [
    ("e2b", FOUR, Load(1024)),
    ("31b", FOUR, Load(400, frames=4)),
    ("12b", EIGHT, Load(400, frames=4, sounds=(25,))),
    ("26b-a4b", PLAIN, Load(1024)),
    ("e4b", FOUR, Load(256, sounds=(50,))),
]
MORE: list[Case] = [
    ("e2b", FOUR, Load(256)),
    ("e2b", FOUR, Load(8192)),
    ("e2b", FOUR, Load(2048, frames=16)),
    ("e2b", EIGHT, Load(2048, images=2, image_tokens=280)),
    ("e2b", PLAIN, Load(2048, images=1, image_tokens=70, sounds=(50,))),
    ("e4b", PLAIN, Load(2048)),
    ("e4b", EIGHT, Load(256)),
    ("12b", FOUR, Load(256)),
    ("12b", PLAIN, Load(2048, images=1, image_tokens=280)),
    ("26b-a4b", FOUR, Load(2048)),
    ("26b-a4b", EIGHT, Load(512, images=1, image_tokens=280)),
    ("31b", PLAIN, Load(256)),
    ("31b", EIGHT, Load(8192)),
    ("text", FOUR, Load(2048)),
    ("text", PLAIN, Load(256)),
]


def name_of(case: Case) -> str:
    kind, options, load = case
    media = [f"{load.images}p" * bool(load.images), f"{load.frames}f" * bool(load.frames), "s" * bool(load.sounds)]
    return "-".join([kind, str(options.get("bits", "plain")), str(load.context), *filter(None, media)])


def estimated(folder: Path, load: Load) -> int:
    with opened(folder) as subject:
        return Estimator(subject.config, stored_weights(subject), CPU_FLOAT32).estimate(load).peak


def worst(folder: Path, load: Load) -> int:
    """Mlx's peak: on a busy machine work keeps up with what is queued, and less is held, so the worst try counts."""
    expected, found = estimated(folder, load), 0
    for _ in range(TRIES):
        found = max(found, measured(folder, load))
        if found == pytest.approx(expected, rel=NEAR):
            break
    return found


@pytest.fixture(scope="module")
def peaks(converted: Convert) -> Callable[[Case], int]:
    """What mlx takes in a case, measured once."""
    known: dict[str, int] = {}

    def measure(case: Case) -> int:
        kind, options, load = case
        if name_of(case) not in known:
            known[name_of(case)] = worst(converted(kind, **options), load)
        return known[name_of(case)]

    return measure


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_estimate_is_what_mlx_takes(case: Case, converted: Convert, peaks: Callable[[Case], int]) -> None:
    kind, options, load = case

    assert estimated(converted(kind, **options), load) == pytest.approx(peaks(case), rel=NEAR)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE, ids=name_of)
def test_the_estimate_is_what_mlx_takes_in_more_cases(case: Case, converted: Convert) -> None:
    kind, options, load = case
    folder = converted(kind, **options)

    assert estimated(folder, load) == pytest.approx(worst(folder, load), rel=NEAR)


def _forget_the_vision_tower(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Estimator, "_pictures", lambda *_: 0)


def _forget_the_audio_tower(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Estimator, "_sounds", lambda *_: 0)


def _forget_scores(patch: pytest.MonkeyPatch) -> None:
    attend = Operations.attend
    patch.setattr(Operations, "attend", lambda *args, **sizes: attend(*args, **{**sizes, "seen": 1}))


def _forget_the_queue(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tape, "free_from", lambda ordered, _: list(range(1, len(ordered) + 1)))


MUTATIONS = [
    (_forget_the_vision_tower, CASES[1]),
    (_forget_the_vision_tower, CASES[2]),
    (_forget_the_audio_tower, CASES[4]),
    (_forget_scores, CASES[0]),
    (_forget_the_queue, CASES[0]),
    (_forget_the_queue, CASES[4]),
]


@pytest.mark.parametrize(("forget", "case"), MUTATIONS, ids=lambda one: getattr(one, "__name__", "").strip("_"))
def test_what_is_forgotten_shows(
    forget: Callable[[pytest.MonkeyPatch], None],
    case: Case,
    converted: Convert,
    peaks: Callable[[Case], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, options, load = case
    peak = peaks(case)
    forget(monkeypatch)

    assert estimated(converted(kind, **options), load) != pytest.approx(peak, rel=NEAR)
