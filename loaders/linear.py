"""Products with weights, plain and packed: mlx's own, but for what its CPU kernels do slowly or inexactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from .cores import across_cores
from .module import Module, on_cpu

# From here on, the rows of a product pay on the CPU for what is copied or unpacked for them.
MANY_ROWS = 32

# What a packed weight consists of; biases in affine mode only.
PARTS = ("weight", "scales", "biases")


def has_many_rows(x: mx.array) -> bool:
    """Whether x [..., features] has so many rows that another kernel is faster; never on a GPU."""
    return on_cpu() and x.size >= MANY_ROWS * x.shape[-1]


def product(x: mx.array, weight: mx.array) -> mx.array:
    """Map x [..., in] by weight [out, in] to [..., out].

    The BLAS of mlx's wheels for Linux is two to five times as fast without a transposed argument. So many rows are
    copied to columns and back, and the weight is taken as it lies.
    """
    if not has_many_rows(x):
        return across_cores(lambda share: x @ share[0].T, [weight], x.size * weight.shape[0])
    columns = weight @ mx.contiguous(x.reshape(-1, x.shape[-1]).T)
    return columns.T.reshape(*x.shape[:-1], -1)


def packed_product(multiply: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """Map x by a product with packed weights, to the dtype of x.

    The CPU adds up in the dtype of x. In bfloat16 this loses as much as packing in 4 bits does, from 6144 features on,
    and takes seven times as long as in float32; so there x becomes float32 first.
    """
    return multiply(x.astype(mx.float32)).astype(x.dtype) if on_cpu() else multiply(x)


def dequantize(parts: Sequence[mx.array], packing: Mapping[str, Any]) -> mx.array:
    """Float32 [..., columns] from words, scales and, in affine mode, biases; scales of other modes are bytes."""
    words, *rest = parts
    exact = [array if array.dtype == mx.uint8 else array.astype(mx.float32) for array in rest]
    biases = exact[1] if len(exact) > 1 else None
    return mx.dequantize(words, exact[0], biases, **packing, dtype=mx.float32)


def packing_of(module: nn.Module) -> dict[str, Any]:
    """How a module's weight is packed: the arguments of `mx.dequantize`."""
    return {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}


class Linear(Module):
    """A linear layer without a bias: `weight` [out, in]."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_features, in_features))

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., in] to [..., out]."""
        return product(x, self.weight)

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> PackedLinear:
        """The module that `nn.quantize` puts in this one's place."""
        return PackedLinear(self.weight, group_size, bits, mode)


class Embedding(Module):
    """A table: `weight` [rows, columns]."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = mx.zeros((rows, columns))

    def __call__(self, ids: mx.array) -> mx.array:
        """Map ids [...] to rows [..., columns]."""
        return self.weight[ids]

    def as_linear(self, x: mx.array) -> mx.array:
        """Map x [..., columns] to [..., rows]."""
        return product(x, self.weight)

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> PackedEmbedding:
        """The module that `nn.quantize` puts in this one's place."""
        return PackedEmbedding(self.weight, group_size, bits, mode)


class Packed(Module):
    """A packed weight; `biases` in affine mode only."""

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight, self.scales, *biases = mx.quantize(weight, group_size, bits, mode=mode)
        if biases:
            self.biases = biases[0]

    @property
    def parts(self) -> list[mx.array]:
        """Words, scales and, in affine mode, biases."""
        return [self[part] for part in PARTS if part in self]

    def multiply(self, x: mx.array) -> mx.array:
        """Map x [..., in] by a weight [out, in] to [..., out]."""
        packing = packing_of(self)

        def multiply(share: Sequence[mx.array]) -> mx.array:
            words, scales, *biases = share
            return mx.quantized_matmul(x, words, scales, biases[0] if biases else None, **packing)

        return across_cores(multiply, self.parts, x.size * self.weight.shape[0])


class PackedLinear(Packed):
    """`Linear` with a packed weight."""

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., in] to [..., out]."""
        # Mlx's own product would unpack the weight for every row anew.
        multiply = self._unpack_and_multiply if has_many_rows(x) else self.multiply
        return packed_product(multiply, x)

    def _unpack_and_multiply(self, x: mx.array) -> mx.array:
        return product(x, dequantize(self.parts, packing_of(self)))


class PackedEmbedding(Packed):
    """`Embedding` with a packed weight."""

    def __call__(self, ids: mx.array) -> mx.array:
        """Map ids [...] to rows [..., columns], in float32."""
        return dequantize([part[ids] for part in self.parts], packing_of(self))

    def as_linear(self, x: mx.array) -> mx.array:
        """Map x [..., columns] to [..., rows]; for this, a table is too large to unpack."""
        return packed_product(self.multiply, x)
