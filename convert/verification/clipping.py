"""Are the bounds of the clipped linear layers all there, and do they leave room for an activation?

They are weights: a runtime that finds none clips nothing, and sees and hears a little worse, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...loaders.checkpoint import TensorInfo, pread_exactly
from ..families.names import canonical
from ..families.rules import Role
from ..inventory import part_of
from ..plan import FLOATS
from ..quantize import STORAGE
from .checking import Notes
from .layout import Layout, is_bound
from .listing import few
from .outcome import Finding
from .reading import Descriptors, open_shards
from .subject import Subject

TOWERS = ("vision", "audio")


def clip_bounds(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Every tower has the bounds that its own `use_clipped_linears` calls for, and they are bounds."""
    layout = subject.layout
    for tower in TOWERS:
        wanted = {name for name, target in layout.targets.items() if _belongs(target.part, tower, target.role)}
        found = {name for name in layout.tensors if _is_of(name, tower, layout)}
        if found or any(canonical(name).startswith(f"{tower}_tower.") for name in layout.tensors):
            yield from few(_counted(tower, wanted, found, layout))
        notes.figures[tower] = len(found)
    with open_shards(subject.checkpoint.shards) as files:
        yield from few(_values(layout, files))


def _belongs(part: str, tower: str, role: Role) -> bool:
    return part == tower and role is Role.CLIP_BOUND


def _is_of(name: str, tower: str, layout: Layout) -> bool:
    return is_bound(name) and part_of(canonical(name), layout.config.family) == tower


def _counted(tower: str, wanted: set[str], found: set[str], layout: Layout) -> Iterator[Finding]:
    for name in sorted(wanted - found):
        yield Finding(f"the bound is missing; the {tower} tower has {len(found)} of {len(wanted)}", name)
    for name in sorted(found - wanted):
        yield Finding(f"the bound must not be here: {layout.drop_reason(name) or 'the model has no such layer'}", name)


def _values(layout: Layout, files: Descriptors) -> Iterator[Finding]:
    modules = sorted({name.rpartition(".")[0] for name in layout.tensors if is_bound(name)})
    for module in modules:
        for side in ("input", "output"):
            names = [f"{module}.{side}_{end}" for end in ("min", "max")]
            bounds = {name: _bound(layout.tensors.get(name), files) for name in names}
            yield from _range(names[0], bounds, strict=side == "input")


def _bound(info: TensorInfo | None, files: Descriptors) -> float | None:
    """The number, if the tensor is one; other checks say so where it is not."""
    if info is None or info.dtype not in FLOATS or info.size != 1:
        return None
    data = pread_exactly(files[info.file], info.nbytes, info.offset, info.file.name)
    return float(np.frombuffer(data, STORAGE[info.dtype])[0])


def _range(where: str, bounds: Mapping[str, float | None], *, strict: bool) -> Iterator[Finding]:
    for name, value in bounds.items():
        if value is not None and not np.isfinite(value):
            yield Finding(f"the bound is {value}", name, "convert again from an intact source")
    low, high = bounds.values()
    if low is None or high is None:
        return
    if low > high or (strict and low == high):
        yield Finding(f"the bounds run from {low:g} to {high:g}, so every activation becomes one number", where)
