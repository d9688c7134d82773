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


def on_cpu() -> bool:
    """Whether mlx computes on the CPU by default."""
    return bool(mx.default_device().type == mx.DeviceType.cpu)


def clamp(x: mx.array, low: mx.array | float, high: mx.array | float) -> mx.array:
    """Limit x to [low, high] in its own dtype, which makes a bound beyond its range infinite."""
    return mx.clip(x, mx.array(low, x.dtype), mx.array(high, x.dtype))


def rows(x: mx.array, mask: mx.array) -> list[mx.array]:
    """The rows of [B, N, ...] where mask, bool [B, N], is True: B arrays [rows, ...]."""
    return [one[mx.array(np.flatnonzero(chosen))] for one, chosen in zip(x, np.array(mask), strict=True)]
