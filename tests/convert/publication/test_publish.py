"""A conversion goes to the Hub: all of it, once, and what arrived is read back."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert.publication.run import publish
from g4convert.schemas.errors import HubError
from g4convert.tests.convert.publication.shop import (
    NAME,
    TOKEN,
    Shell,
    changed,
    content,
    held,
    names,
    sha256,
    shards,
    titles,
)
from g4convert.tests.hub.client import UPLOADS, isolate
from g4convert.tests.hub.state import MAIN, Account, Hub
from huggingface_hub import HfApi

pytestmark = UPLOADS


def test_the_hub_holds_the_folder_and_nothing_else(shell: Shell, hub: Hub, folder: Path) -> None:
    outcome = shell.published(folder)

    assert len(shards(folder)) >= 4
    assert held(hub) == content(folder)
    assert sorted(hub.uploaded) == sorted(map(sha256, shards(folder)))
    assert hub.received == sum(path.stat().st_size for path in shards(folder))
    assert titles(hub.repositories[NAME])[1:] == ["initial commit"]
    assert outcome.out.splitlines()[0] == f"{hub.url}/{NAME}"
    assert not hub.repositories[NAME].private


def test_the_card_on_the_hub_is_the_one_in_the_folder_and_says_where_it_is(
    shell: Shell, hub: Hub, folder: Path
) -> None:
    before = (folder / "README.md").read_text()
    shell.published(folder)

    card = held(hub)["README.md"].decode()
    assert card == (folder / "README.md").read_text() != before
    assert f"hf download {NAME} --local-dir gemma-4bit" in card
    assert "no defect found in" in card
    assert "Not verified yet" not in card


def test_what_else_lies_in_the_folder_stays_here(shell: Shell, hub: Hub, folder: Path) -> None:
    before = set(names(folder))
    (folder / "notes").mkdir()
    (folder / "notes" / "config.json").write_text("{}")
    (folder / ".env").write_text("secret")
    (folder / "report.html").write_text("secret")

    shell.published(folder)

    assert held(hub).keys() == before


@pytest.mark.parametrize("name", ["a*.json", "b[1].txt", "c?.md", "[!c].json", "über uns.txt"])
def test_a_name_that_looks_like_a_pattern_is_a_name(
    shell: Shell, hub: Hub, name: str, tmp_path: Path, converted: Callable[..., Path]
) -> None:
    from g4convert.convert import hf_to_mlx
    from g4convert.tests.support import copy_of

    source = copy_of("text", tmp_path / "source")
    (source / name).write_text("{}")
    hf_to_mlx(source, tmp_path / "out")
    (tmp_path / "out" / "abc.html").write_text("not ours")

    shell.published(tmp_path / "out")

    assert held(hub)[name] == b"{}"
    assert held(hub) == {path: data for path, data in content(tmp_path / "out").items() if path != "abc.html"}


def test_a_second_run_sends_nothing(shell: Shell, hub: Hub, folder: Path) -> None:
    shell.published(folder)
    first, count = content(folder), len(hub.requests)

    shell.published(folder)

    assert len(titles(hub.repositories[NAME])) == 2
    assert [one.path for one in hub.requests[count:] if one.place == "storage" or "/commit/" in one.path] == []
    assert content(folder) == first


def test_only_what_changed_is_sent(shell: Shell, hub: Hub, folder: Path) -> None:
    shell.published(folder)
    hub.uploaded.clear()
    with (folder / "README.md").open("a") as card:
        card.write("More.\n")

    shell.published(folder)

    assert hub.uploaded == []
    assert held(hub) == content(folder)
    assert held(hub)["README.md"].endswith(b"More.\n")


def test_the_folder_is_written_to_only_where_the_card_changes(shell: Shell, folder: Path) -> None:
    shell.published(folder)
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}

    shell.published(folder)

    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before


def test_xet(shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.xet = tmp_path / "xet"
    hub.xet.mkdir()
    isolate(monkeypatch, tmp_path / "home", hub.url, xet=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    shell.published(folder)
    commits = titles(hub.repositories[NAME])
    shell.published(folder)

    assert held(hub) == content(folder)
    assert hub.seen("PUT") == []
    assert titles(hub.repositories[NAME]) == commits

    shell.published(folder, "--create-pr")
    assert hub.repositories[NAME].pulls == []  # there is nothing to propose
    with (folder / "README.md").open("a") as card:
        card.write("More.\n")
    outcome = shell.published(folder, "--create-pr")
    assert outcome.out.splitlines()[0] == f"{hub.url}/{NAME}/discussions/1"
    assert held(hub, branch="refs/pr/1") == content(folder)


def test_hidden_from_others(shell: Shell, hub: Hub, folder: Path) -> None:
    shell.published(folder, "--private")

    assert hub.repositories[NAME].private


def test_an_organisation_may_hide_what_is_new(shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    create = HfApi.create_repo

    def note(self: HfApi, *arguments: Any, **options: Any) -> Any:
        asked.append(options["private"])
        return create(self, *arguments, **options)

    monkeypatch.setattr(HfApi, "create_repo", note)
    shell.published(folder, name="lab/gemma")

    assert asked == [None]


def test_a_slash_too_much_in_the_endpoint(hub: Hub, shell: Shell, folder: Path) -> None:
    """The client strips it when it is imported, so this takes a process of its own."""
    import os
    import subprocess

    from g4convert.tests.hub.client import environment

    home = folder.parent / "home"
    variables = {**os.environ, **environment(home, hub.url + "/"), "HF_TOKEN": TOKEN}
    code = "from g4convert.convert.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "publish", folder, NAME],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"{hub.url}/{NAME}"
    assert held(hub) == content(folder)


def test_json_is_one_document(shell: Shell, hub: Hub, folder: Path) -> None:
    document = shell.published(folder, "--json").document

    assert document["url"] == f"{hub.url}/{NAME}"
    assert document["files"] == {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    assert document["card"] == (folder / "README.md").read_text()
    assert document["verification"]["verdict"] == "pass"


def test_quiet_prints_nothing(shell: Shell, folder: Path) -> None:
    outcome = shell.published(folder, "--quiet")

    assert outcome.out == ""


def test_the_python_function_does_the_same(waits: list[float], hub: Hub, folder: Path) -> None:
    found = publish(folder, NAME)

    assert found.url == f"{hub.url}/{NAME}"
    assert held(hub) == content(folder)


# -- a dry run ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_asks_nothing_and_writes_nothing(shell: Shell, hub: Hub, folder: Path) -> None:
    before = content(folder)

    outcome = shell.published(folder, "--dry-run")

    assert hub.requests == []
    assert content(folder) == before
    listed = dict(re.findall(r"^(\S+)\s+([\d,]+) bytes$", outcome.out, re.MULTILINE))
    total = listed.pop("together")
    assert listed.keys() == before.keys()
    assert sum(int(size.replace(",", "")) for size in listed.values()) == int(total.replace(",", ""))

    shell.published(folder)
    card = (folder / "README.md").read_text()
    assert card in outcome.out
    assert listed == {path.name: f"{path.stat().st_size:,}" for path in folder.iterdir()}


def test_a_dry_run_needs_no_token(shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")

    document = shell.published(folder, "--dry-run", "--json").document

    assert document["url"] is None
    assert document["files"].keys() == set(names(folder))


# -- branches and pull requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("branch", ["8bit", "exp/8-bit", "ünï", "a#b%2F"])
def test_a_branch(shell: Shell, hub: Hub, folder: Path, branch: str, there: bool) -> None:
    repository = hub.create(NAME)
    if there:
        repository.branches[branch] = repository.branches[MAIN]

    outcome = shell.published(folder, "--revision", branch)

    assert held(hub) == {}
    assert held(hub, branch=branch) == content(folder)
    address = outcome.out.splitlines()[0]
    assert address.startswith(f"{hub.url}/{NAME}/tree/")
    assert not set("/#ü") & set(address.partition("/tree/")[2])


def test_a_branch_of_a_new_repository(shell: Shell, hub: Hub, folder: Path) -> None:
    shell.published(folder, "--revision", "8bit")

    assert held(hub) == {}
    assert held(hub, branch="8bit") == content(folder)


@pytest.mark.parametrize("branch", ["a b", "a..b", "-x", "/x", "x/", "a:b", "x.lock", "refs/heads/x", "refs/pr/0", ""])
def test_what_cannot_be_a_branch(shell: Shell, hub: Hub, folder: Path, branch: str) -> None:
    outcome = shell.publish(folder, "--revision", branch)

    assert (outcome.code, hub.requests) == (2, [])
    assert "cannot be a branch" in outcome.line


def test_a_tag_is_no_branch(shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.hf_api import GitRefInfo, GitRefs

    hub.create(NAME)
    tag = GitRefInfo(name="v1", ref="refs/tags/v1", target_commit="0")
    refs = GitRefs(branches=[], converts=[], tags=[tag], pull_requests=None)
    monkeypatch.setattr(HfApi, "list_repo_refs", lambda *_, **__: refs)

    outcome = shell.publish(folder, "--revision", "v1")

    assert outcome.code == 2
    assert "v1 is a tag" in outcome.line


@pytest.mark.parametrize("stranger", [False, True])
def test_a_pull_request(shell: Shell, hub: Hub, folder: Path, stranger: bool) -> None:
    hub.create(NAME)
    hub.put(NAME, {"README.md": b"# Mine\n", "tokenizer.model": b"old"})
    if stranger:
        hub.accounts[TOKEN] = Account("carol")
    before = held(hub)

    outcome = shell.published(folder, "--create-pr")

    assert outcome.out.splitlines()[0] == f"{hub.url}/{NAME}/discussions/1"
    assert len(hub.repositories[NAME].pulls) == 1
    assert held(hub) == before
    assert held(hub, branch="refs/pr/1") == content(folder)
    assert hub.requests[-1].path.endswith("/revision/refs%2Fpr%2F1")


def test_what_a_pull_request_holds_is_read_back(shell: Shell, hub: Hub, folder: Path) -> None:
    hub.create(NAME)
    hub.faults.lose("model-00002-of-")

    outcome = shell.publish(folder, "--create-pr")

    assert outcome.code == 2
    assert f"{shards(folder)[1].name} is missing" in outcome.line
    assert "--revision refs/pr/1" in outcome.line


def test_a_pull_request_goes_on(shell: Shell, hub: Hub, folder: Path, eight: Path) -> None:
    """On a branch that holds what main holds, another conversion at that."""
    shell.published(eight)
    hub.faults.lose("model-00002-of-")
    shell.publish(folder, "--create-pr")
    hub.faults.clear()
    hub.uploaded.clear()

    outcome = shell.published(folder, "--revision", "refs/pr/1")

    assert outcome.out.splitlines()[0] == f"{hub.url}/{NAME}/tree/refs%2Fpr%2F1"
    assert held(hub, branch="refs/pr/1") == content(folder)
    assert held(hub) == content(eight)
    assert len(hub.repositories[NAME].pulls) == 1
    assert hub.uploaded == []


def test_a_pull_request_that_holds_nothing_yet_goes_on(shell: Shell, hub: Hub, folder: Path, eight: Path) -> None:
    """It starts from the other conversion, which is the owner's to replace."""
    shell.published(eight)
    hub.repositories[NAME].open_pull("Ours", "", "alice")

    shell.published(folder, "--revision", "refs/pr/1")

    assert held(hub, branch="refs/pr/1") == content(folder)
    assert held(hub) == content(eight)


