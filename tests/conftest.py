"""Fixtures that more than one folder uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert import Options, hf_to_mlx
from g4convert.tests.support import CHECKPOINTS

Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """`converted(kind, **options)`: a sample in MLX form, made once a session; look, do not touch."""
    made: dict[str, Path] = {}

    def convert(kind: str, **options: Any) -> Path:
        key = json.dumps([kind, options], sort_keys=True, default=list)
        if key not in made:
            output = tmp_path_factory.mktemp("converted") / kind
            hf_to_mlx(CHECKPOINTS / kind, output, options=Options(**options))
            made[key] = output
        return made[key]

    return convert
