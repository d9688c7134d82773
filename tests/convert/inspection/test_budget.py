"""What fits, and what would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from g4convert.convert.inspection.budget import MOST_FRAMES, fit, largest
from g4convert.convert.inspection.parts import planned_weights
from g4convert.convert.inspection.run import Wish, inspect
from g4convert.loaders.footprint import METAL
from g4convert.loaders.footprint.estimate import Estimator, Load
from g4convert.loaders.media.config import SOFT_TOKENS
from g4convert.schemas.errors import G4ConvertError, UsageError
from g4convert.tests.convert.inspection.published import planned
from g4convert.tests.support import CHECKPOINTS, edit_json

Convert = Callable[..., Path]


def estimator(model: str = "E2B") -> Estimator:
    plan = planned(model)
    return Estimator(plan.config, planned_weights(plan), METAL)


@pytest.mark.parametrize("limit", range(4, 13))
def test_the_largest_number(limit: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number <= limit

    assert largest(holds, 5, 11) == (0 if limit < 5 else min(limit, 11))
    assert len(asked) <= 5


def test_nothing_is_the_largest_of_nothing() -> None:
    assert largest(lambda _: True, 5, 4) == 0


def test_the_most_frames() -> None:
    model, asked = estimator(), Load(4096, frames=16)
    found = fit(model, asked, 4_070_000_000, 131_072)

    assert (found.fits, found.left < 0) == (False, True)
    assert found.frames is not None
    assert 0 < found.frames < 16
    assert model.estimate(replace(asked, frames=found.frames)).peak <= found.budget
    assert model.estimate(replace(asked, frames=found.frames + 1)).peak > found.budget


def test_the_largest_pictures() -> None:
    model, asked = estimator(), Load(4096, images=2, image_tokens=1120)
    found = fit(model, asked, 4_010_000_000, 131_072)

    assert not found.fits
    assert found.image_tokens in SOFT_TOKENS[:-1]
    larger = SOFT_TOKENS[SOFT_TOKENS.index(found.image_tokens) + 1]
    assert model.estimate(replace(asked, image_tokens=found.image_tokens)).peak <= found.budget
    assert model.estimate(replace(asked, image_tokens=larger)).peak > found.budget


@pytest.mark.parametrize("budget", [3_980_000_000, 4_000_000_000, 4_050_000_000])
def test_the_longest_context(budget: int) -> None:
    model, asked = estimator(), Load(131_072)
    longest = fit(model, asked, budget, 131_072).context

    assert 256 < longest < 131_072
    assert model.estimate(replace(asked, context=longest)).peak <= budget
    assert model.estimate(replace(asked, context=longest + 512)).peak > budget


def test_with_room_for_all_it_is_the_models_own_limits() -> None:
    found = fit(estimator(), Load(131_072, images=1), 100 * 10**9, 131_072)

    assert found.fits
    assert (found.context, found.image_tokens) == (131_072, 1120)
    assert found.frames is not None
    assert 1000 < found.frames < MOST_FRAMES


def test_without_pictures_there_is_no_budget_of_a_picture() -> None:
    assert fit(estimator(), Load(512), 10**9, 131_072).image_tokens is None


def test_a_model_that_does_not_see_has_no_frames(converted: Convert) -> None:
    found = inspect(converted("text"), budget=10**9).fit

    assert found is not None
    assert found.frames is None


def test_weights_that_are_too_many_leave_room_for_nothing() -> None:
    found = fit(estimator(), Load(4096), 10**9, 131_072)

    assert (found.fits, found.context, found.frames) == (False, 0, 0)


def test_more_of_anything_takes_more() -> None:
    model, asked = estimator("31B"), Load(4096)
    peak = model.estimate(asked).peak

    assert model.estimate(replace(asked, context=8192)).peak > peak
    assert model.estimate(replace(asked, frames=32)).peak > peak
    assert model.estimate(replace(asked, images=4, image_tokens=1120)).peak > peak


def test_a_source_is_estimated_as_it_would_be_converted(converted: Convert) -> None:
    before, after = (inspect(path, budget=10**9).fit for path in (CHECKPOINTS / "e4b", converted("e4b")))

    assert before == after


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(context=0), "--context: 0 is out of range"),
        (Wish(context=4097), "--context: the model's longest context is 4,096"),
        (Wish(frames=-1), "--frames: -1 is out of range"),
        (Wish(frames=3601), "--frames"),
        (Wish(images=-1), "--images"),
        (Wish(audio=-0.5), "--audio"),
        (Wish(audio=float("nan")), "--audio"),
        (Wish(image_tokens=100), "cannot take 100 tokens"),
        (Wish(context=100, images=2), "the media alone take 144 tokens of a context of 100"),
    ],
)
def test_what_has_no_meaning_is_refused(wish: Wish, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        inspect(CHECKPOINTS / "e2b", budget=10**9, wish=wish)


@pytest.mark.parametrize(("kind", "wish"), [("text", Wish(images=1)), ("text", Wish(frames=1)), ("31b", Wish(audio=1))])
def test_media_that_a_model_does_not_take_are_refused(kind: str, wish: Wish) -> None:
    with pytest.raises(UsageError, match="the model does not take them"):
        inspect(CHECKPOINTS / kind, budget=10**9, wish=wish)


def test_sounds_that_are_too_long_are_several() -> None:
    found = inspect(CHECKPOINTS / "e2b", budget=10**9, wish=Wish(context=4096, audio=75)).fit

    assert found is not None
    assert found.load.sounds == (625, 625, 625)


def test_a_source_that_cannot_be_converted_has_no_estimate(tmp_path: Path) -> None:
    from g4convert.tests.support import copy_of, edit_tensors

    folder = copy_of("text", tmp_path / "text")
    edit_tensors(folder, lambda tensors: tensors.pop("model.norm.weight"))

    assert any("a conversion would refuse it" in note for note in inspect(folder).notes)
    with pytest.raises(G4ConvertError, match=r"model\.norm\.weight"):
        inspect(folder, budget=10**9)
    edit_json(folder / "config.json", lambda document: document.update(model_type="llama"))
    with pytest.raises(G4ConvertError, match="llama"):
        inspect(folder)
