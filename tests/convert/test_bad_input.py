"""Bad calls: exit status 2, one line that says what and where, no traceback, nothing at the output path.

Bad sources are in tests/hostile.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from g4convert.tests.hostile.breaks import two_shards
from g4convert.tests.support import WEIGHTS, command, copy_of, edit_json, only_error_line


def test_the_undamaged_source_converts(tmp_path: Path) -> None:
    assert command("hf-to-mlx", copy_of("e2b", tmp_path / "source"), tmp_path / "out")[0] == 0


def test_metadata_without_a_method_is_no_quantization(tmp_path: Path) -> None:
    source = copy_of("e2b", tmp_path / "source")
    edit_json(source / "config.json", lambda c: c.update(quantization_config={"modules_to_not_convert": ["lm_head"]}))

    assert command("hf-to-mlx", source, tmp_path / "out")[0] == 0
    assert command("hf-to-mlx", source, tmp_path / "plain", "--no-quantize")[0] == 0
    plain = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization_config" not in plain


def test_sharded_sources_and_code_beside_the_weights(tmp_path: Path) -> None:
    source = copy_of("e2b", tmp_path / "source")
    two_shards(source)
    (source / "modeling.py").write_text("import os")
    (source / ".git").mkdir()

    assert command("hf-to-mlx", source, tmp_path / "out")[0] == 0
    assert command("hf-to-mlx", copy_of("e2b", tmp_path / "single"), tmp_path / "expected")[0] == 0
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "expected" / WEIGHTS).read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in (tmp_path / "expected").iterdir()
    )


CALLS: dict[str, tuple[list[str], str]] = {
    "no such folder": (["nowhere/at/all", "out"], "nowhere/at/all: there is no such folder"),
    "a relative path that is none": (["./nowhere", "out"], "./nowhere: there is no such folder"),
    "a file": (["SOURCE/config.json", "out"], "the source is a file"),
    "the output exists": (["SOURCE", "there"], "the output exists; choose another folder, or say --overwrite"),
    "the output is the source": (["SOURCE", "SOURCE"], "overlap"),
    "the output is in the source": (["SOURCE", "SOURCE/out"], "overlap"),
    "no output": (["SOURCE"], "OUTPUT: the folder to write is missing"),
    "seven bits": (["SOURCE", "out", "--bits", "7"], "--bits: 7 bits do not exist"),
    "bits that are no number": (["SOURCE", "out", "--bits", "four"], "'four' is not a valid int"),
    "group of the mode": (["SOURCE", "out", "--mode", "mxfp4", "--group-size", "64"], "--group-size: mxfp4 has 32 only"),
    "unknown mode": (["SOURCE", "out", "--mode", "q4_k"], "--mode: 'q4_k' is not a mode"),
    "unknown recipe": (["SOURCE", "out", "--recipe", "best"], "--recipe: there is no recipe 'best'"),
    "unknown dtype": (["SOURCE", "out", "--dtype", "int8"], "--dtype: 'int8' is not a dtype"),
    "unknown modality": (["SOURCE", "out", "--modalities", "smell"], "--modalities: 'smell' is not a modality"),
    "rounding for nothing": (["SOURCE", "out", "--no-quantize", "--rounding", "min-max"], "--no-quantize: it leaves nothing to --bits"),
    "no such rounding": (["SOURCE", "out", "--rounding", "up"], "--rounding: 'up' is not a rule; choose of search, min-max"),
    "bits for nothing": (["SOURCE", "out", "--no-quantize", "--bits", "4"], "--no-quantize: it leaves nothing to --bits"),
    "too little memory": (["SOURCE", "out", "--max-memory", "50MB"], "--max-memory: 50,000,000 bytes are too few"),
    "memory that is no size": (["SOURCE", "out", "--max-memory", "lots"], "--max-memory: 'lots' is not a size"),
    "no workers": (["SOURCE", "out", "--workers", "0"], "--workers: at least one"),
    "revision of a folder": (["SOURCE", "out", "--revision", "main"], "--revision: a folder has no revisions"),
    "typo": (["SOURCE", "out", "--bit", "4"], "No such option '--bit'"),
    "shards of nothing": (["SOURCE", "out", "--max-shard-size", "0"], "--max-shard-size: a shard holds"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_bad_call(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = CALLS[case]
    source = copy_of("e2b", tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.rglob("*"))

    status, _ = command("hf-to-mlx", *(argument.replace("SOURCE", str(source)) for argument in arguments))

    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert message in only_error_line(captured.err)
    assert sorted(tmp_path.rglob("*")) == before
