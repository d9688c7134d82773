"""The vocabulary in which a family's tables are written.

A table says, for every tensor of an MLX checkpoint, which shape the config calls for and in which forms a source may
hold it. Shapes are written with the names of the config's attributes, so a row reads like the module it describes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ...loaders.config import ModelConfig

Shape = tuple[int, ...]
Dims = str
"""Attribute names or numbers, separated by spaces: `"q_size hidden_size"`. Empty for a scalar."""


class Role(Enum):
    """What a tensor is to a recipe. Only the first four can be quantized; the others say why not."""

    LINEAR = "linear layer"
    EMBEDDING = "embedding table"
    EXPERT = "stacked experts"
    ROUTER = "expert router"
    TOWER = "towers stay in the source's precision"
    CLIP_BOUND = "bounds of a clipped linear are exact"
    VECTOR = "not a matrix"

    @property
    def quantizable(self) -> bool:
        """Whether any recipe may quantize tensors of this role."""
        return self in (Role.LINEAR, Role.EMBEDDING, Role.EXPERT, Role.ROUTER)


@dataclass(frozen=True)
class Keep:
    """The tensor's elements stay where they are."""

    name = None


@dataclass(frozen=True)
class Transpose:
    """The axes after the first are permuted; `axes` counts them from 1, as `numpy.transpose` does."""

    name: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Half:
    """One half of the second axis, of every matrix in the stack."""

    name: str
    index: int


Transform = Keep | Transpose | Half
KEEP = Keep()
CONV2D = Transpose("conv2d [o,i,h,w] -> [o,h,w,i]", (2, 3, 1))
DEPTHWISE1D = Transpose("depthwise conv1d [o,1,k] -> [o,k,1]", (2, 1))
FIRST_HALF, SECOND_HALF = Half("first half of axis 1", 0), Half("second half of axis 1", 1)


@dataclass(frozen=True)
class Form:
    """A way in which a source may hold a tensor: under this name, in this shape."""

    name: str
    dims: Dims
    transform: Transform = KEEP


@dataclass(frozen=True)
class Rule:
    """One tensor of the MLX checkpoint.

    Attributes:
        name: the name in the MLX checkpoint, after the table's prefix.
        dims: the shape there.
        role: what it is to a recipe.
        when: an attribute of the scope; the config calls for the tensor only where it is true.
        also: forms of the source other than the MLX checkpoint's own.
    """

    name: str
    dims: Dims
    role: Role = Role.VECTOR
    when: str | None = None
    also: tuple[Form, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """A source tensor that the MLX checkpoint leaves out, where the scope's attribute `when` is true.

    Attributes:
        name: its name, after the table's prefix.
        reason: why, in words for the user.
        when: an attribute of the scope; None is always.
        copy_of: the tensor (by its full name in the tables) that it must equal bit for bit; if not, it is an error.
    """

    name: str
    reason: str
    when: str | None = None
    copy_of: str | None = None


@dataclass(frozen=True)
class Table:
    """Rules that share a part, a prefix and a scope.

    Attributes:
        part: `text`, `vision` or `audio`.
        prefix: what stands before the rules' names, with `{}` for the scope's number where there are many.
        scopes: the objects whose attributes the rules name, one per number.
        rules: one row a tensor.
        dropped: one row a tensor that is left out on purpose.
    """

    part: str
    prefix: str
    scopes: Callable[[ModelConfig], Sequence[Any]]
    rules: tuple[Rule, ...]
    dropped: tuple[Dropped, ...] = ()

    @property
    def names(self) -> set[str]:
        """Every name that a source tensor may have, after the prefix."""
        forms = {form.name for rule in self.rules for form in rule.also}
        return {*(rule.name for rule in self.rules), *(row.name for row in self.dropped), *forms}

    def placed(self, config: ModelConfig) -> Iterator[tuple[str, Any]]:
        """Every prefix of the table with the scope that belongs to it."""
        for number, scope in enumerate(self.scopes(config)):
            yield self.prefix.format(number), scope


def holds(when: str | None, scope: Any) -> bool:
    """Whether a row applies in `scope`."""
    return when is None or bool(getattr(scope, when))


def resolve(dims: Dims, scope: Any) -> Shape:
    """The shape that `dims` means in `scope`."""
    return tuple(int(word) if word.isdigit() else getattr(scope, word) for word in dims.split())
