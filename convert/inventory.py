"""Account for every tensor of a source, once: kept, transformed, split, or dropped with a reason."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from ..loaders.checkpoint import TensorInfo
from ..loaders.config import ModelConfig
from ..schemas.errors import MissingTensorError, TensorError, TensorShapeError, UnknownTensorError
from .encodings import UnusedTensor
from .families import FAMILIES
from .families.names import canonical, mlx_name
from .families.rules import KEEP, Dropped, Form, Role, Rule, Shape, Table, Transform, holds, resolve

NOT_REQUESTED = "modality not requested"
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Target:
    """One tensor of the MLX checkpoint, and a form in which a source may hold it."""

    name: str
    part: str
    role: Role
    shape: Shape
    source_shape: Shape
    transform: Transform


@dataclass(frozen=True)
class Match:
    """A source tensor and what becomes of it."""

    source: TensorInfo
    target: Target


@dataclass(frozen=True)
class Drop:
    """A source tensor that is left out; `copy_of` is the source tensor that it must equal bit for bit."""

    source: TensorInfo
    reason: str
    copy_of: TensorInfo | None = None


@dataclass(frozen=True)
class Inventory:
    """What becomes of every source tensor, by the names of the MLX checkpoint and of the source."""

    matches: tuple[Match, ...]
    drops: tuple[Drop, ...]


@dataclass(frozen=True)
class Catalogue:
    """What the config calls for.

    Attributes:
        targets: by the tables' name of a source tensor, what it may become.
        drops: by the tables' name of a source tensor, the row that leaves it out.
        required: names in the MLX checkpoint.
    """

    targets: Mapping[str, tuple[Target, ...]]
    drops: Mapping[str, Dropped]
    required: tuple[str, ...]


def take_inventory(config: ModelConfig, tensors: Iterable[TensorInfo], parts: frozenset[str]) -> Inventory:
    """Match the tensors of a source against the tables of its family.

    Args:
        config: the source's config.
        tensors: headers of the source.
        parts: what is wanted, of `text`, `vision` and `audio`.

    Raises:
        UnknownTensorError: no row accounts for a name.
        TensorShapeError: a shape or dtype is not what the config calls for.
        MissingTensorError: the config calls for a tensor that is not there.
        TensorError: two source tensors claim the same place.
    """
    called_for = catalogue(config)
    named = _by_canonical_name(tensors)
    matches: list[Match] = []
    drops: list[Drop] = []
    for name, info in named.items():
        if isinstance(info, UnusedTensor):
            drops.append(Drop(info, info.reason))
        elif reason := _unwanted(name, config, parts, called_for):
            drops.append(Drop(info, reason))
        elif name in called_for.targets:
            matches.extend(_match(info, called_for.targets[name]))
        elif dropped := called_for.drops.get(name):
            drops.append(Drop(info, dropped.reason, named.get(dropped.copy_of or "")))
        else:
            raise UnknownTensorError(
                f"the tensor {info.name} is not part of {config.model_type}",
                where=info.file.name,
                fix="remove it, or report it if it belongs there",
            )
    matches.sort(key=lambda match: match.target.name)
    _check_complete(called_for, matches, parts)
    return Inventory(tuple(matches), tuple(sorted(drops, key=lambda drop: drop.source.name)))


def _by_canonical_name(tensors: Iterable[TensorInfo]) -> dict[str, TensorInfo]:
    named: dict[str, TensorInfo] = {}
    for info in tensors:
        other = named.setdefault(canonical(info.name), info)
        if other is not info:
            raise TensorError(f"{other.name} and {info.name} are the same tensor under two names", where=info.file.name)
    return named


def catalogue(config: ModelConfig) -> Catalogue:
    """Expand the tables of the config's family."""
    targets: dict[str, list[Target]] = defaultdict(list)
    drops: dict[str, Dropped] = {}
    required = []
    for table, prefix, scope in _scopes(config):
        for rule in table.rules:
            if not holds(rule.when, scope):
                continue
            required.append(mlx_name(prefix + rule.name, text_only=config.text_only))
            for form in (Form(rule.name, rule.dims, KEEP), *rule.also):
                target = _target(table.part, rule, form, scope, required[-1])
                targets[prefix + form.name].append(target)
        drops.update({prefix + row.name: row for row in table.dropped if holds(row.when, scope)})
    return Catalogue({name: tuple(forms) for name, forms in targets.items()}, drops, tuple(required))


def _scopes(config: ModelConfig) -> Iterator[tuple[Table, str, object]]:
    for table in FAMILIES[config.family]:
        for prefix, scope in table.placed(config):
            yield table, prefix, scope


def _target(part: str, rule: Rule, form: Form, scope: object, name: str) -> Target:
    shape, source_shape = resolve(rule.dims, scope), resolve(form.dims, scope)
    return Target(name, part, rule.role, shape, source_shape, form.transform)


def _unwanted(name: str, config: ModelConfig, parts: frozenset[str], called_for: Catalogue) -> str | None:
    """Why a tensor goes although its family knows it: its modality was not asked for, or its section is gone."""
    known = called_for.targets.get(name)
    if known is not None:
        return None if known[0].part in parts else NOT_REQUESTED
    part = part_of(name, config.family)
    if part is None or part == "text":
        return None
    if getattr(config, part) is None:
        return f"the config has no {part} section"
    return NOT_REQUESTED if part not in parts and name in called_for.drops else None


def part_of(name: str, family: str) -> str | None:
    """The part that a tensor belongs to, by the tables' name for it; None where the family has no such name."""
    return _part_of_pattern(family).get(NUMBER.sub("{}", name))


@cache
def _part_of_pattern(family: str) -> Mapping[str, str]:
    """Every name of a family's tables with `{}` for its numbers, to the part that it belongs to."""
    return {table.prefix + name: table.part for table in FAMILIES[family] for name in table.names}


def _match(info: TensorInfo, targets: tuple[Target, ...]) -> Iterator[Match]:
    """One match for every tensor of the MLX checkpoint that comes out of `info`."""
    for name in dict.fromkeys(target.name for target in targets):
        forms = [target for target in targets if target.name == name]
        fitting = [target for target in forms if target.source_shape == info.shape]
        if not fitting:
            raise TensorShapeError(
                f"{info.name} has the shape {list(info.shape)}, the config calls for "
                + " or ".join(str(list(shape)) for shape in dict.fromkeys(form.source_shape for form in forms)),
                where=info.file.name,
            )
        yield Match(info, fitting[0])


def _check_complete(called_for: Catalogue, matches: Iterable[Match], parts: frozenset[str]) -> None:
    found: dict[str, TensorInfo] = {}
    for match in matches:
        other = found.setdefault(match.target.name, match.source)
        if other is not match.source:
            raise TensorError(
                f"{other.name} and {match.source.name} both hold {match.target.name}", where=match.source.file.name
            )
    part_of = {target.name: target.part for targets in called_for.targets.values() for target in targets}
    missing = [name for name in called_for.required if name not in found and part_of[name] in parts]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MissingTensorError(
            f"the config calls for {missing[0]}{more}, which the source lacks",
            where="config.json",
            fix="download the checkpoint again, or correct its config",
        )
