"""The order in which mlx makes and frees arrays, and how many bytes of them there are at the worst moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .runtime import Queue

# `MLX_BFS_MAX_WIDTH`, as mlx has it by default.
WIDTH = 20


@dataclass(eq=False)
class Buffer:
    """The bytes of an array, and of what takes its place.

    Attributes:
        nbytes: of the array.
        made: the operation that computed what it holds now; None where it was there before.
        kept: whether it outlives the tape.
        in_columns: whether it lies column by column, as what `linear.product` makes of many rows.
    """

    nbytes: int
    made: Operation | None = None
    kept: bool = False
    in_columns: bool = False


@dataclass(eq=False)
class Operation:
    """One node of mlx's graph.

    Attributes:
        steps: what it counts in a queue.
        inputs: the operations whose results it takes.
        buffers: what it makes or reads.
        read: bytes that it reads, weights included.
    """

    steps: int
    inputs: tuple[Operation, ...]
    buffers: tuple[Buffer, ...]
    read: int


@dataclass
class Tape:
    """Operations, as a network describes them; `peak` puts them in the order in which mlx queues them."""

    queue: Queue
    operations: list[Operation] = field(default_factory=list)
    before: list[Buffer] = field(default_factory=list)

    def make(self, nbytes: int, *reads: Buffer, weights: int = 0, pieces: int = 1) -> Buffer:
        """An operation that allocates its result.

        Args:
            nbytes: of the result.
            reads: what it is computed from.
            weights: bytes of weights that it reads besides.
            pieces: copies that it consists of.
        """
        made = Buffer(nbytes)
        self._add(pieces + 1 if self.queue.views else 1, made, reads, weights)
        return made

    def rework(self, buffer: Buffer, *reads: Buffer, times: int = 1) -> Buffer:
        """Operations whose result takes the place of what they are computed from."""
        for _ in range(times):
            self._add(2 if self.queue.views else 1, buffer, (buffer, *reads), 0)
        return buffer

    def view(self, buffer: Buffer, times: int = 1) -> Buffer:
        """Operations that only look at a buffer in another way."""
        if self.queue.views:
            for _ in range(times):
                self._add(1, buffer, (buffer,), 0)
        return buffer

    def hold(self, nbytes: int) -> Buffer:
        """An array that is there before the first operation, and outlives the tape unless it is given up."""
        held = Buffer(nbytes, kept=True)
        self.before.append(held)
        return held

    def _add(self, steps: int, result: Buffer, reads: tuple[Buffer, ...], weights: int) -> None:
        inputs = tuple(buffer.made for buffer in reads if buffer.made is not None)
        read = weights + sum(buffer.nbytes for buffer in reads)
        result.made = Operation(steps, inputs, tuple(dict.fromkeys((result, *reads))), read)
        self.operations.append(result.made)

    def peak(self, *roots: Buffer) -> int:
        """Bytes at the worst moment of computing some results."""
        return max(self._totals(roots), default=0)

    def _totals(self, roots: Sequence[Buffer]) -> Iterator[int]:
        ordered = in_order([root.made for root in roots if root.made is not None])
        first: dict[Buffer, int] = dict.fromkeys(self.before, 0)
        last: dict[Buffer, int] = dict.fromkeys(self.before, 0)
        for moment, operation in enumerate(ordered):
            for buffer in operation.buffers:
                first.setdefault(buffer, moment)
                last[buffer] = moment
        changes = [0] * (len(ordered) + 1)
        ends = free_from(ordered, self.queue)
        for buffer, start in first.items():
            changes[start] += buffer.nbytes
            if not buffer.kept:
                changes[ends[last[buffer]]] -= buffer.nbytes
        total = 0
        for change in changes:
            total += change
            yield total


def in_order(roots: Sequence[Operation]) -> list[Operation]:
    """The operations in the order in which mlx queues them: breadth first from the results, backwards.

    Where more than `WIDTH` wait, it goes on with their inputs first (`eval_impl`).
    """
    readers = Counter(source for operation in _reachable(roots) for source in operation.inputs)
    readers.update(roots)
    start = Operation(0, tuple(roots), (), 0)
    tape, waiting, place = [start], list[tuple[Operation, int]](), 0
    while place < len(tape) or waiting:
        if place < len(tape):
            operation, number = tape[place], 0
            place += 1
        else:
            operation, number = waiting.pop()
        for index in range(number, len(operation.inputs)):
            if len(tape) - place >= WIDTH:
                waiting.append((operation, index))
                break
            source = operation.inputs[index]
            readers[source] -= 1
            if not readers[source]:
                tape.append(source)
    return tape[:0:-1]


def _reachable(roots: Sequence[Operation]) -> set[Operation]:
    found, stack = set(roots), list(roots)
    while stack:
        for source in stack.pop().inputs:
            if source not in found:
                found.add(source)
                stack.append(source)
    return found


def free_from(ordered: Sequence[Operation], queue: Queue) -> list[int]:
    """For every operation, the moment from which on it is certain to be done."""
    tasks = list(_tasks(ordered, queue))
    ends, end = [], 0
    for task in tasks:
        while end < len(tasks) and tasks[end] <= task + queue.tasks:
            end += 1
        ends.append(end)
    return ends


def _tasks(ordered: Sequence[Operation], queue: Queue) -> Iterator[int]:
    """The number of the task that each operation belongs to."""
    task = steps = read = 0
    for operation in ordered:
        yield task
        steps, read = steps + operation.steps, read + operation.read
        if steps >= queue.steps or (queue.nbytes is not None and read > queue.nbytes):
            task, steps, read = task + 1, steps % queue.steps if queue.nbytes is None else 0, 0