@pytest.mark.parametrize("status", [403, 500])
def test_a_proposal_that_fails_says_how_to_go_on(shell: Shell, hub: Hub, folder: Path, status: int) -> None:
    hub.create(NAME)
    hub.faults.refuse(status, "POST", "/commit/", always=True)

    outcome = shell.publish(folder, "--create-pr")

    assert outcome.code == 2
    assert "go on with --revision refs/pr/N instead of --create-pr" in outcome.line
    assert held(hub) == {}


def test_a_pull_request_that_is_not_there(shell: Shell, hub: Hub, folder: Path) -> None:
    hub.create(NAME)

    outcome = shell.publish(folder, "--revision", "refs/pr/7")

    assert (outcome.code, changed(hub)) == (2, [])
    assert "no pull request refs/pr/7" in outcome.line


def test_nothing_can_be_proposed_to_nothing(shell: Shell, hub: Hub, folder: Path) -> None:
    outcome = shell.publish(folder, "--create-pr")

    assert (outcome.code, changed(hub)) == (2, [])
    assert "there is no such repository to propose a change to" in outcome.line


def test_a_pull_request_has_a_branch_of_its_own(shell: Shell, hub: Hub, folder: Path) -> None:
    outcome = shell.publish(folder, "--create-pr", "--revision", "x")

    assert (outcome.code, hub.requests) == (2, [])
    assert "--revision: a pull request has a branch of its own" in outcome.line


