"""Hugging Face checkpoint to MLX checkpoint."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison.outcome import Comparison
    from .comparison.run import diff
    from .options import Options
    from .pipeline import Conversion, hf_to_mlx, prepare
    from .publication.run import Publication, publish
    from .publication.target import Target
    from .verification.run import verify

__all__ = [
    "Comparison",
    "Conversion",
    "Options",
    "Publication",
    "Target",
    "diff",
    "hf_to_mlx",
    "prepare",
    "publish",
    "verify",
]

HOMES = {
    "Comparison": ".comparison.outcome",
    "Options": ".options",
    "Publication": ".publication.run",
    "Target": ".publication.target",
    "diff": ".comparison.run",
    "publish": ".publication.run",
    "verify": ".verification.run",
}


def __getattr__(name: str) -> Any:
    """Load a module when it is first asked for: the command line's help must not wait for numpy."""
    if name in __all__:
        return getattr(import_module(HOMES.get(name, ".pipeline"), __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
