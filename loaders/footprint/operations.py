"""What the modules of a network put on a tape: mlx's kernels, or the basic operations that stand for them on the CPU.

The basic operations are those of mlx's `fast.cpp` and `ops.cpp`, counted with `mx.export_to_dot`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .runtime import Runtime
from .tape import Buffer, Tape
from .weights import Weight

# See `linear.MANY_ROWS`.
MANY_ROWS = 32
FLOAT32 = 4
WORD_BITS = 32


@dataclass(frozen=True)
class Operations:
    """Puts what is computed on a tape."""

    tape: Tape
    runtime: Runtime

    def array(self, elements: int, *reads: Buffer, weights: int = 0) -> Buffer:
        """A result in the dtype of activations."""
        return self.tape.make(elements * self.runtime.element, *reads, weights=weights)

    def read(self, weight: Weight) -> Buffer:
        """A weight that comes from its file when it is first used, and stays."""
        if not self.runtime.late_towers:
            return Buffer(0)
        found = self.tape.make(weight.nbytes)
        if weight.bits is None and not weight.exact and self.runtime.element * weight.size != weight.nbytes:
            found = self.array(weight.size, found)
        found.kept = True
        return found

    def norm(self, x: Buffer, *weight: Buffer) -> Buffer:
        """RMS norm, with the weight if that is yet to be read."""
        if self.runtime.kernels:
            return self.tape.make(x.nbytes, x, *weight)
        wide = x if self.runtime.element == FLOAT32 else self.tape.make(2 * x.nbytes, x)
        squares = self.tape.make(wide.nbytes, wide)
        means = self.tape.make(0, squares)
        self.tape.rework(self.tape.view(means, 3), times=3)
        normed = self.tape.make(wide.nbytes, wide, means)
        out = normed if self.runtime.element == FLOAT32 else self.tape.make(x.nbytes, normed)
        return self.tape.rework(self.tape.view(out, 2), *weight)

    def rotate(self, x: Buffer) -> Buffer:
        """Rotary embedding."""
        if self.runtime.kernels:
            return self.tape.make(x.nbytes, x)
        angles = self.tape.rework(self.tape.view(self.tape.make(0), 6), times=5)
        cosines, sines = self.tape.make(0, angles), self.tape.make(0, angles)
        half = x.nbytes // 2
        one, other = (self.tape.view(self.tape.view(x)) for _ in range(2))
        turned = self.tape.rework(self.tape.make(half, one, cosines), self.tape.make(half, other, sines))
        tilted = self.tape.rework(self.tape.make(half, one, sines), self.tape.make(half, other, cosines))
        return self.tape.make(x.nbytes, turned, tilted, pieces=2)

    def gated(self, gate: Buffer, up: Buffer) -> Buffer:
        """GELU of the one, times the other."""
        if self.runtime.kernels:
            return self.tape.make(gate.nbytes, gate, up)
        cube = self.tape.make(gate.nbytes, gate)
        cube.in_columns = gate.in_columns
        self.tape.rework(self.tape.view(cube, 2), times=2)
        self.tape.rework(cube, gate, times=3)
        return self.tape.rework(cube, up)

    def add(self, x: Buffer, more: Buffer) -> Buffer:
        """A sum in the place of what is added."""
        return self.tape.rework(more, x)

    def linear(self, x: Buffer, rows: int, weight: Weight, *fresh: Buffer) -> Buffer:
        """A product with a weight [out, in], which is `fresh` if it has only been read now."""
        columns = weight.shape[-2]
        if self.runtime.kernels:
            return self.array(rows * columns, x, *fresh, weights=weight.nbytes)
        if rows < MANY_ROWS:
            return self.array(rows * columns, x, *fresh)
        wide = x
        if weight.bits is not None:
            if self.runtime.element != FLOAT32:
                wide = self.tape.make(rows * weight.shape[-1] * FLOAT32, x)
            unpacked: tuple[Buffer, ...] = (self.unpack(weight, weight.size), *fresh)
            element = FLOAT32
        else:
            unpacked, element = fresh, self.runtime.element
        turned = self.tape.view(wide, 3)
        if not wide.in_columns:
            turned = self.tape.make(rows * weight.shape[-1] * element, turned)
        product = self.tape.view(self.tape.make(rows * columns * element, turned, *unpacked), 2)
        out = product if element == self.runtime.element else self.array(rows * columns, product)
        out.in_columns = True
        return out

    def unpack(self, weight: Weight, elements: int) -> Buffer:
        """Elements of a packed weight in float32, by mlx's basic operations."""
        bits = weight.bits or 1
        scales = [self.tape.make(elements // weight.group_size * FLOAT32) for _ in range(2)]
        if WORD_BITS % bits:
            spread = self.tape.make(elements * bits * FLOAT32)
            self.tape.rework(self.tape.view(spread, 4), times=4)
            codes = self.tape.make(elements * FLOAT32, spread)
        else:
            parts = WORD_BITS // bits
            pieces = [self._piece(elements // parts) for _ in range(parts)]
            codes = self.tape.make(elements * FLOAT32, *pieces, pieces=parts)
        self.tape.rework(self.tape.view(codes, 2))
        return self.tape.view(self.tape.rework(self.tape.view(codes, 4), *scales, times=2))

    def _piece(self, elements: int) -> Buffer:
        piece = self.tape.make(elements * FLOAT32)
        return self.tape.view(self.tape.rework(self.tape.view(piece, 2)))

    def rows(self, count: int, weight: Weight) -> Buffer:
        """Rows of a table."""
        columns = weight.shape[-1]
        if self.runtime.kernels or weight.bits is None:
            return self.array(count * columns)
        unpacked = self.unpack(weight, count * columns)
        return unpacked if self.runtime.element == FLOAT32 else self.array(count * columns, unpacked)

    def attend(
        self, queries: Buffer, keys: Buffer, values: Buffer, *, heads: int, rows: int, seen: int, head_dim: int
    ) -> Buffer:
        """Attention of rows on what they see; without a kernel for it, all scores at once."""
        if self.runtime.kernels and (head_dim in self.runtime.fused_heads or rows == 1):
            return self.tape.make(queries.nbytes, queries, keys, values)
        mask = self.tape.make(rows * seen, self.tape.rework(self.tape.view(self.tape.make(0), 4)))
        scaled = self.tape.view(self.tape.rework(self.tape.view(queries)))
        scores = self.array(heads * rows * seen, scaled, self.tape.view(keys, 3))
        self.tape.rework(self.tape.rework(scores, self.tape.view(mask)))
        return self.tape.view(self.array(heads * rows * head_dim, scores, self.tape.view(values, 2)))
