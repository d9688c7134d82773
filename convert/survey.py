"""Which weights lie on a 4-bit grid? Asked of a few rows of each, before anything is planned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chunks import Chunk, read
from .decoding import open_files
from .encodings import EncodedTensor
from .inventory import Match
from .lattice import is_lattice, sampled_rows
from .plan import FLOATS, Step, module_path, plain_step
from .quantize import STORAGE
from .recipe import LATTICE, Recipe, lattice_packing

# Bits of a float32 that a bfloat16 does not have.
BEYOND_BF16 = np.uint32(0xFFFF)


def find_lattices(matches: Iterable[Match], recipe: Recipe) -> dict[str, str]:
    """The modules that lie on a 4-bit grid, by the dtype to which their values were rounded.

    Args:
        matches: what becomes of the source's tensors.
        recipe: which weights may be packed so.
    """
    if not recipe.lattices:
        return {}
    steps = [plain_step(match) for match in matches if _may_be_packed(match, recipe)]
    found = {module_path(step.name): precision_of_lattice(step) for step in steps}
    return {module: precision for module, precision in found.items() if precision is not None}


def _may_be_packed(match: Match, recipe: Recipe) -> bool:
    target = match.target
    if match.source.dtype not in FLOATS or target.shape[-1:] == () or target.shape[-1] % LATTICE.group_size:
        return False
    wanted = recipe.choose(module_path(target.name), target.role)
    return wanted is not None and lattice_packing(target.role, wanted) is not None


def precision_of_lattice(step: Step) -> str | None:
    """`BF16`, `F16` or `F32`, to which the values on the grid were rounded; None if they are on none.

    A checkpoint in float32 may hold what was bfloat16 before. Of weights that are stored as codes of four bits it is
    known.
    """
    if isinstance(step.source, EncodedTensor) and step.source.grid is not None:
        return step.source.grid
    stored = np.concatenate(list(_sample(step)))
    dtype = step.source.dtype
    values = _floats(stored, dtype)
    if not np.isfinite(values).all():  # is said of the whole tensor when it is converted
        return None
    precision = "BF16" if dtype == "F32" and not (stored & BEYOND_BF16).any() else dtype
    return precision if is_lattice(values, precision) else None


def sampled_values(step: Step) -> NDArray[np.float32]:
    """Some rows of a weight: float32 [rows, columns]."""
    return _floats(np.concatenate(list(_sample(step))), step.source.dtype)


def _floats(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    values: NDArray[np.float32] = stored.view(STORAGE[dtype]).astype(np.float32)
    return values


def _sample(step: Step) -> Iterator[NDArray[np.unsignedinteger]]:
    """Some rows as they are stored: unsigned integers [1, columns] each."""
    with open_files({part.file for part in step.source.parts}) as files:
        for row in sampled_rows(step.rows, step.row_length):
            yield read(Chunk(step, int(row), int(row) + 1), files)
