"""`g4convert verify` as a user meets it: steps, exit status, documents, reports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from g4convert.convert.cli import cli, main
from g4convert.convert.verification.checking import NEEDED
from g4convert.convert.verification.outcome import Check, Finding, Status, Step, Verification
from g4convert.convert.verification.run import verify
from g4convert.tests.support import CHECKPOINTS, edit_tensors, only_error_line, read_json

Convert = Callable[..., Path]

SOURCE = str(CHECKPOINTS / "text")
STEPS = ["files", "tensors", "numerics", "reference", "behaviour"]

FOUND = Verification(
    "model",
    None,
    (Step("files", (Check("config", Status.FAIL, (Finding("is wrong", "config.json"),)),)),),
    10**9,
    "1.0",
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)])


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def statuses(verification: Verification) -> dict[str, Status]:
    return {step.name: step.status for step in verification.steps}


@pytest.fixture
def copy(converted: Convert, tmp_path: Path) -> Path:
    """The smallest sample, to break."""
    return Path(shutil.copytree(converted("text"), tmp_path / "text-4bit"))


@pytest.fixture
def broken(copy: Path) -> Path:
    """One weight of one norm is another one."""

    def edit(tensors: Any) -> None:
        tensors["model.norm.weight"][3] = 40

    edit_tensors(copy, edit)
    return copy


def test_a_sound_conversion_passes(verified: Verification) -> None:
    assert statuses(verified) == {step: "skipped" if step == "reference" else "pass" for step in STEPS}
    assert verified.status is Status.PASS
    assert verified.findings == ()
    assert (verified.model, verified.source) == ("e2b", "e2b")
    assert all(step.seconds > 0 for step in verified.steps)
    assert 10**8 < verified.peak_memory < 2 * 10**9


def test_the_text_lists_steps_checks_and_figures_and_ends_with_the_verdict(converted: Convert) -> None:
    result = run(converted("text"), "--source", SOURCE)
    lines = result.stdout.splitlines()

    assert (result.exit_code, result.stderr) == (0, "")
    assert lines[0] == "text, made from text"
    assert [line.split()[1] for line in lines if line.startswith(("pass  ", "skip  ", "FAIL  "))] == STEPS
    assert "  pass  tensors of the source" in lines
    assert any(line.split() == ["skip", "reference", "not", "asked", "for"] for line in lines)
    assert any(line.split()[:2] == ["text", "96"] for line in lines)
    assert any(line.startswith("perplexity of a text: ") for line in lines)
    assert lines[-1].startswith("pass: no defect found in 2")
    assert result.stdout.isascii()


def test_without_a_source_less_is_checked(converted: Convert) -> None:
    result = run(converted("text"))

    assert result.exit_code == 0
    assert "no source was given" in result.stdout
    assert "Beside the source" not in result.stdout


def test_a_defect_is_status_1_and_says_where(broken: Path) -> None:
    result = run(broken, "--source", SOURCE)

    assert result.exit_code == 1
    assert "model.norm.weight: differs from what the source gives" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("FAIL: ")


def test_the_limit_of_the_divergence_can_be_set(converted: Convert) -> None:
    result = run(converted("text"), "--source", SOURCE, "--max-kl", "0.1")

    assert result.exit_code == 1
    assert "text: the mean divergence from the source is 0." in result.stdout
    assert "nats, allowed is 0.1" in result.stdout


def test_json_is_one_document_and_nothing_else(broken: Path) -> None:
    result = run(broken, "--json")
    document = json.loads(result.stdout, parse_constant=no_constant)

    assert (result.exit_code, result.stderr) == (1, "")
    assert document["verdict"] == "fail"
    assert [step["name"] for step in document["steps"]] == STEPS
    assert {"model", "source", "version", "peak_memory"} < document.keys()
    failed = [check for step in document["steps"] for check in step["checks"] if check["status"] == "fail"]
    assert all(check["findings"] and check["findings"][0]["what"] for check in failed)


def test_a_number_that_json_lacks_is_null(verified: Verification) -> None:
    check = Check("numbers", Status.PASS, figures={"nan": np.nan, "list": [1.0, np.inf, "nan"]})
    document = replace(verified, steps=(Step("one", (check,)),)).to_dict()

    assert json.loads(json.dumps(document, allow_nan=False), parse_constant=no_constant) == document
    assert document["steps"][0]["checks"][0]["figures"] == {"nan": None, "list": [1.0, None, "nan"]}


def test_quiet_leaves_the_exit_status(broken: Path) -> None:
    result = run(broken, "--quiet")

    assert (result.exit_code, result.output) == (1, "")


# -- reports -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is verified is wrong, and known at once."""
    monkeypatch.setattr("g4convert.convert.verification.run.verify", lambda *_, **__: FOUND)


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("name", ["report.json", "report.html", "REPORT.HTML"])
def test_a_report_is_written_though_the_verification_failed(name: str, tmp_path: Path) -> None:
    file = tmp_path / name

    result = run(tmp_path / "model", "--report", file)

    assert result.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "is wrong" in file.read_text()


