"""Nothing is told where nothing is different, and nothing but form where only the form is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from g4convert.convert import Options, diff, hf_to_mlx
from g4convert.convert.comparison import distance
from g4convert.convert.comparison.outcome import Comparison, Severity
from g4convert.convert.comparison.weights import CAST, SAME_VALUES
from g4convert.tests.convert.encoded_sources import FLOAT8_KINDS, float8, is_text_matrix, w4a16
from g4convert.tests.convert.verification.workshop import Piece
from g4convert.tests.support import CHECKPOINTS, KINDS, Tensors, copy_of, edit_tensors, rename_tensors

Convert = Callable[..., Path]
CONVERSIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("text", {}),
    ("e2b", {"quantize": False}),
    ("e2b", {"bits": 3, "dtype": "float16"}),
    ("26b-a4b", {"mode": "nvfp4"}),
    ("12b", {"mode": "mxfp8"}),
)


def packed(comparison: Comparison) -> list[str]:
    """What is said of weights that are not stored alike."""
    return [difference.meaning for difference in comparison.differences if "elements" in difference.figures]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_a_source(kind: str, tmp_path: Path) -> None:
    original = CHECKPOINTS / kind

    found = diff(original, Piece(original, tmp_path / "piece").folder)

    assert found.differences == ()
    assert found.weights > 90
    assert found.files == (4 if kind == "text" else 5)


@pytest.mark.parametrize(("kind", "options"), CONVERSIONS, ids=str)
def test_a_copy_of_a_conversion(kind: str, options: dict[str, Any], converted: Convert, tmp_path: Path) -> None:
    original = converted(kind, **options)

    assert diff(original, Piece(original, tmp_path / "piece").folder).differences == ()


def test_shards_and_what_is_about_a_checkpoint(converted: Convert, tmp_path: Path) -> None:
    """Another number of shards, with it another index and manifest; another card; files of other programs."""
    piece = Piece(converted("text", max_shard_size=300_000), tmp_path / "piece")
    assert len(list(piece.folder.glob("*.safetensors"))) > 1
    piece.write("README.md", b"# Another card\n")
    piece.write(".gitattributes", b"*.safetensors filter=lfs\n")

    assert diff(converted("text"), piece.folder).differences == ()


def test_the_layout_of_json(tmp_path: Path) -> None:
    piece = Piece(CHECKPOINTS / "e2b", tmp_path / "piece")
    for path in piece.folder.glob("*.json"):
        document = json.loads(path.read_text())
        piece.write(path.name, json.dumps(dict(reversed(document.items()))).encode())

    assert diff(CHECKPOINTS / "e2b", piece.folder).differences == ()


@pytest.mark.parametrize("kind", ["12b", "26b-a4b", "e2b", "text"])
def test_an_unquantized_conversion_differs_in_form_only(kind: str, converted: Convert) -> None:
    found = diff(CHECKPOINTS / kind, converted(kind, quantize=False))

    assert {difference.severity for difference in found.differences} == {Severity.FORM}
    assert packed(found) == []


def test_other_prefixes_are_form(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    rename_tensors(source, lambda name: f"base_model.model.{name}")

    (difference,) = diff(CHECKPOINTS / "text", source).differences

    assert (difference.a, difference.b, difference.severity) == ("*", "base_model.model.*", Severity.FORM)
    assert len(difference.figures["tensors"]) == 98


def test_the_grid_of_training_is_told(converted: Convert) -> None:
    """What lies on its grid comes back from 4 bits: rounded to bfloat16, it is what the source holds."""
    found = diff(CHECKPOINTS / "e2b-qat", converted("e2b-qat"))

    assert set(packed(found)) == {CAST.format(finer="B", dtype="bfloat16", side="A")}
    assert len(packed(found)) == 52


@pytest.mark.parametrize("kind", ["26b-a4b", "e2b"])
def test_integers_of_a_packed_source_are_the_same_values(kind: str, tmp_path: Path) -> None:
    source = w4a16(kind, tmp_path / "source", chooses=is_text_matrix)
    hf_to_mlx(source, tmp_path / "out")

    found = diff(source, tmp_path / "out")

    integers = [one for one in found.differences if str(one.a).startswith("compressed-tensors")]
    assert len(integers) >= 34
    assert {one.meaning for one in integers} == {SAME_VALUES}
    assert diff(source, copy(source, tmp_path)).differences == ()


@pytest.mark.parametrize("how", ["blocks", "channel"])
def test_a_float8_source_and_what_it_decodes_to(how: str, tmp_path: Path) -> None:
    source = float8("text", tmp_path / "source", how)
    hf_to_mlx(source, tmp_path / "out", options=Options(quantize=False))

    found = diff(source, tmp_path / "out")

    assert {difference.severity for difference in found.differences} == {Severity.FORM}
    assert set(packed(found)) == {SAME_VALUES}
    assert diff(source, copy(source, tmp_path)).differences == ()


def test_scales_twice_as_large_and_codes_half_as_large_are_the_same_values(tmp_path: Path) -> None:
    """Other bytes that decode to the same numbers are told, as form."""
    name, how = "model.layers.0.mlp.up_proj.weight", FLOAT8_KINDS["scalar"]

    def halve(tensors: Tensors) -> None:
        tensors[name] = (tensors[name].astype(np.float32) / 2).astype(ml_dtypes.float8_e4m3fn)
        tensors[f"{name}_scale"] = tensors[f"{name}_scale"] * 2

    source = float8("text", tmp_path / "source", "scalar", lambda one, _: one == name)
    edit_tensors(source, lambda tensors: tensors.update({name: even(tensors[name])}))
    other = copy(source, tmp_path)
    edit_tensors(other, halve)

    (difference,) = diff(source, other).differences

    assert how.config["quant_method"] == difference.a == difference.b
    assert (difference.where, difference.meaning, difference.severity) == (name, SAME_VALUES, Severity.FORM)


def even(codes: Any) -> Any:
    """FP8 numbers that can be halved without loss."""
    values = codes.astype(np.float32)
    return np.where(np.abs(values) < 1, 2, values).astype(ml_dtypes.float8_e4m3fn)


def copy(source: Path, tmp_path: Path) -> Path:
    return Piece(source, tmp_path / "copy").folder


def test_the_size_of_a_block_does_not_matter(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = (CHECKPOINTS / "e2b", converted("e2b"))
    whole = {one.where: one.figures for one in diff(*pair).differences if "elements" in one.figures}
    monkeypatch.setattr(distance, "MOST_ELEMENTS", 1000)
    small = {one.where: one.figures for one in diff(*pair).differences if "elements" in one.figures}

    assert whole.keys() == small.keys()
    for name, figures in whole.items():
        exact = ("elements", "differing", "beyond_rounding", "largest")
        assert [figures[key] for key in exact] == [small[name][key] for key in exact]
        assert figures["relative_rms"] == pytest.approx(small[name]["relative_rms"], rel=1e-5)
