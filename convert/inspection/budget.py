"""Does it fit? And if not, what would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...loaders.footprint.estimate import Estimate, Estimator, Load, Moment
from ...loaders.media.config import SOFT_TOKENS

# Beyond what any processor config asks for, a clip is one frame a second of an hour.
MOST_FRAMES = 3600


@dataclass(frozen=True)
class Fit:
    """A prompt beside a number of bytes.

    Attributes:
        runtime: what the estimate is of.
        budget: bytes.
        load: what was asked for.
        estimate: what that takes.
        context: tokens of the longest context that fits with the media as asked; 0 for none.
        frames: the most frames that fit in the context; None for a model that sees none.
        image_tokens: the largest budget of a picture that fits; None without pictures, 0 for none.
    """

    runtime: str
    budget: int
    load: Load
    estimate: Estimate
    context: int
    frames: int | None
    image_tokens: int | None

    @property
    def fits(self) -> bool:
        """Whether all that was asked for fits."""
        return self.estimate.peak <= self.budget

    @property
    def left(self) -> int:
        """Bytes that are left; below zero those that are missing."""
        return self.budget - self.estimate.peak

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "runtime": self.runtime,
            "budget": self.budget,
            "asked": asdict(self.load),
            "stages": [stage(moment) for moment in self.estimate.moments],
            "worst": self.estimate.worst.name,
            "peak": self.estimate.peak,
            "left": self.left,
            "fits": self.fits,
            "largest": {"context": self.context, "frames": self.frames, "image_tokens": self.image_tokens},
        }


def stage(moment: Moment) -> dict[str, Any]:
    """A stage as `--json` prints it."""
    return {**asdict(moment), "total": moment.total}


def fit(estimator: Estimator, load: Load, budget: int, longest: int) -> Fit:
    """Estimate a prompt, and look for the largest that would fit, in one respect at a time.

    Args:
        estimator: of the model.
        load: what is asked for.
        budget: bytes.
        longest: tokens of the model's context.
    """

    def fits(changed: Load) -> bool:
        return estimator.estimate(changed).peak <= budget

    sees = estimator.config.vision is not None
    return Fit(
        runtime=estimator.runtime.name,
        budget=budget,
        load=load,
        estimate=estimator.estimate(load),
        context=largest(lambda count: fits(replace(load, context=count)), load.least_context, longest),
        frames=_frames(load, fits) if sees else None,
        image_tokens=_image_tokens(load, fits) if sees and load.images else None,
    )


def _frames(load: Load, fits: Callable[[Load], bool]) -> int:
    room = load.context - replace(load, frames=0).least_context
    return largest(lambda count: fits(replace(load, frames=count)), 0, min(MOST_FRAMES, room // load.tokens_of_frame))


def _image_tokens(load: Load, fits: Callable[[Load], bool]) -> int:
    return max((tokens for tokens in _budgets(load) if fits(replace(load, image_tokens=tokens))), default=0)


def _budgets(load: Load) -> Iterator[int]:
    """What a picture may take without leaving the context."""
    yield from (tokens for tokens in SOFT_TOKENS if replace(load, image_tokens=tokens).least_context <= load.context)


def largest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number from `low` to `high` for which something holds that holds for all below it; 0 for none."""
    if low > high or not holds(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
