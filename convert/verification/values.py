"""Is there a number in every tensor that cannot be right? Needs neither source nor manifest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...loaders.checkpoint import TensorInfo, blocks
from ...loaders.values import AFFINE, Code, code_of, no_numbers
from ..families.rules import Role
from ..quantize import STORAGE
from .checking import Notes
from .layout import COMPANIONS, Layout
from .listing import few
from .outcome import Finding
from .reading import Descriptors, open_shards, row_name
from .subject import Subject

# With fewer scales than this, all of them may be equal by chance.
MANY_SCALES = 16
# Tensors that are all zero in a model before it is trained, and may be after.
MAY_BE_ZERO = (".bias", ".std_bias", ".per_dim_scale")


@dataclass(frozen=True)
class Tally:
    """What a pass over a tensor counted.

    Attributes:
        bad: elements that are NaN or infinite.
        first_bad: the offset of the first of them, in bytes.
        constant: whether all elements are the same.
        first: the first element, as stored.
    """

    bad: int
    first_bad: int
    constant: bool
    first: int


def values(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """No NaN, no infinity, no tensor without information."""
    layout = subject.layout
    infos = [info for info in layout.tensors.values() if info.size]
    bad: list[Finding] = []
    empty: list[Finding] = []
    with open_shards(subject.checkpoint.shards) as files:
        for info in infos:
            notes.at(info.name)
            mode = getattr(layout.stated(info.name.rpartition(".")[0]), "mode", AFFINE)
            counted = tally(info, code_of(info, mode), files)
            bad += _not_finite(info, counted)
            empty += _without_information(info, counted, layout)
    yield from few(bad)
    yield from few(empty)
    notes.figures.update(tensors=len(infos), bytes_read=sum(info.nbytes for info in infos))


def tally(info: TensorInfo, code: Code, files: Descriptors) -> Tally:
    """Read a tensor once."""
    bad, first_bad, constant, position = 0, 0, True, 0
    first: int | None = None
    for block in blocks(info, files[info.file]):
        array: NDArray[Any] = np.frombuffer(block, code.element)
        first = int(array[0]) if first is None else first
        constant = constant and bool((array == first).all())
        if code.mask is not None:
            wrong = no_numbers(array, code.mask)
            if wrong.any():
                first_bad = first_bad if bad else position + int(wrong.argmax()) * array.itemsize
                bad += int(wrong.sum())
        position += len(block)
    return Tally(bad, first_bad, constant, first or 0)


def _not_finite(info: TensorInfo, counted: Tally) -> Iterator[Finding]:
    if counted.bad:
        place = row_name(info.shape, counted.first_bad * math.prod(info.shape[:-1]) // info.nbytes)
        yield Finding(f"{counted.bad} values are NaN or infinite, the first in {place}", info.name)


def _without_information(info: TensorInfo, counted: Tally, layout: Layout) -> Iterator[Finding]:
    if not counted.constant:
        return
    target = layout.targets.get(info.name)
    leaf = info.name.rpartition(".")[2]
    if info.dtype == "U32":
        yield Finding("all codes are the same: the matrix holds nothing", info.name)
    elif leaf == COMPANIONS[0] and info.dtype in STORAGE and info.size >= MANY_SCALES:
        yield Finding(f"all {info.size} scales are the same, which no weights have", info.name)
    elif target is None or target.role is Role.CLIP_BOUND or info.name.endswith(MAY_BE_ZERO):
        return
    elif _is_zero(counted.first, info.dtype):
        yield Finding(f"all {info.size} values are zero", info.name)
    elif len(info.shape) > 1 and info.size > 1:
        yield Finding(f"all {info.size} values are the same", info.name)


def _is_zero(bits: int, dtype: str) -> bool:
    """Zero with either sign."""
    return dtype in STORAGE and bits & ~(1 << (8 * STORAGE[dtype].itemsize - 1)) == 0
