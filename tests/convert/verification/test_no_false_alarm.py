"""What is right passes: every family, every way to pack, whatever the verification can compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert import Options, hf_to_mlx
from g4convert.convert.manifest import MANIFEST
from g4convert.convert.source import open_source
from g4convert.convert.verification import replay
from g4convert.convert.verification.checking import take_step
from g4convert.convert.verification.outcome import Check, Status
from g4convert.convert.verification.subject import Subject
from g4convert.loaders import checkpoint
from g4convert.tests.convert.verification.workshop import CHECKS, Piece, said, verify
from g4convert.tests.support import CHECKPOINTS, KINDS, copy_of, edit_json, edit_tensors, saved_form

Convert = Callable[..., Path]
WAYS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "uniform": {"recipe": "uniform"},
    "8-bit": {"bits": 8},
    "plain": {"quantize": False, "dtype": "float32"},
    "mxfp4": {"mode": "mxfp4"},
    "nvfp4": {"mode": "nvfp4"},
    "text-only": {"modalities": ("text",)},
}
# Packings that are rare; one family shows them as well as six.
RARE: dict[str, dict[str, Any]] = {
    "mxfp8": {"mode": "mxfp8"},
    "2-bit": {"bits": 2, "group_size": 32},
    "3-bit-float16": {"bits": 3, "dtype": "float16"},
    "5-bit-128": {"bits": 5, "group_size": 128},
    "shards": {"max_shard_size": 300_000},
    "pictures": {"modalities": ("text", "image")},
}


def skipped(checks: dict[str, Check]) -> set[str]:
    return {check.name for check in checks.values() if check.status is Status.SKIPPED}


def assert_right(shared: Path, kind: str, tmp_path: Path, *, whole: bool = True) -> None:
    """With the manifest and the source, alone, and as another tool's output."""
    everything = verify(shared, kind)
    assert said(everything) == []
    assert skipped(everything) == set()
    piece = Piece(shared, tmp_path / "piece")
    (piece.folder / MANIFEST).unlink()
    assert said(verify(piece.folder, None)) == []
    if whole:  # of another tool nobody knows that it left out a tower on purpose
        assert said(verify(piece.folder, kind)) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_conversion_is_right(kind: str, way: str, converted: Convert, tmp_path: Path) -> None:
    assert_right(converted(kind, **WAYS[way]), kind, tmp_path, whole=way in ("balanced", "plain", "mxfp4", "nvfp4"))


@pytest.mark.parametrize("way", RARE)
def test_a_rare_conversion_is_right(way: str, converted: Convert, tmp_path: Path) -> None:
    assert_right(converted("e2b", **RARE[way]), "e2b", tmp_path, whole=way != "pictures")


def with_source(source: Path, output: Path, **options: Any) -> dict[str, Check]:
    """Every check of a conversion of a source that is no sample."""
    hf_to_mlx(source, output, options=Options(**options))
    return {check.name: check for check in take_step("all", CHECKS, Subject(output, open_source(source)), set()).checks}


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    recipe = tmp_path / "balanced.toml"
    recipe.write_text(
        'name = "balanced"\n[default]\nbits = 3\n[[rule]]\npattern = "*.down_proj"\nbits = 8\ngroup_size = 32\n'
        '[[rule]]\npattern = "embed_*"\nquantize = false\n[[rule]]\npattern = "*.gate_proj"\nbits = 4\nmode = "mxfp4"\n'
    )

    assert said(with_source(CHECKPOINTS / "e2b", tmp_path / "out", recipe=str(recipe))) == []


def test_a_source_as_transformers_saves_it(tmp_path: Path) -> None:
    source = copy_of("e4b", tmp_path / "source")
    saved_form(source)

    assert said(with_source(source, tmp_path / "out")) == []


def test_a_base_checkpoint_has_no_template(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    (source / "chat_template.jinja").unlink()

    checks = with_source(source, tmp_path / "out")

    assert said(checks) == []
    assert checks["chat template"].reason == "a base checkpoint: there is no chat template"


def test_what_the_source_lacks_is_not_missed(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    (source / "generation_config.json").unlink()
    edit_json(source / "config.json", lambda document: document.update(eos_token_id=[1, 16]))
    hf_to_mlx(source, tmp_path / "out")

    assert said(verify(tmp_path / "out", None)) == []
    assert said(with_source(source, tmp_path / "again")) == []


def test_metadata_that_names_no_quantization(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    edit_json(source / "config.json", lambda document: document.update(quantization_config={"modules": "all"}))

    assert said(with_source(source, tmp_path / "out", quantize=False)) == []


def test_an_untied_head(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    edit_json(source / "config.json", lambda document: document.update(tie_word_embeddings=False))
    embedding = "model.embed_tokens.weight"
    edit_tensors(source, lambda tensors: tensors.update({"lm_head.weight": tensors[embedding][::-1]}))

    assert said(with_source(source, tmp_path / "out")) == []


def test_a_model_card_may_be_replaced(converted: Convert, tmp_path: Path) -> None:
    piece = Piece(converted("e2b"), tmp_path / "piece")
    piece.write("README.md", b"# A card\n")

    assert said(verify(piece.folder, "e2b")) == []


def test_rows_do_not_depend_on_the_size_of_a_block(
    converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (checkpoint, replay):
        monkeypatch.setattr(module, "BLOCK", 1024)
    name = "language_model.model.layers.0.experts.switch_glu.down_proj.weight"
    piece = Piece(converted("26b-a4b"), tmp_path / "piece")
    assert said(verify(piece.folder, "26b-a4b")) == []
    with piece.tensors() as tensors:
        tensors[name].bits[5, 60, 1] ^= 8
    piece.refresh_manifest()

    assert said(verify(piece.folder, "26b-a4b")) == [
        f"{name}: differs from what the source gives in 1 of 512 rows, the first is row [5, 60]"
    ]


def test_another_rounding_rule_is_compared_by_distance(converted: Convert, tmp_path: Path) -> None:
    piece = Piece(converted("e2b"), tmp_path / "piece")
    with piece.tensors() as tensors:
        tensors["language_model.model.layers.0.mlp.up_proj.weight"].bits[3, 1] ^= 1
    piece.refresh_manifest()
    with piece.json(MANIFEST) as manifest:
        manifest["generator"]["rule"] = "affine-edge-refit/1"

    checks = verify(piece.folder, "e2b")

    assert said(checks) == []
    assert checks["tensors of the source"].figures["bit_for_bit"] is False


def test_figures_tell_the_error_of_every_packed_module(converted: Convert) -> None:
    figures = verify(converted("e2b"), "e2b", "tensors of the source")["tensors of the source"].figures
    errors = figures["relative_error"]

    assert figures["bit_for_bit"]
    assert len(errors) == 52
    assert all(0.01 < error < 0.15 for error in errors.values())
