"""Whatever goes wrong on the way: one line, nothing lost, and the next run ends right and sends nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from g4convert.convert.publication.hub import Hub as Access
from g4convert.convert.publication.hub import explain
from g4convert.convert.verification.outcome import Status
from g4convert.convert.verification.run import verify
from g4convert.schemas.errors import HubError
from g4convert.tests.convert.publication.shop import (
    NAME,
    TOKEN,
    Outcome,
    Shell,
    changed,
    content,
    held,
    sha256,
    shards,
    titles,
)
from g4convert.tests.hub.client import NOWHERE, UPLOADS, isolate
from g4convert.tests.hub.faults import Fault, Refusal
from g4convert.tests.hub.state import Hub
from huggingface_hub import HfApi

pytestmark = UPLOADS

# Where something can go wrong: the method, and the path.
PLACES = {
    "who we are": ("GET", "/whoami-v2"),
    "whether it is there": ("GET", r"/api/models/[^/]+/[^/]+$"),
    "creation": ("POST", "/repos/create"),
    "metadata": ("POST", "/validate-yaml"),
    "what is large": ("POST", "/preupload/"),
    "where to send it": ("POST", "/objects/batch"),
    "a large file": ("PUT", "/objects/"),
    "whether it arrived": ("POST", "/objects/verify"),
    "commit": ("POST", "/commit/"),
    "listing": ("GET", "/revision/main"),
}
STATUSES = (400, 401, 403, 404, 409, 413, 429, 500, 503)
# Breaks after which everything has arrived all the same.
LATE = {("commit", "after")}
# What an answer means, and what to do.
SAYS = {
    400: ("refuses this", "run the same command again"),
    401: ("does not accept the token", "log in with `hf auth login`"),
    403: ("the token does not allow this", "use one with write permission"),
    404: ("knows no such repository", "check the name and the token"),
    409: ("conflict", "run the same command again"),
    413: ("larger than the Hub takes", "--max-shard-size"),
    429: ("too many requests", "wait a while"),
    500: ("trouble of its own", "run the same command again"),
    503: ("trouble of its own", "run the same command again"),
}


def expect(outcome: Outcome, *texts: str) -> None:
    """One line that says all this, and status 2."""
    assert outcome.code == 2
    assert all(text in outcome.line for text in texts), outcome.line
    assert "Traceback" not in outcome.err


def ends_right(shell: Shell, hub: Hub, folder: Path) -> None:
    """Without the fault, the same command ends right, and sends only the large files that had not arrived."""
    hub.faults.clear()
    arrived = list(hub.uploaded)
    shell.published(folder)
    assert held(hub) == content(folder)
    assert sorted(hub.uploaded[len(arrived) :]) == sorted(set(map(sha256, shards(folder))) - set(arrived))


@pytest.mark.parametrize("place", PLACES)
def test_a_refusal_is_one_line(shell: Shell, hub: Hub, folder: Path, place: str) -> None:
    method, path = PLACES[place]
    for status in STATUSES:
        if (place, status) == ("whether it is there", 404):
            continue  # so the Hub says of one that is not there
        hub.objects.clear()
        hub.uploaded.clear()
        hub.faults.refuse(status, method, path, always=True, message=f"Because of {status}.")
        expect(shell.publish(folder), *said(place, status))
        hub.faults.clear()

    assert verify(folder, steps=("files", "tensors")).status is Status.PASS
    ends_right(shell, hub, folder)


def said(place: str, status: int) -> tuple[str, ...]:
    """What an error's line holds."""
    if (place, status) == ("creation", 409):  # the client takes that for one that is there, and misses its address
        return ("the Hub's answer cannot be understood",)
    if place in ("a large file", "whether it arrived") and status in (401, 403, 404):
        return ("model-0000", "the storage of the Hub refuses it", str(status))
    return (*SAYS[status], str(status))


@pytest.mark.parametrize("moment", ["before", "middle", "after"])
@pytest.mark.parametrize("place", PLACES)
def test_a_broken_connection_is_one_line(shell: Shell, hub: Hub, folder: Path, place: str, moment: Any) -> None:
    hub.faults.drop(moment, *PLACES[place], always=True)

    expect(shell.publish(folder), "the connection to the Hub broke", "check the network")

    assert held(hub) == (content(folder) if (place, moment) in LATE else {}) if NAME in hub.repositories else True
    ends_right(shell, hub, folder)
    assert len(titles(hub.repositories[NAME])) == 2


def test_nobody_listens(shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path / "home", NOWHERE)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    before = content(folder)

    expect(shell.publish(folder), "the connection to the Hub broke", "Connection refused", "check the network")
    assert content(folder) == before


