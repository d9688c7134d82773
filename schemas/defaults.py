"""What transformers' processors take for a field that a `processor_config.json` leaves out.

The published form says everything; the shortened form of some conversions does not. The table,
`processor_defaults.json`, holds the class defaults of the transformers version that it names; a parity test compares
the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["filled", "left_out", "processor_defaults"]

ALIASES = {"num_mel_filters": "feature_size"}


@cache
def _table() -> dict[str, Any]:
    text = files(__package__).joinpath("processor_defaults.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def processor_defaults(kind: str) -> Mapping[str, Any]:
    """The class defaults of one processor.

    Args:
        kind: the class's name, as in `image_processor_type`.
    """
    defaults: Mapping[str, Any] = _table()[kind]
    return defaults


def filled(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The fields of `kind`: those that `part` says, and transformers' defaults for the rest; null counts as unsaid."""
    said = {ALIASES.get(key, key): value for key, value in part.items() if value is not None}
    return {key: said.get(key, default) for key, default in processor_defaults(kind).items()}


def left_out(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The fields of `kind` that `part` leaves out, with the values that they get."""
    said = {ALIASES.get(key, key) for key, value in part.items() if value is not None}
    return {
        key: default for key, default in processor_defaults(kind).items() if key not in said and default is not None
    }
