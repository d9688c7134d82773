"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from g4convert.convert.cli import cli, size
from g4convert.tests.support import CHECKPOINTS, read_json

SAMPLE = str(CHECKPOINTS / "26b-a4b")
HEAVY = {
    "PIL", "huggingface_hub", "jinja2", "jsonschema", "mlx", "numba", "numpy", "starlette", "torch", "tqdm",
    "transformers", "uvicorn", "yaml",
}  # fmt: skip


def test_a_dry_run_says_what_would_be_written(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    result = CliRunner().invoke(cli, ["hf-to-mlx", SAMPLE, output, "--dry-run"])
    CliRunner().invoke(cli, ["hf-to-mlx", SAMPLE, output])

    assert result.exit_code == 0
    written = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert f"model.safetensors  {written:,} bytes" in result.stdout
    payload = read_json(tmp_path / "out" / "model.safetensors.index.json")["metadata"]["total_size"]
    assert f"{payload:,}" in result.stdout
    assert "bits per weight" in result.stdout
    assert "towers stay in the source's precision" in result.stdout


def test_a_row_that_no_group_divides_stays_and_says_why(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["hf-to-mlx", SAMPLE, "--dry-run", "--mode", "nvfp4", "--json"])
    assert json.loads(result.stdout)["unquantized"]["embed_vision.embedding_projection"].startswith("recipe auto")


def test_json_is_one_document_and_nothing_else(tmp_path: Path) -> None:
    dry = CliRunner().invoke(cli, ["hf-to-mlx", SAMPLE, "--dry-run", "--json"])
    wet = CliRunner().invoke(cli, ["hf-to-mlx", SAMPLE, str(tmp_path / "out"), "--json"])

    planned, written = json.loads(dry.stdout), json.loads(wet.stdout)
    assert {key: written[key] for key in planned} == planned
    assert written["output"] == str(tmp_path / "out")
    assert sum(out["bytes"] for out in planned["outputs"]) == planned["payload_bytes"]
    assert sum(part["bytes"] for part in planned["parts"].values()) == planned["payload_bytes"]
    assert planned["bits_per_weight"] == pytest.approx(8 * planned["payload_bytes"] / planned["parameters"])


def test_dropped_tensors_are_listed_with_reasons() -> None:
    result = CliRunner().invoke(cli, ["hf-to-mlx", str(CHECKPOINTS / "e2b"), "--dry-run"])

    assert "6 tensors: KV-shared tail" in result.stdout


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["hf-to-mlx", SAMPLE, str(tmp_path / "out"), "--quiet"])

    assert (result.exit_code, result.output) == (0, "")


def test_help_needs_no_heavy_import() -> None:
    code = f"""
import sys
from g4convert.convert.cli import cli

for name in [[], *([command] for command in cli.commands)]:
    cli.main([*name, "--help"], standalone_mode=False)
print(sorted({HEAVY!r} & sys.modules.keys()))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert out.splitlines()[-1] == "[]"
    assert all(option in out for option in ("--max-memory", "--image-tokens", "--max-kl", "--create-pr"))


def test_an_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from g4convert.convert import cli as module

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("g4convert.convert.pipeline.write", interrupt)
    monkeypatch.setattr("sys.argv", ["g4convert", "hf-to-mlx", SAMPLE, "out"])

    with pytest.raises(SystemExit) as caught:
        module.main()

    assert caught.value.code == 130
    assert capsys.readouterr().err == "g4convert: interrupted; the same command goes on where it stopped\n"


@pytest.mark.parametrize(
    ("text", "expected"), [("1GB", 10**9), ("400MB", 4 * 10**8), ("1.5GiB", 3 << 29), ("5 kb", 5000), ("123", 123)]
)
def test_sizes(text: str, expected: int) -> None:
    option = click.Option(["--max-memory"])

    assert size(click.Context(cli), option, text) == expected