# -- what is there already ---------------------------------------------------------------------------------------------


def test_another_conversion_is_not_replaced_unasked(
    shell: Shell, hub: Hub, folder: Path, eight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.published(eight)
    before, count = held(hub), len(changed(hub))
    monkeypatch.setattr("g4convert.convert.publication.run.verify", None)  # too early for that

    outcome = shell.publish(folder)

    assert outcome.code == 2
    assert "another conversion is there" in outcome.line
    assert "--overwrite" in outcome.line
    assert (held(hub), len(changed(hub))) == (before, count)


@pytest.mark.parametrize("first", ["eight", "folder"])
def test_with_overwrite_the_other_one_is_gone(shell: Shell, hub: Hub, folder: Path, eight: Path, first: str) -> None:
    """Shards of other names would be loaded too, or an index would name them."""
    old, new = (eight, folder) if first == "eight" else (folder, eight)
    shell.published(old)

    shell.published(new, "--overwrite")

    assert held(hub) == content(new)
    assert len(titles(hub.repositories[NAME])) == 3


def test_overwrite_leaves_what_runtimes_do_not_read(shell: Shell, hub: Hub, folder: Path, eight: Path) -> None:
    shell.published(eight)
    other = {"notes/eval.json": b"{}", "photo.png": b"png", "onnx/model.bin": b"onnx"}
    hub.put(NAME, {**other, "added_tokens.json": b"{}", "pytorch_model.bin": b"old"})

    shell.published(folder, "--overwrite")

    assert held(hub) == content(folder) | other


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model-Q4_0.gguf", "weights.npz"])
def test_weights_of_others_are_not_mixed_with_ours(shell: Shell, hub: Hub, folder: Path, name: str) -> None:
    hub.create(NAME)
    hub.put(NAME, {name: b"weights", "README.md": b"# Mine"})

    outcome = shell.publish(folder)

    assert (outcome.code, changed(hub)) == (2, [])
    assert "another conversion is there" in outcome.line
    shell.published(folder, "--overwrite")
    assert held(hub) == content(folder)


def test_a_file_that_a_runtime_would_read_is_found_before_anything_is_sent(
    shell: Shell, hub: Hub, folder: Path
) -> None:
    shell.published(folder)
    count = len(changed(hub))
    hub.put(NAME, {"model-00009-of-00009.safetensors": b"old"})

    outcome = shell.publish(folder)

    assert (outcome.code, len(changed(hub))) == (2, count)
    assert "model-00009-of-00009.safetensors is there and not here" in outcome.line
    shell.published(folder, "--overwrite")
    assert held(hub) == content(folder)


@pytest.mark.parametrize("files", [{}, {"README.md": b"# Soon\n"}, {"notes/plan.txt": b"soon"}])
def test_a_repository_without_weights_is_free(shell: Shell, hub: Hub, folder: Path, files: dict[str, bytes]) -> None:
    hub.create(NAME)
    hub.put(NAME, files)

    shell.published(folder)

    assert held(hub) == files | content(folder)


def test_another_conversion_on_another_branch_is_in_nobodys_way(
    shell: Shell, hub: Hub, folder: Path, eight: Path
) -> None:
    shell.published(eight)

    shell.published(folder, "--revision", "4bit")

    assert held(hub) == content(eight)
    assert held(hub, branch="4bit") == content(folder)


# -- while it is being published ---------------------------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, when: str, do: Callable[[], object]) -> None:
    """Something happens right before this of our steps, once."""
    from g4convert.convert.publication import run

    owner: Any = HfApi if when == "upload_folder" else run
    step = getattr(owner, when)
    done: list[object] = []

    def first(*arguments: Any, **options: Any) -> Any:
        if not done:
            done.append(do())
        return step(*arguments, **options)

    monkeypatch.setattr(owner, when, first)


def test_a_commit_during_the_verification_is_seen(
    shell: Shell, hub: Hub, folder: Path, eight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create(NAME)
    meanwhile(monkeypatch, "verify", lambda: hub.put(NAME, content(eight), large=("model.safetensors",)))

    outcome = shell.publish(folder)

    assert outcome.code == 2
    assert "another conversion is there" in outcome.line
    assert held(hub) == content(eight)


def test_a_commit_that_nobody_has_seen_is_not_built_upon(
    shell: Shell, hub: Hub, folder: Path, eight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create(NAME)
    meanwhile(monkeypatch, "upload_folder", lambda: hub.put(NAME, content(eight), large=("model.safetensors",)))

    outcome = shell.publish(folder)

    assert outcome.code == 2
    assert "the repository was changed meanwhile" in outcome.line
    assert held(hub) == content(eight)


def test_an_edit_of_the_card_is_no_conflict_for_long(
    shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create(NAME)
    meanwhile(monkeypatch, "upload_folder", lambda: hub.put(NAME, {"notes.txt": b"hello"}))

    assert shell.publish(folder).code == 2
    shell.published(folder)

    assert held(hub) == content(folder) | {"notes.txt": b"hello"}
    assert sorted(hub.uploaded) == sorted(map(sha256, shards(folder)))


def test_an_interruption_is_status_130_and_the_next_run_goes_on(
    shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile(monkeypatch, "upload_folder", interrupt)

    outcome = shell.publish(folder)

    assert (outcome.code, outcome.line) == (130, "g4convert: interrupted")
    monkeypatch.undo()
    assert held(hub) == {}


def test_a_full_disk_leaves_the_card_and_sends_nothing(
    shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = content(folder)
    monkeypatch.setattr("g4convert.convert.writer.os.fsync", full)

    outcome = shell.publish(folder)

    assert outcome.code == 2
    assert "README.md: cannot be written: No space left on device" in outcome.line
    assert {name: content(folder)[name] for name in before} == before
    assert changed(hub) == []


def test_what_the_client_says_of_its_own_errors_never_shows_the_token() -> None:
    from g4convert.convert.publication.hub import Hub as Access

    access = Access(HfApi(token=TOKEN), TOKEN)

    assert TOKEN not in repr(access)
    with pytest.raises(HubError) as caught, access.errors("here"):
        raise ValueError(f"Illegal header value b'Bearer {TOKEN}' of hf_{'x' * 34}")
    assert str(caught.value).startswith("here: Illegal header value b'Bearer ***' of ***")