def test_a_passing_fault_is_waited_out_in_silence(shell: Shell, hub: Hub, folder: Path, waits: list[float]) -> None:
    hub.faults.refuse(429, "POST", "/preupload/", retry_after=7)
    hub.faults.refuse(503, "PUT", "/objects/")
    hub.faults.drop("middle", "PUT", "/objects/", nth=3)

    shell.published(folder)  # nothing on standard error

    # Files go up side by side: both faults may meet the same one, which then waits longer the second time.
    assert sorted(waits) in ([1, 1, 8], [1, 2, 8])
    assert held(hub) == content(folder)


def test_the_client_says_as_much_as_before_afterwards(shell: Shell, hub: Hub, folder: Path) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled, logging

    logging.set_verbosity_warning()
    before = logging.get_verbosity(), are_progress_bars_disabled()
    hub.faults.refuse(500, "POST", "/commit/")

    shell.publish(folder)

    assert (logging.get_verbosity(), are_progress_bars_disabled()) == before


# -- the k-th large file -----------------------------------------------------------------------------------------------


def test_whichever_large_file_fails_the_rest_arrives_and_is_not_sent_again(
    shell: Shell, hub: Hub, folder: Path
) -> None:
    files = shards(folder)
    assert len(files) >= 4
    for number, file in enumerate(files):
        name = f"alice/model-{number}"
        hub.objects.clear()
        hub.uploaded.clear()
        hub.faults.drop("middle", "PUT", sha256(file), always=True)

        expect(shell.publish(folder, name=name), file.name, "the connection to the Hub broke")

        assert held(hub, name) == {}
        arrived = set(hub.uploaded)
        assert sha256(file) not in arrived
        hub.faults.clear()
        bytes_before, count = hub.received, len(arrived)
        shell.published(folder, name=name)
        rest = [path for path in files if sha256(path) not in arrived]
        assert sorted(hub.uploaded[count:]) == sorted(map(sha256, rest))
        assert hub.received - bytes_before == sum(path.stat().st_size for path in rest)
        assert held(hub, name) == content(folder)


def test_large_files_come_in_parts(shell: Shell, hub: Hub, folder: Path) -> None:
    hub.part_size = 50_000
    largest = max(shards(folder), key=lambda path: path.stat().st_size)
    hub.faults.refuse(500, "PUT", f"{sha256(largest)}/2", always=True)

    expect(shell.publish(folder), largest.name, "trouble of its own")
    ends_right(shell, hub, folder)


# -- the other storage -------------------------------------------------------------------------------------------------


