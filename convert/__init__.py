"""Hugging Face checkpoint to MLX checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import Conversion, Options, hf_to_mlx, prepare

__all__ = ["Conversion", "Options", "hf_to_mlx", "prepare"]


def __getattr__(name: str) -> Any:
    """Load the pipeline when it is first asked for: the command line's help must not wait for numpy."""
    if name in __all__:
        from . import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
