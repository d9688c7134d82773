"""What `g4convert.loaders` offers, and that importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from g4convert import loaders
from g4convert.loaders import generation, loading


def test_the_face_is_these_names_and_they_are_what_they_say() -> None:
    assert loaders.load is loading.load
    assert loaders.generate is generation.generate
    assert all(callable(getattr(loaders, name)) for name in loaders.__all__)
    assert sorted(loaders.__all__) == list(loaders.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        loaders.nothing  # noqa: B018


def test_importing_the_folder_imports_no_mlx() -> None:
    code = (
        "import sys, g4convert.loaders, g4convert.loaders.config, g4convert.loaders.checkpoint\n"
        "print(sorted({'mlx', 'jinja2', 'tokenizers', 'numpy'} & {name.split('.')[0] for name in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert out.stdout.strip() == "[]"
