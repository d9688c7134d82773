"""`g4convert serve` as a user meets it: a process that says one line, answers, and ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from g4convert.loaders.checkpoint import CONFIG_FILE
from g4convert.loaders.consistency import GENERATION_CONFIG
from g4convert.tests.conftest import Convert
from g4convert.tests.loaders.serving.running import PATIENCE
from g4convert.tests.support import CHECKPOINTS, command, only_error_line, read_json

STOP = 1
MAIN = "from g4convert.convert.cli import main; main()"


@contextmanager
def started(*arguments: str | Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the line that it says when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "serve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    with process:
        try:
            assert process.stderr is not None
            yield process, process.stderr.readline()
        finally:
            process.kill()


def address(line: str) -> str:
    found = re.fullmatch(r"serving e2b at (http://127\.0\.0\.1:\d+/v1); takes text, image, audio and video\n", line)
    assert found is not None, line
    return found[1]


def test_it_answers_until_it_is_interrupted(converted: Convert) -> None:
    with started(converted("e2b"), "--port", "0", G4CONVERT_API_KEY="key") as (process, line):
        client = openai.OpenAI(base_url=address(line), api_key="key", max_retries=0)
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        create: Any = client.chat.completions.create
        said = create(model="e2b", messages=asked, temperature=0)
        for wrong in ({"max_tokens": 0}, {"messages": [{"role": "user", "content": "<|image|>"}]}):
            with pytest.raises(openai.BadRequestError):
                create(**{"model": "e2b", "messages": asked, **wrong})
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="other").models.list()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)

    assert said.choices[0].message.content == "Paris"
    assert (process.returncode, output, errors) == (0, "", "stopped\n")


def never_ending(model: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose only stop token is one that is never chosen."""
    shutil.copytree(model, folder)
    for name, changes in {CONFIG_FILE: {}, GENERATION_CONFIG: {"suppress_tokens": [STOP]}}.items():
        document = {**read_json(folder / name), "eos_token_id": STOP, **changes}
        (folder / name).write_text(json.dumps(document))
    return folder


def test_it_ends_in_the_middle_of_an_answer(converted: Convert, tmp_path: Path) -> None:
    with started(never_ending(converted("e2b"), tmp_path / "e2b"), "--port", "0") as (process, line):
        client = openai.OpenAI(base_url=address(line), api_key="key", max_retries=0)
        asked: Any = [{"role": "user", "content": "x"}]
        chunks = client.chat.completions.create(model="e2b", messages=asked, stream=True)
        next(iter(chunks))
        process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="the server is stopping"):
            list(chunks)
        _, errors = process.communicate(timeout=PATIENCE)

    assert (process.returncode, errors) == (0, "stopped\n")


def test_a_port_in_use_is_one_line(converted: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _ = command("serve", converted("e2b"), "--port", str(port))

    assert status == 2
    assert f"127.0.0.1:{port}: cannot listen there: Address already in use" in only_error_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing"),
        ([CHECKPOINTS / "e2b"], "this is a Hugging Face checkpoint; convert it first, with g4convert hf-to-mlx"),
        (["{e2b}", "--host", "256.1.1.1"], "256.1.1.1:8080: cannot listen there"),
        (["{e2b}", "--host", "192.0.2.1"], "192.0.2.1:8080: cannot listen there"),
        (["{e2b}", "--port", "65536"], "65536 is not in the range"),
        (["{e2b}", "--queue", "-1"], "--queue: -1 requests cannot wait"),
        (["{e2b}", "--max-tokens", "0"], "--max-tokens: an answer cannot have 0 tokens"),
        (["{e2b}", "--api-key", ""], "--api-key: is no text of printable ASCII characters"),
        (["{e2b}", "--api-key", "schlüssel"], "--api-key: is no text of printable ASCII characters"),
        (["{e2b}", "--allow-folder", "missing"], "--allow-folder missing: there is no such folder"),
        (["{e2b}", "--image-tokens", "71"], "a picture cannot take 71 tokens"),
        (["{e2b}", "--fps", "0"], "a clip cannot be read at 0.0 frames a second"),
    ],
)
def test_what_is_wrong_is_one_line_before_the_port_is_opened(
    arguments: list[str | Path], message: str, converted: Convert, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"{e2b}": converted("e2b")}
    status, _ = command("serve", *(known.get(str(argument), argument) for argument in arguments))

    assert status == 2
    assert message in only_error_line(capsys.readouterr().err)


def test_a_base_model_is_refused(
    converted: Convert, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g4convert.loaders.prompt.find_template", lambda *_: None)
    status, _ = command("serve", converted("e2b"))

    assert status == 2
    assert "e2b: the model has no chat template" in only_error_line(capsys.readouterr().err)


def test_without_the_extra_it_says_what_to_install(converted: Convert) -> None:
    code = f"import sys; sys.modules['starlette'] = None; sys.argv = ['g4convert', 'serve', {str(converted('e2b'))!r}]"
    found = subprocess.run([sys.executable, "-c", f"{code}; {MAIN}"], capture_output=True, text=True, check=False)

    assert found.returncode == 2
    assert only_error_line(found.stderr).endswith("not installed; pip install 'g4convert[serve]'")


def test_a_server_for_everybody_without_a_key_is_warned_about(converted: Convert) -> None:
    with started(converted("e2b"), "--host", "0.0.0.0", "--port", "0") as (process, line):
        assert process.stderr is not None
        ready = process.stderr.readline()

    assert line == "g4convert: warning: whoever reaches 0.0.0.0 can use the server; --api-key keeps others out\n"
    assert ready.startswith("serving e2b at http://0.0.0.0:")
