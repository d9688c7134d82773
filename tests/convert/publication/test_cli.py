"""`hf-to-mlx --upload`, and what nobody may ever read: the token."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from g4convert.convert.publication.run import publish
from g4convert.convert.source import PLOT
from g4convert.schemas.errors import G4ConvertError
from g4convert.tests.convert.publication.shop import NAME, SHARD, SOURCE, TOKEN, Shell, content, flip, held, shards
from g4convert.tests.hub.client import UPLOADS, environment
from g4convert.tests.hub.state import Account, Hub
from huggingface_hub.utils import logging as client_logging

pytestmark = UPLOADS


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a conversion goes."""
    return tmp_path / "out"


def convert(output: Path, name: str = NAME) -> tuple[object, ...]:
    """The command that does it all."""
    return ("hf-to-mlx", SOURCE, output, "--max-shard-size", SHARD, "--upload", name)


def test_converts_verifies_and_publishes(shell: Shell, hub: Hub, output: Path) -> None:
    outcome = shell(*convert(output))

    assert (outcome.code, outcome.err) == (0, "")
    assert f"{hub.url}/{NAME}" in outcome.out.splitlines()
    assert len(shards(output)) >= 4
    assert held(hub) == content(output)
    assert "verification.svg" in held(hub)
    assert "KL mean" in held(hub)["README.md"].decode()


def test_publishing_later_gives_the_same(shell: Shell, hub: Hub, output: Path, folder: Path) -> None:
    shell(*convert(output))
    at_once = content(output)

    shell.published(folder, "--source", SOURCE)

    assert content(folder) == at_once


def test_json_is_one_document(shell: Shell, hub: Hub, output: Path) -> None:
    document = shell(*convert(output), "--private", "--json").document

    assert document["output"] == str(output)
    assert document["published"]["url"] == f"{hub.url}/{NAME}"
    assert hub.repositories[NAME].private


@pytest.mark.parametrize(
    ("account", "name", "message"),
    [
        (Account("alice", "read"), NAME, "can only read"),
        (Account("alice"), "bob/model", "cannot write to bob"),
        (None, NAME, "does not accept the token"),
        (Account("alice"), "model", "OWNER/NAME"),
    ],
)
def test_who_may_not_is_told_before_the_conversion(
    shell: Shell, hub: Hub, output: Path, account: Account | None, name: str, message: str
) -> None:
    del hub.accounts[TOKEN]
    if account is not None:
        hub.accounts[TOKEN] = account

    outcome = shell(*convert(output, name))

    assert outcome.code == 2
    assert message in outcome.line
    assert list(output.parent.iterdir()) == []
    assert hub.repositories == {}


def test_what_fails_on_the_way_leaves_a_checkpoint_that_can_be_published(shell: Shell, hub: Hub, output: Path) -> None:
    hub.faults.refuse(500, "POST", "/commit/", always=True)

    outcome = shell(*convert(output))
    hub.faults.clear()

    assert outcome.code == 2
    assert "trouble of its own" in outcome.line
    assert f"g4convert publish {output} {NAME} --source {SOURCE}" in outcome.line
    shell.published(output, "--source", SOURCE)
    assert held(hub) == content(output)


def test_the_token_is_looked_at_before_the_source(shell: Shell, hub: Hub, output: Path) -> None:
    del hub.accounts[TOKEN]

    outcome = shell("hf-to-mlx", "nobody/nothing", output, "--upload", NAME)

    assert "does not accept the token" in outcome.line


def test_what_was_published_with_a_plot_can_be_overwritten(shell: Shell, hub: Hub, output: Path) -> None:
    shell(*convert(output))
    assert (output / PLOT).exists()

    outcome = shell("hf-to-mlx", SOURCE, output, "--overwrite")

    assert (outcome.code, (output / PLOT).exists()) == (0, False)


def test_private_is_about_an_upload(shell: Shell, hub: Hub, output: Path) -> None:
    outcome = shell("hf-to-mlx", SOURCE, output, "--private")

    assert (outcome.code, hub.requests) == (2, [])
    assert "--private" in outcome.line


def test_what_the_client_logs_of_its_tries_is_not_printed(hub: Hub, waits: list[float], folder: Path) -> None:
    """It would name signed addresses. Its handler knows the real standard error only, so in a process of its own."""
    variables = {**os.environ, **environment(folder.parent / "home", hub.url), "HF_TOKEN": TOKEN}
    hub.faults.drop("middle", "PUT", "/objects/")
    code = "from g4convert.convert.cli import main; main()"
    command = [sys.executable, "-c", code, "publish", str(folder), NAME, "--quiet"]

    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert held(hub) == content(folder)


# -- the token ---------------------------------------------------------------------------------------------------------


class Records(logging.Handler):
    """Everything that anybody logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is logged, were everything logged that could be."""
    records = Records()
    levels = {name: logging.getLogger(name).level for name in (None, "huggingface_hub", "httpx2")}
    for name in (None, "huggingface_hub", "httpx2"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [records])
        logger.setLevel(logging.DEBUG if name else logging.INFO)  # below it, answers are shown byte for byte
    monkeypatch.setattr(client_logging, "set_verbosity", lambda _: None)
    monkeypatch.setattr(client_logging, "set_verbosity_error", lambda: None)
    yield records.lines
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


FAULTS = [
    (None, ""),
    (401, "/whoami-v2"), (403, "/repos/create"), (500, "/preupload/"), (429, "/objects/batch"), (403, "/objects/"),
    (409, "/commit/"), (404, "/revision/"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "path"), FAULTS)
def test_the_token_is_nowhere(
    shell: Shell, hub: Hub, folder: Path, logged: list[str], status: int | None, path: str
) -> None:
    if status is not None:
        hub.faults.refuse(status, "GET|POST|PUT", path, always=True, message=f"Bearer {TOKEN} is bad")

    outcome = shell.publish(folder)

    assert outcome.code == (0 if status is None else 2)
    assert TOKEN not in outcome.out + outcome.err
    assert logged
    assert TOKEN not in "\n".join(logged)
    assert not any(TOKEN.encode() in data for data in content(folder).values())
    assert not any(TOKEN.encode() in data for data in hub.objects.values())
    seen = list(zip(hub.requests, hub.headers, strict=True))
    assert any(TOKEN in str(headers) for one, headers in seen if one.place == "hub")
    assert not any(TOKEN in str(headers) + one.query + one.path for one, headers in seen if one.place != "hub")
    assert not any(TOKEN in one.query + one.path for one in hub.requests)
    if status is None:
        assert not any(TOKEN.encode() in data for data in held(hub).values())


def test_an_error_of_the_function_holds_no_token(hub: Hub, waits: list[float], folder: Path) -> None:
    hub.faults.refuse(403, "POST", "/commit/", message=f"Bearer {TOKEN} and hf_{'y' * 34}")

    with pytest.raises(G4ConvertError) as caught:
        publish(folder, NAME, token=TOKEN)

    assert "(403: Bearer *** and ***)" in str(caught.value)
    assert TOKEN not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_a_token_that_is_given_is_the_one_that_counts(
    hub: Hub, waits: list[float], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")

    publish(folder, NAME, token=TOKEN)

    assert held(hub) == content(folder)


def test_a_token_in_the_place_of_a_name_is_not_repeated(shell: Shell, folder: Path) -> None:
    assert TOKEN not in shell.publish(folder, name=TOKEN).err


def test_a_defect_beside_a_token(shell: Shell, hub: Hub, folder: Path) -> None:
    flip(shards(folder)[0])

    assert TOKEN not in shell.publish(folder).err
