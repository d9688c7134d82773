"""The second step: are the tensors those that the config calls for, and do they hold what the source gives?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ...loaders.config import ModelConfig
from ..families.names import canonical
from ..families.rules import Role
from ..inventory import part_of
from ..plan import FLOATS
from .checking import CheckFunction, Notes
from .clipping import clip_bounds
from .layout import Layout, is_bound
from .listing import few, missing_tensors
from .outcome import Finding
from .packing import quantization
from .replay import against_source
from .subject import Subject
from .values import values


def names(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Nothing that the config calls for is missing, and nothing else is there."""
    layout = subject.layout
    yield from few(_missing(layout))
    for group in _by_reason(_surplus(layout)).values():
        yield from few(group)
    notes.figures.update(called_for=len(layout.targets), found=len(layout.tensors))


def _missing(layout: Layout) -> Iterator[Finding]:
    """One finding a tensor or, where nothing of a tower or an embedder is there, one for it."""
    called_for = [name for name, target in layout.targets.items() if target.role is not Role.CLIP_BOUND]
    missing = [name for name in called_for if name not in layout.tensors]
    yield from missing_tensors(missing, called_for, "the config calls for")


def _surplus(layout: Layout) -> Iterator[tuple[str, str]]:
    """Tensors that the config does not call for, with what they are; bounds are counted apart."""
    for name in sorted(layout.tensors.keys() - layout.targets.keys()):
        if not is_bound(name) and not layout.is_companion(name):
            yield name, layout.drop_reason(name) or _stranger(name, layout.config)


def _stranger(name: str, config: ModelConfig) -> str:
    part = part_of(canonical(name), config.family)
    if part in ("vision", "audio") and getattr(config, part) is None:
        return f"the config has no {part} section"
    return "the model has no such parameter"


def _by_reason(surplus: Iterable[tuple[str, str]]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for name, reason in surplus:
        found.setdefault(reason, []).append(Finding(f"the tensor must not be here: {reason}", name))
    return found


def shapes_and_dtypes(subject: Subject, _: Notes) -> Iterator[Finding]:
    """Every tensor that is not packed has its shape, and a dtype of numbers."""
    layout = subject.layout
    yield from few(_shapes(layout))
    yield from few(_dtypes(layout))


def _shapes(layout: Layout) -> Iterator[Finding]:
    for name, target in sorted(layout.targets.items()):
        info = layout.tensors.get(name)
        if info is not None and info.dtype != "U32" and info.shape != target.shape:
            yield Finding(f"the shape is {list(info.shape)}, the config calls for {list(target.shape)}", name)


def _dtypes(layout: Layout) -> Iterator[Finding]:
    """A packed weight is U32; of what module, the quantization block says."""
    for name in sorted(layout.targets.keys() & layout.tensors.keys()):
        dtype = layout.tensors[name].dtype
        if dtype not in FLOATS and not (dtype == "U32" and name.endswith(".weight")):
            yield Finding(f"the dtype is {dtype}, allowed are {', '.join(FLOATS)}", name)


CHECKS: Mapping[str, CheckFunction] = {
    "names": names,
    "shapes and dtypes": shapes_and_dtypes,
    "clip bounds": clip_bounds,
    "quantization": quantization,
    "values": values,
    "tensors of the source": against_source,
}
