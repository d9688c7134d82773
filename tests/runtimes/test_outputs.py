"""Every output against the table of what mlx-swift-lm reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from g4convert.convert import hf_to_mlx
from g4convert.loaders.checkpoint import Checkpoint
from g4convert.tests.runtimes.mlx_swift_lm import unmet
from g4convert.tests.support import KINDS, copy_of, read_json, saved_form

Convert = Callable[..., Path]
TABLE = read_json(Path(__file__).with_name("mlx_swift_lm.json"))
OPTIONS: dict[str, dict[str, object]] = {
    "plain": {"quantize": False},
    "4-bit": {},
    "uniform": {"recipe": "uniform"},
    "mxfp8": {"mode": "mxfp8"},
}


def problems(output: Path) -> list[str]:
    return unmet(TABLE, Checkpoint.open(output).tensors, read_json(output / "config.json"))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_mlx_swift_lm_finds_all_it_reads(kind: str, options: str, converted: Convert) -> None:
    assert problems(converted(kind, **OPTIONS[options])) == []


@pytest.mark.parametrize("kind", ["e2b", "e4b", "26b-a4b", "31b", "12b"])
def test_also_from_the_form_that_transformers_saves(kind: str, tmp_path: Path) -> None:
    source = copy_of(kind, tmp_path / "source")
    saved_form(source)

    hf_to_mlx(source, tmp_path / "out")

    assert problems(tmp_path / "out") == []


@pytest.mark.parametrize("modalities", [("text",), ("text", "image"), ("text", "audio")], ids="+".join)
def test_also_with_a_modality_left_out(modalities: tuple[str, ...], converted: Convert) -> None:
    assert problems(converted("e2b", modalities=modalities)) == []
