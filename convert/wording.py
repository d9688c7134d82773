"""Numbers, sizes and tables in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from .lattice import Tally
from .recipe import Quantization


def describe(packing: Quantization, *, on_grid: bool = False) -> str:
    """A packing in words; `on_grid` where it is the 4-bit grid that the weight was trained on."""
    grid = ", the grid of its training" if on_grid else ""
    return f"{packing.bits}-bit {packing.mode}, groups of {packing.group_size}{grid}"


def exactness(tallies: Collection[Tally]) -> str | None:
    """How much of the weights on a 4-bit grid comes back from it; None where there are none."""
    if not tallies:
        return None
    total = sum(tallies, Tally())
    share = math.floor(1000 * total.exact / max(1, total.groups)) / 10
    return (
        f"{count(len(tallies), 'weight')} packed on the 4-bit grid of training: "
        f"{total.exact:,} of {total.groups:,} groups come back bit for bit ({share:.1f} %)"
    )


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(nbytes: int) -> str:
    """Bytes for people: decimal units, three digits."""
    value = float(nbytes)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.4g} GB"


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as their widest cell; the first is text, the others are numbers."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *numbers]).rstrip()
