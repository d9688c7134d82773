"""What mlx-lm and mlx-vlm make of a source: verification says what each of them loses, and accepts their rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import g4convert.tests.parity.reference  # noqa: F401  # lets transformers import, as mlx-lm and mlx-vlm do
import mlx_lm
import mlx_vlm
import pytest
from g4convert.convert.recipe import FIXED_MODES
from g4convert.convert.source import open_source
from g4convert.convert.verification import files, tensors
from g4convert.convert.verification.checking import take_step
from g4convert.convert.verification.outcome import Check, Status
from g4convert.convert.verification.subject import Subject
from g4convert.tests.support import copy_of, edit_json, read_json

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:At least one mel filter")]

Checks = dict[str, dict[str, Check]]


def for_peers(kind: str, folder: Path) -> Path:
    """A sample whose config says its vocabulary where mlx-lm looks for it."""
    source = copy_of(kind, folder)
    rows = read_json(source / "config.json")["text_config"]["vocab_size"]
    edit_json(source / "config.json", lambda document: document.update(vocab_size=rows))
    return source


def verified(convert: Callable[..., Any], kind: str, tmp_path: Path, **options: Any) -> Checks:
    """The two steps' checks of a peer's output, by step and name."""
    source = for_peers(kind, tmp_path / "source")
    convert(str(source), str(tmp_path / "out"), **options)
    subject, reported = Subject(tmp_path / "out", open_source(source)), set[str]()
    steps = {"files": files.CHECKS, "tensors": tensors.CHECKS}
    return {
        name: {check.name: check for check in take_step(name, checks, subject, reported).checks}
        for name, checks in steps.items()
    }


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.status is Status.FAIL}


def said(check: Check) -> str:
    return "\n".join(map(str, check.findings))


def test_mlx_lm_loses_the_towers(tmp_path: Path) -> None:
    steps = verified(mlx_lm.convert, "e2b", tmp_path, quantize=True)

    assert failed(steps["tensors"]) == {"names", "tensors of the source"}
    assert "the whole of audio_tower is missing" in said(steps["tensors"]["names"])
    assert "the whole of vision_tower is missing" in said(steps["tensors"]["tensors of the source"])
    assert "language_model" not in said(steps["tensors"]["tensors of the source"])
    assert "$.vision_config" in said(steps["files"]["config of the source"])


@pytest.mark.parametrize("kind", ["e2b", "26b-a4b", "31b", "12b"])
def test_mlx_vlm_rewrites_the_processor_and_keeps_every_tensor(kind: str, tmp_path: Path) -> None:
    steps = verified(mlx_vlm.convert, kind, tmp_path, quantize=True)

    assert "files of the source" in failed(steps["files"])
    assert "processor_config.json" in said(steps["files"]["files of the source"])
    assert failed(steps["tensors"]) == set()


@pytest.mark.parametrize(
    "options",
    [
        {"q_bits": 8},
        {"q_bits": 2, "q_group_size": 32},
        *({"q_mode": mode, "q_bits": bits, "q_group_size": group} for mode, (bits, group) in FIXED_MODES.items()),
    ],
    ids=str,
)
def test_the_peers_rounding_is_rounding(options: dict[str, Any], tmp_path: Path) -> None:
    steps = verified(mlx_vlm.convert, "e2b", tmp_path, quantize=True, **options)

    assert failed(steps["tensors"]) == set()
    assert steps["tensors"]["tensors of the source"].figures["relative_error"]


def test_what_the_peers_leave_unpacked_is_equal(tmp_path: Path) -> None:
    steps = verified(mlx_vlm.convert, "e2b", tmp_path, dtype="float32")

    assert failed(steps["tensors"]) == set()
    assert steps["tensors"]["tensors of the source"].figures["relative_error"] == {}
