"""May this token write to this repository? Asked before anything else is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...schemas.errors import HubError, UsageError
from .hub import Hub, first_line

WRITE = "repo.write"
NEW_TOKEN = "make one that can write at Settings, Access Tokens, on the Hub"


def check_name(repo_id: str) -> None:
    """Whether it can be a repository at all.

    Raises:
        UsageError: the Hub takes no such name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if repo_id.count("/") != 1:
        raise UsageError("a repository has the form OWNER/NAME", where=repo_id, fix="write it like me/gemma-4-E2B-4bit")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(first_line(error), where=repo_id, fix="choose another name") from None


def check_access(hub: Hub, repo_id: str, *, create_pr: bool) -> bool:
    """Whether the token may write there, and whether the repository exists.

    Anybody may propose a change, so a pull request asks for nothing but a token that can write.

    Raises:
        HubError: it may not.
    """
    with hub.errors(repo_id):
        account = hub.api.whoami()
    owner = repo_id.partition("/")[0]
    _check_token(account, repo_id)
    if not create_pr and owner not in _owners(account):
        raise HubError(
            f"the token is {account['name']}'s, who cannot write to {owner}",
            where=repo_id,
            fix=f"name it {account['name']}/{repo_id.partition('/')[2]}, or propose it with --create-pr",
        )
    with hub.errors(repo_id):
        exists = hub.api.repo_exists(repo_id)
        if exists and not create_pr:
            hub.api.auth_check(repo_id, write=True)
    if create_pr and not exists:
        raise HubError("there is no such repository to propose a change to", where=repo_id, fix="check the name")
    return exists


def _owners(account: Mapping[str, Any]) -> set[str]:
    """The user, and the organisations in which more than reading is allowed."""
    organisations = account.get("orgs") or ()
    return {account["name"], *(one["name"] for one in organisations if one.get("roleInOrg") != "read")}


def _check_token(account: Mapping[str, Any], repo_id: str) -> None:
    token = (account.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    if role == "read":
        raise HubError("the token can only read", where=repo_id, fix=NEW_TOKEN)
    if role == "fineGrained" and not _may_write(_permissions(token.get("fineGrained") or {}, repo_id)):
        raise HubError("the token does not allow writing to this repository", where=repo_id, fix=NEW_TOKEN)


def _permissions(scopes: Mapping[str, Any], repo_id: str) -> Iterator[str]:
    """What a token of fine grain allows for a repository."""
    owner = repo_id.partition("/")[0]
    yield from scopes.get("global") or ()
    for scope in scopes.get("scoped") or ():
        if scope["entity"].get("name") in (owner, repo_id):
            yield from scope.get("permissions") or ()


def _may_write(permissions: Iterable[str]) -> bool:
    return any(permission.startswith(WRITE) for permission in permissions)
