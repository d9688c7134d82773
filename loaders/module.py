"""`Module`, from which every network part here derives, and what both towers need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx import nn


class Module(nn.Module):
    """Mlx's own, with the types that mlx leaves out."""

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
        def parameters(self) -> dict[str, Any]: ...  # noqa: D102
        def modules(self) -> list[nn.Module]: ...  # noqa: D102
        def named_modules(self) -> list[tuple[str, nn.Module]]: ...  # noqa: D102


class Linear(nn.Linear):
    """Mlx's own without a bias, for many rows at once.

    On the CPU it copies its weight: the BLAS of mlx's wheels for Linux is two to five times as fast without a
    transposition, and a copy costs as much as a few rows.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., in] to [..., out]."""
        transposed = self.weight.T
        on_cpu = mx.default_device().type == mx.DeviceType.cpu
        return x @ (mx.contiguous(transposed) if on_cpu else transposed)


def clamp(x: mx.array, low: mx.array | float, high: mx.array | float) -> mx.array:
    """Limit x to [low, high] in its own dtype, which makes a bound beyond its range infinite."""
    return mx.clip(x, mx.array(low, x.dtype), mx.array(high, x.dtype))


def rows(x: mx.array, mask: mx.array) -> list[mx.array]:
    """The rows of [B, N, ...] where mask, bool [B, N], is True: B arrays [rows, ...]."""
    return [one[mx.array(np.flatnonzero(chosen))] for one, chosen in zip(x, np.array(mask), strict=True)]