@pytest.mark.usefixtures("found")
def test_the_report_for_programs_is_what_json_prints(tmp_path: Path) -> None:
    result = run("model", "--report", tmp_path / "report.json", "--json")

    assert read_json(tmp_path / "report.json") == json.loads(result.stdout) == FOUND.to_dict()


@pytest.mark.usefixtures("found")
def test_a_report_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "report.html"
    file.write_text("old")
    monkeypatch.setattr("os.fsync", stop)

    result = run("model", "--report", file)

    assert str(result.exception) == f"{file}: cannot be written: No space left on device; make room"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.html", "old")]


# -- wrong calls -------------------------------------------------------------------------------------------------------


def wrong(*arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The status and the one line of a call as the shell makes it."""
    monkeypatch.setattr("sys.argv", ["g4convert", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert out == ""
    assert isinstance(caught.value.code, int)
    return caught.value.code, only_error_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["."], "holds neither config.json nor weights"),
        ([CHECKPOINTS / "e2b"], "this is a Hugging Face checkpoint; verify what was converted from it"),
        (["MODEL", "--source", "nowhere"], "nowhere: there is no such folder"),
        (["MODEL", "--source", "MODEL"], "already quantized"),
        (["MODEL", "--source", SOURCE, "--revision", "main"], "--revision: a folder has no revisions"),
        (["MODEL", "--revision", "main"], "--revision: it is the source's; give --source too"),
        (["MODEL", "--reference", "transformers"], "--reference: it computes with the source; give --source too"),
        (["MODEL", "--source", SOURCE, "--reference", "jax"], "--reference: 'jax' is no reference"),
        (["MODEL", "--max-kl", "-1"], "--max-kl: -1.0 is no limit"),
        (["MODEL", "--max-kl", "nan"], "--max-kl: nan is no limit"),
        (["MODEL", "--max-kl", "much"], "--max-kl"),
        (["MODEL", "--report", "report.pdf"], "--report: 'report.pdf' is no report; end its name with .html or .json"),
        (["MODEL", "--report", "no/where/report.html"], "there is no folder 'no/where'"),
        (["MODEL", "--report", "MODEL/report.html"], "a checkpoint holds no reports"),
    ],
)
def test_a_wrong_call_is_status_2_and_one_line(
    arguments: list[object],
    message: str,
    converted: Convert,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(converted("text"))
    words = [str(argument).replace("MODEL", model) for argument in arguments]

    code, line = wrong(*words, monkeypatch=monkeypatch, capsys=capsys)

    assert code == 2
    assert message in line


def test_an_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("g4convert.convert.verification.run.verify", interrupt)

    assert wrong("model", monkeypatch=monkeypatch, capsys=capsys) == (130, "g4convert: interrupted")


@pytest.mark.usefixtures("found")
def test_a_defect_is_status_1_for_the_shell_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["g4convert", "verify", "model"])

    with pytest.raises(SystemExit) as caught:
        main()

    assert caught.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAIL: 1 defect found by 1 of 1 check"


# -- steps that need what failed before --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "damage"),
    [("config.json", b"{"), ("config.json", b"{}"), ("model.safetensors", b"no header"), ("tokenizer.json", b"{}")],
)
def test_what_cannot_be_read_is_a_finding_and_later_steps_are_skipped(name: str, damage: bytes, copy: Path) -> None:
    (copy / name).write_bytes(damage)

    verification = verify(copy)

    assert statuses(verification)["files"] is Status.FAIL
    assert any(finding.where == name for finding in verification.findings)
    for step in verification.steps[2:]:
        assert step.status is Status.SKIPPED
    assert (verification.steps[4].checks[0].reason or "").startswith(f"{NEEDED}: ")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_is_missing_is_a_finding(name: str, copy: Path) -> None:
    (copy / name).unlink()

    verification = verify(copy)

    assert verification.status is Status.FAIL
    assert statuses(verification)["behaviour"] is Status.SKIPPED


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_progress_names_steps_and_checks(converted: Convert) -> None:
    said: list[tuple[str, str]] = []

    verification = verify(converted("text"), progress=lambda step, what: said.append((step, what)))

    checks = [(step.name, check.name) for step in verification.steps for check in step.checks]
    assert [pair for pair in said if pair in checks] == checks
    assert ("numerics", "finite, text") in said


@pytest.mark.parametrize("before", ["", "import g4convert.convert.verification.outcome;"])
def test_the_function_is_found_whatever_was_imported_before(before: str, tmp_path: Path) -> None:
    code = (
        f"{before}from g4convert.convert import verify; import g4convert.convert as c; assert c.verify is verify\n"
        f"try: verify({str(tmp_path)!r})\nexcept Exception as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "holds neither config.json nor weights" in out
