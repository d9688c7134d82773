"""The command `inspect` as a user meets it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert.manifest import package_version
from g4convert.tests.support import (
    CHECKPOINTS,
    command,
    copy_of,
    edit_json,
    edit_tensors,
    only_error_line,
    write_tensors,
)

Convert = Callable[..., Path]

SAID = Path(__file__).with_name("said.txt")


def inspected(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    status, _ = command("inspect", *arguments)
    assert status == 0
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inspected(capsys, *arguments, "--json"))
    return found


def test_what_it_says(converted: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--budget", "100MB", "--context", "2048", "--frames", "2", "--images", "1", "--audio", "4")

    assert inspected(capsys, converted("e2b"), *options).replace(package_version(), "VERSION") == SAID.read_text()


@pytest.mark.parametrize("kind", ["e2b", "e4b", "12b", "26b-a4b", "31b", "text", "e2b-qat"])
def test_lines_fit_a_terminal(kind: str, converted: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (CHECKPOINTS / kind, converted(kind)):
        assert all(len(line) <= 100 for line in inspected(capsys, path, "--budget", "1GB").splitlines())


@pytest.mark.parametrize(("budget", "status"), [("1GB", 0), ("1MB", 1)])
def test_the_status_says_whether_it_fits(budget: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", CHECKPOINTS / "text", "--budget", budget)[0] == status
    out = capsys.readouterr().out

    assert ("does not fit 1 MB" in out) == bool(status)


def test_the_document(converted: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, converted("26b-a4b", bits=8), "--budget", "1GB")

    assert (found["kind"], found["family"], found["modalities"]) == ("converted", "gemma4", ["text", "image", "video"])
    assert sum(part["bytes"] for part in found["parts"]) == found["bytes"]
    assert found["active_parameters"] < found["parameters"]
    assert found["attention"] == {
        "context": 4096, "window": 32, "full": 1, "sliding": 5, "shared": 0, "token": 512, "windows": 81_920,
    }  # fmt: skip
    assert found["budget"]["fits"] is True
    assert found["budget"]["peak"] == max(stage["total"] for stage in found["budget"]["stages"])


def test_without_a_budget_nothing_is_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, CHECKPOINTS / "12b")

    assert found["budget"] is None
    assert found["media"] == {
        "picture": 70, "budgets": [70, 140, 280, 560, 1120], "frame": 70, "frames": 3, "second": 25.0, "seconds": 30.0,
    }  # fmt: skip


def test_every_sample_is_a_source_and_its_conversion_is_none(
    converted: Convert, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ({}, {"quantize": False}):
        assert document(capsys, converted("31b", **options))["kind"] == "converted"
    assert document(capsys, CHECKPOINTS / "31b")["kind"] == "source"


def test_a_conversion_without_its_manifest(
    converted: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, options in enumerate(({}, {"quantize": False})):
        folder = Path(shutil.copytree(converted("e2b", **options), tmp_path / str(number)))
        (folder / "conversion.json").unlink()
        found = document(capsys, folder)

        assert found["origin"] == "a converted MLX checkpoint that does not say what made it"


def test_what_is_declared_and_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of("e2b", tmp_path / "e2b")
    edit_tensors(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "audio" in name])
    found = document(capsys, folder)

    assert found["modalities"] == ["text", "image", "video"]
    assert any("tensors of audio that are not there" in note for note in found["notes"])


def test_what_is_there_and_not_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of("e2b", tmp_path / "e2b")
    edit_json(folder / "config.json", lambda config: config.update(vision_config=None))
    found = document(capsys, folder)

    assert found["modalities"] == ["text", "audio"]
    assert any("tensors of vision are there, and the config does not declare it" in note for note in found["notes"])
    assert "not used" in [part["name"] for part in found["parts"]]


def test_without_a_processor_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, second in (("e2b", 25), ("12b", 25)):
        folder = copy_of(kind, tmp_path / kind)
        (folder / "processor_config.json").unlink()
        found = document(capsys, folder)

        assert (found["media"]["picture"], found["media"]["second"]) == (280, second)
        assert any("processor_config.json is missing" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (shutil.rmtree, "there is no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100), "the header is said to be"),
        (lambda folder: edit_json(folder / "config.json", lambda c: c.update(model_type="llama")), "llama"),
        (lambda folder: edit_json(folder / "config.json", lambda c: c.update(hidden_size="many")), "hidden_size"),
        (lambda folder: write_tensors(folder, {}), None),
    ],
)
def test_what_is_wrong_is_one_line(
    break_it: Callable[[Path], object], said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of("text", tmp_path / "text")
    break_it(folder)
    status, _ = command("inspect", folder)
    captured = capsys.readouterr()

    if said is None:
        assert status == 0
        assert "that are not there" in captured.out
    else:
        assert status == 2
        assert said in only_error_line(captured.err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "much"), "--budget: 'much' is not a size"),
        (("--budget", "1GB", "--context", "0"), "--context: 0 is out of range"),
        (("--revision", "main"), "--revision: a folder has no revisions"),
        (("--image-tokens", "7"), "7 tokens"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = command("inspect", CHECKPOINTS / "text", *arguments)

    assert status == 2
    assert said in only_error_line(capsys.readouterr().err)


def test_names_of_strangers_do_nothing_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of("text", tmp_path / "a\x1b[31mb")

    assert "\x1b" not in inspected(capsys, folder)