@pytest.fixture
def xet(shell: Shell, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """The client sends large files as it does of itself."""
    hub.xet = tmp_path / "xet"
    hub.xet.mkdir()
    isolate(monkeypatch, tmp_path / "home", hub.url, xet=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return shell


@pytest.mark.parametrize("status", [401, 403, 500])
def test_xet_refuses(xet: Shell, hub: Hub, folder: Path, status: int) -> None:
    hub.faults.refuse(status, "GET", "/xet-write-token/", always=True)

    expect(xet.publish(folder), *SAYS[status], str(status))
    assert held(hub) == {}
    hub.faults.clear()
    xet.published(folder)
    assert held(hub) == content(folder)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_by_xet_is_not_made_twice(xet: Shell, hub: Hub, folder: Path, moment: Any) -> None:
    """The client tries a commit again whose answer was lost; it must not come upon itself."""
    hub.faults.drop(moment, "POST", "/commit/")

    outcome = xet.publish(folder)

    assert outcome.code == (0 if moment == "before" else 2)
    xet.published(folder)
    assert held(hub) == content(folder)
    assert len(titles(hub.repositories[NAME])) == 2


def test_a_proposal_by_xet_that_broke_off_goes_on(xet: Shell, hub: Hub, folder: Path) -> None:
    hub.create(NAME)
    hub.faults.refuse(400, "POST", "/commit/", always=True)

    expect(xet.publish(folder, "--create-pr"), "400", "go on with --revision refs/pr/N instead of --create-pr")
    hub.faults.clear()
    xet.published(folder, "--revision", "refs/pr/1")

    assert held(hub, branch="refs/pr/1") == content(folder)
    assert len(hub.repositories[NAME].pulls) == 1


# -- what has arrived --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model-00002-of-", "tokenizer.json", "README.md", "conversion.json", "config.json$"])
def test_a_file_that_arrived_with_other_bytes(shell: Shell, hub: Hub, folder: Path, file: str) -> None:
    hub.faults.corrupt(file)

    outcome = shell.publish(folder)

    name = next(path.name for path in sorted(folder.iterdir()) if path.name.startswith(file.rstrip("$")))
    expect(outcome, f"{name} has other bytes there than here", "run the same command again")


@pytest.mark.parametrize("file", ["model-00001-of-", "chat_template.jinja", "model.safetensors.index.json"])
def test_a_file_that_never_arrived(shell: Shell, hub: Hub, folder: Path, file: str) -> None:
    hub.faults.lose(file)

    expect(shell.publish(folder), f"{file}", "is missing")
    ends_right(shell, hub, folder)


def test_several_files_that_never_arrived_are_counted(shell: Shell, hub: Hub, folder: Path) -> None:
    hub.faults.lose("safetensors$")

    expect(shell.publish(folder), f"{shards(folder)[0].name} is missing (and {len(shards(folder)) - 1} more)")


def test_corruption_of_a_large_file_is_healed_by_the_next_run(shell: Shell, hub: Hub, folder: Path) -> None:
    hub.faults.corrupt("model-00002-of-")
    shell.publish(folder)
    hub.faults.clear()

    shell.published(folder)

    assert held(hub) == content(folder)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the last listing says of a file is what a test says."""
    claims: dict[str, Any] = {}
    info = HfApi.model_info

    def model_info(self: HfApi, *arguments: Any, **options: Any) -> Any:
        found = info(self, *arguments, **options)
        for sibling in found.siblings or ():
            for key, value in claims.get(sibling.rfilename, {}).items():
                setattr(sibling, key, value)
        return found

    monkeypatch.setattr(HfApi, "model_info", model_info)
    return claims


def test_a_truncated_file(shell: Shell, folder: Path, listed: dict[str, Any]) -> None:
    file = shards(folder)[1]
    listed[file.name] = {"size": 5}

    expect(shell.publish(folder), f"{file.name} has 5 bytes there and {file.stat().st_size} here")


def test_a_size_that_the_hub_does_not_tell_is_no_fault(shell: Shell, folder: Path, listed: dict[str, Any]) -> None:
    listed.update({path.name: {"size": None} for path in folder.iterdir()})

    shell.published(folder)


def test_without_a_digest_nothing_is_believed(shell: Shell, folder: Path, listed: dict[str, Any]) -> None:
    listed["config.json"] = {"size": None, "blob_id": None}

    expect(shell.publish(folder), "config.json has other bytes")


# -- the Hub itself ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"<html>Log in to the network</html>", b"[]", b"{}", b"null", b'{"name": 3}', b""])
def test_an_answer_that_is_none(shell: Shell, folder: Path, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def whoami(self: HfApi, *_: Any, **__: Any) -> Any:
        return json.loads(body)

    monkeypatch.setattr(HfApi, "whoami", whoami)

    expect(shell.publish(folder))


def test_a_card_that_the_hub_does_not_like(shell: Shell, hub: Hub, folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mine\n", 1))

    expect(shell.publish(folder), '"license" must be one of', "400")
    assert hub.uploaded == []


def test_a_repository_that_was_renamed(shell: Shell, hub: Hub, folder: Path) -> None:
    """The Hub sends readers on; a new repository of the old name would cut them off."""
    hub.create("alice/new")
    for path in ("", "/revision/main", "/auth-check/write"):
        there = Refusal(307, "Moved", None, {"Location": f"{hub.url}/api/models/alice/new{path}"})
        hub.faults.requests.append(Fault(there, "GET", f"/api/models/{NAME}{path}$", always=True))

    expect(shell.publish(folder), "the Hub calls it alice/new now", "use that name")
    assert changed(hub) == []


def test_a_shard_that_vanishes_is_not_the_networks_fault() -> None:
    what, _ = explain(FileNotFoundError(2, "No such file or directory", "/home/me/model-00001.safetensors"))

    assert what == "model-00001.safetensors cannot be read: No such file or directory"


@pytest.mark.parametrize("error", [RuntimeError("odd\nmore"), ValueError(""), KeyError("url"), httpx2.ReadTimeout("")])
def test_every_error_of_the_client_is_a_line(error: Exception) -> None:
    access = Access(HfApi(token=TOKEN), TOKEN)

    with pytest.raises(HubError) as caught, access.errors("here"):
        raise error

    assert str(caught.value).startswith("here: ")
    assert "\n" not in str(caught.value)


def test_an_answer_deep_inside_counts() -> None:
    cause = OSError("no")
    cause.response = SimpleNamespace(status_code=429)  # type: ignore[attr-defined]
    error = RuntimeError("Error while uploading 'a.safetensors' to the Hub.")
    error.__cause__ = ValueError("wrapped")
    error.__cause__.__cause__ = cause

    assert explain(error)[0] == "a.safetensors: the Hub has had too many requests (429)"
