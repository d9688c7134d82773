"""What runs a model, as far as it decides how much memory that takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Queue:
    """How far mlx hands out memory ahead of what has been computed (`eval_impl` in mlx's `transforms.cpp`).

    The arrays of an operation are allocated when it is queued, and freed when the task is done in which it was last
    read; the program waits while more than `tasks` of them are under way.

    Attributes:
        steps: of a task, at most: on the CPU what is given to the worker, on Metal the kernels of a command buffer.
        nbytes: of the arrays that a task reads, at most; None for no bound.
        tasks: that may be under way.
        views: whether an operation that computes nothing counts as a step, and every other as two.
    """

    steps: int
    nbytes: int | None
    tasks: int
    views: bool


@dataclass(frozen=True)
class Runtime:
    """A device, and how the loader computes on it.

    Attributes:
        name: for people.
        element: bytes of an activation, of a key or value, and of a weight that is not packed.
        maps_tables: whether the per-layer embeddings stay in their file, see `tables.py`.
        late_towers: whether a tower's weights are read when it is first used, as our loader does; others read all.
        kernels: whether norms, rotations, gates and products with packed weights are one kernel each; without, they are
            made of mlx's basic operations, and a weight is unpacked for many rows, see `linear.py`.
        fused_heads: sizes of a head for which attention keeps no scores.
        queue: how far memory is ahead of the work.
    """

    name: str
    element: int
    maps_tables: bool
    late_towers: bool
    kernels: bool
    fused_heads: frozenset[int]
    queue: Queue


# `DISPATCHES_PER_TASK` of mlx's CPU backend; `MAX_ACTIVE_TASKS`; what `Device` on Metal takes for a phone.
CPU_QUEUE = Queue(steps=10, nbytes=None, tasks=10, views=True)
METAL_QUEUE = Queue(steps=20, nbytes=40 << 20, tasks=10, views=False)

CPU_FLOAT32 = Runtime("mlx on a CPU, float32", 4, True, True, False, frozenset(), CPU_QUEUE)
CPU_BFLOAT16 = Runtime("mlx on a CPU, bfloat16", 2, True, True, False, frozenset(), CPU_QUEUE)
METAL = Runtime("mlx on Metal, bfloat16", 2, False, False, True, frozenset({64, 80, 128}), METAL_QUEUE)
