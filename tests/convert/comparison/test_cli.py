"""`g4convert diff` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from g4convert.convert.cli import cli, main
from g4convert.tests.convert.verification.mutations import added
from g4convert.tests.convert.verification.workshop import Piece
from g4convert.tests.support import CHECKPOINTS, only_error_line

TEXT = str(CHECKPOINTS / "text")


@pytest.fixture
def other(tmp_path: Path) -> str:
    """A copy with a licence."""
    piece = Piece(CHECKPOINTS / "text", tmp_path / "other")
    added("LICENSE", b"Apache")(piece)
    return str(piece.folder)


def test_equal_is_status_0() -> None:
    result = CliRunner().invoke(cli, ["diff", TEXT, TEXT])

    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["no difference between text and text: 98 weights and 4 files are the same"]


def test_any_difference_is_status_1(other: str) -> None:
    result = CliRunner().invoke(cli, ["diff", TEXT, other])

    assert result.exit_code == 1
    assert result.stdout.endswith("1 difference: 1 in files that no runtime reads\n")
    assert result.stderr == ""


def test_json_is_one_document_and_nothing_else(other: str) -> None:
    result = CliRunner().invoke(cli, ["diff", TEXT, other, "--json"])

    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (document["a"]["name"], document["b"]["name"]) == ("text", "other")
    assert [one["part"] for one in document["differences"]] == ["LICENSE"]


def test_quiet_says_it_by_the_status(other: str) -> None:
    result = CliRunner().invoke(cli, ["diff", TEXT, other, "--quiet"])

    assert (result.exit_code, result.output) == (1, "")


def test_an_error_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["g4convert", "diff", TEXT, str(tmp_path / "nowhere")])

    with pytest.raises(SystemExit) as left:
        main()

    assert left.value.code == 2
    assert "there is no such folder; check the path" in only_error_line(capsys.readouterr().err)
