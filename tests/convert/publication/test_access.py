"""Who may publish where, found out before anything else is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from g4convert.tests.convert.publication.shop import NAME, SOURCE, TOKEN, Outcome, Shell, changed, content, held
from g4convert.tests.hub.client import UPLOADS
from g4convert.tests.hub.state import Account, Hub
from huggingface_hub import HfApi

pytestmark = UPLOADS

FINE, ELSEWHERE, ONE = (Account("alice", "fineGrained", ("lab",), scopes) for scopes in (("alice",), ("lab",), (NAME,)))


@pytest.fixture
def nothing_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verification that would begin is an error."""
    monkeypatch.setattr("g4convert.convert.publication.run.verify", None)


def refused(outcome: Outcome, hub: Hub, *texts: str) -> None:
    assert outcome.code == 2
    assert all(text in outcome.line for text in texts), outcome.line
    assert (changed(hub), hub.repositories) == ([], {})


def fine(permissions: dict[str, list[str]], everywhere: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the Hub says of a token of fine grain."""
    scoped = [{"entity": {"type": "user", "name": name}, "permissions": found} for name, found in permissions.items()]
    token = {"role": "fineGrained", "fineGrained": {"global": list(everywhere), "scoped": scoped}}
    return {"name": "alice", "orgs": [], "auth": {"type": "access_token", "accessToken": token}}


@pytest.mark.usefixtures("nothing_done")
class TestRefused:
    """Nothing is verified, nothing is created."""

    def test_a_token_that_can_only_read(self, shell: Shell, hub: Hub, folder: Path) -> None:
        hub.accounts[TOKEN] = Account("alice", "read")

        refused(shell.publish(folder), hub, "the token can only read", "make one that can write")

    @pytest.mark.parametrize("name", [NAME, "alice/other"])
    def test_a_fine_token_for_somewhere_else(self, shell: Shell, hub: Hub, folder: Path, name: str) -> None:
        hub.accounts[TOKEN] = Account("alice", "fineGrained", ("lab",), ("lab", "alice/third"))

        refused(shell.publish(folder, name=name), hub, "does not allow writing to this repository")

    @pytest.mark.parametrize(
        "account",
        [
            fine({"alice": ["repo.content.read", "discussion.write"]}),
            fine({"bob": ["repo.write"]}),
            fine({}, ("discussion.write",)),
            fine({"alice": []}),
        ],
    )
    def test_a_fine_token_without_the_permission(
        self, shell: Shell, hub: Hub, folder: Path, account: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(HfApi, "whoami", lambda *_, **__: account)

        refused(shell.publish(folder), hub, "does not allow writing to this repository")

    def test_somebody_elses_namespace(self, shell: Shell, hub: Hub, folder: Path) -> None:
        outcome = shell.publish(folder, name="bob/model")

        refused(outcome, hub, "the token is alice's, who cannot write to bob", "name it alice/model", "--create-pr")

    def test_an_organisation_where_the_user_only_reads(
        self, shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = {"name": "alice", "orgs": [{"name": "lab", "roleInOrg": "read"}], "auth": {}}
        monkeypatch.setattr(HfApi, "whoami", lambda *_, **__: account)

        refused(shell.publish(folder, name="lab/model"), hub, "who cannot write to lab")

    def test_no_token(self, shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")

        refused(shell.publish(folder), hub, "no token was found", "hf auth login")
        assert hub.requests == []

    def test_an_unknown_token(self, shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN[::-1])

        refused(shell.publish(folder), hub, "does not accept the token", "401", "hf auth login")

    @pytest.mark.parametrize(
        "name",
        ["model", "a/b/c", "alice/", "/model", "alice/two--dashes", "alice/a b", "alice/x..y", "alice/" + "x" * 99],
    )
    def test_a_name_that_cannot_be(self, shell: Shell, hub: Hub, folder: Path, name: str) -> None:
        refused(shell.publish(folder, name=name), hub, f"g4convert: {name}: ")
        assert hub.requests == []

    def test_a_base_model_that_cannot_be(self, shell: Shell, hub: Hub, folder: Path) -> None:
        refused(shell.publish(folder, "--base-model", "gemma", "--dry-run"), hub, "gemma: a repository has the form")

    @pytest.mark.parametrize("what", ["nowhere", "."])
    def test_a_folder_that_holds_no_conversion(self, shell: Shell, hub: Hub, what: str, tmp_path: Path) -> None:
        refused(shell.publish(tmp_path / what), hub, str(tmp_path))

    def test_a_source_is_no_conversion(self, shell: Shell, hub: Hub) -> None:
        refused(shell.publish(SOURCE), hub, "there is no conversion.json", "publish what hf-to-mlx has made")


@pytest.mark.parametrize(
    ("account", "name"),
    [
        (Account("alice"), NAME),
        (Account("alice", "write", ("lab",)), "lab/model"),
        (FINE, NAME),
        (ELSEWHERE, "lab/model"),
        (ONE, NAME),
    ],
    ids=["user", "organisation", "fine", "fine for an organisation", "fine for one repository"],
)
def test_who_may(shell: Shell, hub: Hub, folder: Path, account: Account, name: str) -> None:
    hub.accounts[TOKEN] = account

    shell.published(folder, name=name)

    assert held(hub, name) == content(folder)


def test_a_token_of_an_app_tells_no_role(shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HfApi, "whoami", lambda *_, **__: {"name": "alice", "auth": {"type": "oauth"}})

    shell.published(folder)

    assert held(hub) == content(folder)


def test_the_hub_has_the_last_word_on_an_existing_repository(
    shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token may look as if it could."""
    hub.create(NAME)
    hub.accounts[TOKEN] = Account("alice", "fineGrained", (), ("alice/other",))
    monkeypatch.setattr(HfApi, "whoami", lambda *_, **__: fine({"alice": ["repo.write"]}))
    monkeypatch.setattr("g4convert.convert.publication.run.verify", None)

    outcome = shell.publish(folder)

    assert (outcome.code, changed(hub)) == (2, [])
    assert "the token does not allow this (403" in outcome.line


def test_what_a_token_for_discussions_may_propose(
    shell: Shell, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create("bob/model")
    monkeypatch.setattr(HfApi, "whoami", lambda *_, **__: fine({}, ("discussion.write",)))

    shell.published(folder, "--create-pr", name="bob/model")

    assert held(hub, "bob/model") == {}
    assert held(hub, "bob/model", "refs/pr/1") == content(folder)


def test_a_repository_that_is_hidden_from_us_is_somebody_elses(shell: Shell, hub: Hub, folder: Path) -> None:
    hub.create("bob/model", private=True)

    outcome = shell.publish(folder, "--create-pr", name="bob/model")

    assert (outcome.code, changed(hub)) == (2, [])
    assert "there is no such repository" in outcome.line
