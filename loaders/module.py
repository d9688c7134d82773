"""`Module`, from which every network part here derives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx import nn


class Module(nn.Module):
    """Mlx's own, with the types that mlx leaves out."""

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
        def parameters(self) -> dict[str, Any]: ...  # noqa: D102
        def modules(self) -> list[nn.Module]: ...  # noqa: D102
        def named_modules(self) -> list[tuple[str, nn.Module]]: ...  # noqa: D102
