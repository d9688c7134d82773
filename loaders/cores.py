"""A product on all cores: on the CPU mlx computes what is in one stream in one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import mlx.core as mx

from .module import on_cpu

# Multiplications that pay for a stream of their own; to begin one and to wait for it takes as long as some 2**15.
SHARE = 1 << 17


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_LOCAL = threading.local()


def streams() -> list[mx.Stream]:
    """A stream for each core, made when they are first needed; a stream belongs to the thread that made it."""
    if not hasattr(_LOCAL, "streams"):
        cpu = mx.Device(mx.cpu)
        _LOCAL.streams = [mx.default_stream(cpu), *(mx.new_stream(cpu) for _ in range(1, available_cores()))]
    found: list[mx.Stream] = _LOCAL.streams
    return found


def across_cores(
    multiply: Callable[[Sequence[mx.array]], mx.array], parts: Sequence[mx.array], multiplications: int
) -> mx.array:
    """Multiply by a weight; on the CPU each core takes a share of its rows.

    Args:
        multiply: maps rows of the parts to [..., rows].
        parts: what the weight consists of, each [rows, ...].
        multiplications: how many it takes in all.
    """
    rows = parts[0].shape[0]
    count = min(len(streams()), multiplications // SHARE, rows) if on_cpu() else 1
    if count < 2:
        return multiply(parts)
    bounds = pairwise(rows * share // count for share in range(count + 1))
    products = []
    for stream, (start, stop) in zip(streams(), bounds, strict=False):
        with mx.stream(stream):
            products.append(multiply([part[start:stop] for part in parts]))
    return mx.concatenate(products, axis=-1)
