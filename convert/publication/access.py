"""May this token write to this repository? Asked before anything else is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...schemas.errors import HubError, UsageError
from ..hub_errors import first_line, hide
from .hub import Hub

WRITE, PROPOSE = "repo.write", "discussion.write"
NEW_TOKEN = "make one that can write at Settings, Access Tokens, on the Hub"


def check_name(repo_id: str) -> None:
    """Whether it can be a repository at all.

    Raises:
        UsageError: the Hub takes no such name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if repo_id.count("/") != 1:
        raise UsageError(
            "a repository has the form OWNER/NAME", where=hide(repo_id), fix="write it like me/gemma-4-E2B-4bit"
        )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(first_line(error), where=repo_id, fix="choose another name") from None


def check_access(hub: Hub, repo_id: str, *, proposal: bool) -> bool:
    """Whether the token may write there, and whether the repository exists.

    Anybody may propose a change, so a pull request asks for nothing but a token that can write, or may discuss.

    Raises:
        HubError: it may not.
    """
    with hub.errors(repo_id):
        account = hub.api.whoami()
        _check_token(account, repo_id, proposal=proposal)
        if not proposal:
            _check_owner(account, repo_id)
        exists = hub.api.repo_exists(repo_id)
        if exists and not proposal:
            hub.api.auth_check(repo_id, write=True)
    if proposal and not exists:
        raise HubError("there is no such repository to propose a change to", where=repo_id, fix="check the name")
    return exists


def _check_owner(account: Mapping[str, Any], repo_id: str) -> None:
    owner, _, name = repo_id.partition("/")
    if owner not in _owners(account):
        raise HubError(
            f"the token is {account['name']}'s, who cannot write to {owner}",
            where=repo_id,
            fix=f"name it {account['name']}/{name}, or propose it with --create-pr",
        )


def _owners(account: Mapping[str, Any]) -> set[str]:
    """The user, and the organisations in which more than reading is allowed."""
    organisations = account.get("orgs") or ()
    return {account["name"], *(one["name"] for one in organisations if one.get("roleInOrg") != "read")}


def _check_token(account: Mapping[str, Any], repo_id: str, *, proposal: bool) -> None:
    token = (account.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    if role == "read":
        raise HubError("the token can only read", where=repo_id, fix=NEW_TOKEN)
    wanted = (WRITE, PROPOSE) if proposal else (WRITE,)
    if role == "fineGrained" and not _allows(_permissions(token.get("fineGrained") or {}, repo_id), wanted):
        raise HubError("the token does not allow writing to this repository", where=repo_id, fix=NEW_TOKEN)


def _permissions(scopes: Mapping[str, Any], repo_id: str) -> Iterator[str]:
    """What a token of fine grain allows for a repository."""
    owner = repo_id.partition("/")[0]
    yield from scopes.get("global") or ()
    for scope in scopes.get("scoped") or ():
        if (scope.get("entity") or {}).get("name") in (owner, repo_id):
            yield from scope.get("permissions") or ()


def _allows(permissions: Iterable[str], wanted: tuple[str, ...]) -> bool:
    return any(permission.startswith(wanted) for permission in permissions)
