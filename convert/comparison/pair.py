"""Both sides' tensors, side by side, and differences in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..decoding import Files
from ..families.names import mlx_name
from ..verification.listing import GONE
from .documents import SIDES
from .holdings import FLOAT_NAMES, Contents, Holding
from .outcome import TENSORS, Difference, Severity

Holdings = tuple[Holding | None, Holding | None]
"""What A and B hold of the same tensor."""


@dataclass(frozen=True)
class Pair:
    """What both sides hold, and where to read it.

    Attributes:
        a, b: the tensors of the sides.
        files: descriptors of all shards.
        text_only: whether neither has a prefix before its language model.
    """

    a: Contents
    b: Contents
    files: Files
    text_only: bool

    @cached_property
    def common(self) -> dict[str, tuple[Holding, Holding]]:
        """The weights that both hold, by key."""
        keys = sorted(self.a.weights.keys() & self.b.weights.keys())
        return {key: (self.a.weights[key], self.b.weights[key]) for key in keys}

    @property
    def repacked(self) -> bool:
        """Whether a weight is packed otherwise."""
        forms = ({one.form, other.form} for one, other in self.common.values())
        return any(len(both) > 1 and not both <= FLOAT_NAMES.keys() for both in forms)

    def name(self, key: str) -> str:
        """What an MLX checkpoint calls the tensor with this key."""
        return mlx_name(key, text_only=self.text_only)

    def difference(
        self, key: str, a: Any, b: Any, meaning: str, severity: Severity = Severity.ANSWERS, **figures: Any
    ) -> Difference:
        """A difference in one tensor."""
        return Difference(TENSORS, self.name(key), a, b, meaning, severity, figures)

    def of_one(self, key: str, holdings: Holdings, meaning: str, severity: Severity = Severity.ANSWERS) -> Difference:
        """A tensor that one side lacks, or holds for something else."""
        a, b = (GONE if held is None else held.with_shape for held in holdings)
        nbytes = sum(held.nbytes for held in holdings if held is not None)
        return self.difference(key, a, b, meaning, severity, bytes=nbytes)


def merged(a: Mapping[str, Holding], b: Mapping[str, Holding]) -> Iterator[tuple[str, Holdings]]:
    """Every key of either, with what both hold under it."""
    yield from ((key, (a.get(key), b.get(key))) for key in sorted(a.keys() | b.keys()))


def who(holdings: Holdings) -> tuple[str, str]:
    """The side that has something, and the side that lacks it."""
    one, other = SIDES
    return (other, one) if holdings[0] is None else (one, other)
