"""The minimal MLX loader and runner: `load`, `generate`, `stream`, `run`, and what media need.

Importing this package is cheap: mlx comes with the first use of one of these names. No submodule may share a name with
one of them, or importing it would hide the function.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generation import Generation, Piece, Sampling, Stats, generate, run, stream
    from .loading import LoadedModel, load
    from .media import MediaOptions
    from .messages import attachments

__all__ = [
    "Generation",
    "LoadedModel",
    "MediaOptions",
    "Piece",
    "Sampling",
    "Stats",
    "attachments",
    "generate",
    "load",
    "run",
    "stream",
]

_HOMES = {"LoadedModel": "loading", "load": "loading", "MediaOptions": "media", "attachments": "messages"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES.get(name, 'generation')}", __name__), name)
