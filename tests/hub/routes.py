"""The Hub's HTTP API, as far as the client needs it to publish a model and to read it back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from . import commits, storage, xet
from .cards import judge
from .listing import details, entries, info, page, paths
from .messages import (
    Answer,
    HubError,
    Request,
    bad_token,
    content,
    may_not_create,
    may_not_write,
    no_entry,
    no_repository,
    no_revision,
    no_token,
    reply,
)
from .state import DATE, EPOCH, MAIN, Account, Commit, Hub, Repository

Route = Callable[[Hub, Request], Answer]

REPOSITORY = r"(?P<repository>[^/]+/[^/]+)"
MODEL = f"/api/models/{REPOSITORY}"
REVISION = r"(?P<revision>[^/]+)"


def account_of(hub: Hub, request: Request) -> Account | None:
    """Whom the request's token belongs to; an unknown token is an error, none is not."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    account = hub.accounts.get(header.removeprefix("Bearer "))
    if account is None:
        raise bad_token()
    return account


def readable(hub: Hub, request: Request) -> Repository:
    """The repository that the path names, if the account may see it."""
    name, account = request.names["repository"], request.account
    repository = hub.repositories.get(name)
    if repository is None:
        raise no_repository(account)
    if repository.private and not (account and account.belongs_to(name.partition("/")[0])):
        raise no_repository(account)
    return repository


def writable(hub: Hub, request: Request, *, pull: bool = False) -> Repository:
    """The repository that the path names, if the account may change it; whoever sees it may open a pull request."""
    repository = readable(hub, request)
    if request.account is None:
        raise no_token()
    if not (request.account.may_write(repository.name) or (pull and request.account.role != "read")):
        raise may_not_write()
    return repository


def commit_of(repository: Repository, request: Request) -> Commit:
    """The commit that the path names; the main branch's if it names none."""
    revision = request.names.get("revision", MAIN)
    commit = repository.find(revision)
    if commit is None:
        raise no_revision(revision)
    return commit


def whoami(hub: Hub, request: Request) -> Answer:
    """Tell whose the token is and what it may do."""
    if request.account is None:
        raise no_token()
    return reply(_identity(request.account))


def _identity(account: Account) -> dict[str, Any]:
    token: dict[str, Any] = {"displayName": "test", "role": account.role, "createdAt": EPOCH.strftime(DATE)}
    if account.role == "fineGrained":
        scopes = [
            {"entity": {"type": _kind(account, name), "name": name}, "permissions": ["repo.content.read", "repo.write"]}
            for name in account.scopes
        ]
        token["fineGrained"] = {"canReadGatedRepos": True, "global": [], "scoped": scopes}
    organizations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in account.organizations]
    return {
        "type": "user",
        "name": account.name,
        "fullname": account.name.title(),
        "orgs": organizations,
        "auth": {"type": "access_token", "accessToken": token},
    }


def _kind(account: Account, scope: str) -> str:
    if "/" in scope:
        return "model"
    return "user" if scope == account.name else "org"


def create(hub: Hub, request: Request) -> Answer:
    """Create a repository; one that exists already is a conflict."""
    if request.account is None:
        raise no_token()
    wanted = request.json
    name = f"{wanted.get('organization') or request.account.name}/{wanted['name']}"
    if not request.account.may_write(name):
        raise may_not_create(name)
    where = {"url": f"{hub.url}/{name}", "name": name}
    if name in hub.repositories:
        return reply({**where, "error": "You already created this model repo"}, 409)
    hub.create(name, private=wanted.get("visibility") == "private", author=request.account.name)
    return reply(where)


def validate(hub: Hub, request: Request) -> Answer:
    """Check a model card's metadata."""
    verdict = judge(request.json["content"])
    return reply(verdict.document, 400 if verdict.errors else 200)


def preupload(hub: Hub, request: Request) -> Answer:
    """Say of each file whether it goes to Git or to the object storage, and what is there now."""
    repository = writable(hub, request, pull=request.asks("create_pr"))
    files = commit_of(repository, request).files
    return reply({"files": [commits.mode(hub, files, file) for file in request.json["files"]]})


def commit(hub: Hub, request: Request) -> Answer:
    """Put a commit on a branch, or with `create_pr` on a new pull request's."""
    pull = request.asks("create_pr")
    repository = writable(hub, request, pull=pull or _is_own_pull(hub, request))
    commit_of(repository, request)
    change = commits.Change.of(request.lines)
    author = request.account.name if request.account else ""
    branch = request.names["revision"]
    document: dict[str, Any] = {"success": True, "hookOutput": ""}
    files = commits.apply(hub, repository, branch, change)
    if pull:
        opened = repository.open_pull(change.title, change.message, author)
        branch = opened.branch
        document["pullRequestUrl"] = f"{hub.url}/{repository.name}/discussions/{opened.number}"
    made = repository.add(branch, files, change.title, change.message, author)
    return reply({**document, "commitOid": made.oid, "commitUrl": f"{hub.url}/{repository.name}/commit/{made.oid}"})


def _is_own_pull(hub: Hub, request: Request) -> bool:
    pulls = readable(hub, request).pulls
    author = request.account and request.account.name
    return any((pull.branch, pull.author) == (request.names["revision"], author) for pull in pulls)


def branch(hub: Hub, request: Request) -> Answer:
    """Create a branch."""
    repository = writable(hub, request)
    name, start = request.names["branch"], request.json.get("startingPoint", MAIN)
    if name.startswith("refs/"):
        raise HubError(400, f"Invalid reference for a branch: {name}")
    if name in repository.branches:
        raise HubError(409, f'Reference already exists: "{name}"')
    found = repository.find(start)
    if found is None:
        raise no_revision(start)
    repository.branches[name] = found
    return reply({"success": True}, 201)


def refs(hub: Hub, request: Request) -> Answer:
    """List branches and, if asked, pull requests."""
    repository = readable(hub, request)
    pulls = [pull.branch for pull in repository.pulls]
    heads = [name for name in repository.branches if name not in pulls]
    branches = [_ref(repository, name, f"refs/heads/{name}") for name in heads]
    requests = [_ref(repository, name, name) for name in pulls]
    return reply({"branches": branches, "converts": [], "tags": [], "pullRequests": requests})


def _ref(repository: Repository, name: str, ref: str) -> dict[str, str]:
    return {"name": name, "ref": ref, "targetCommit": repository.branches[name].oid}


def history(hub: Hub, request: Request) -> Answer:
    """List the commits of a revision, newest first."""
    newest = commit_of(readable(hub, request), request)
    return reply([_past(one) for one in newest.history()])


def _past(commit: Commit) -> dict[str, Any]:
    texts = {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.when}
    return {**texts, "authors": [{"user": commit.author}]}


def discuss(hub: Hub, request: Request) -> Answer:
    """Open a pull request without commits."""
    repository = readable(hub, request)
    if request.account is None:
        raise no_token()
    if request.account.role == "read":
        raise HubError(403, "Forbidden")
    wanted = request.json
    opened = repository.open_pull(wanted["title"], wanted["description"], request.account.name)
    return reply({"num": opened.number, "pullRequest": wanted["pullRequest"]})


def discussion(hub: Hub, request: Request) -> Answer:
    """Describe a pull request."""
    repository = readable(hub, request)
    number = int(request.names["number"])
    if number > len(repository.pulls):
        raise HubError(404, "Discussion not found")
    return reply(details(repository, repository.pulls[number - 1]))


def tree(hub: Hub, request: Request) -> Answer:
    """List a folder, page by page."""
    found = commit_of(readable(hub, request), request)
    folder = request.names.get("path") or ""
    if folder and not found.part(folder):
        raise no_entry(folder, found.oid)
    rows = entries(found, folder, recursive=request.asks("recursive"), expand=request.asks("expand"))
    return page(hub, request, rows)


def paths_info(hub: Hub, request: Request) -> Answer:
    """Describe the paths that exist, of those asked for."""
    found = commit_of(readable(hub, request), request)
    expand = request.form.get("expand", [""])[-1].lower() == "true"
    return reply(paths(found, request.form.get("paths", []), expand=expand))


def model(hub: Hub, request: Request) -> Answer:
    """Describe the repository at a revision."""
    repository = readable(hub, request)
    return reply(info(repository, commit_of(repository, request), blobs=request.asks("blobs")))


def check_read(hub: Hub, request: Request) -> Answer:
    """Say whether the account may read."""
    readable(hub, request)
    return reply({})


def check_write(hub: Hub, request: Request) -> Answer:
    """Say whether the account may write."""
    writable(hub, request)
    return reply({})


def resolve(hub: Hub, request: Request) -> Answer:
    """Give a file's content, or for a large one where the object storage has it."""
    found = commit_of(readable(hub, request), request)
    blob = found.files.get(request.names["path"])
    if blob is None:
        raise no_entry(request.names["path"], found.oid)
    headers = {"X-Repo-Commit": found.oid, "ETag": f'"{blob.git_id}"'}
    if not blob.large:
        return content(blob.content, headers, request.headers.get("range"))
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
    return Answer(302, {**headers, **linked, "Location": storage.address(hub, blob.sha256)})


def batch(hub: Hub, request: Request) -> Answer:
    """Say of each large file where to send it; one that is there already needs no action."""
    anybody = "ref" not in request.json
    writable(hub, request, pull=anybody)
    return reply(storage.instructions(hub, request.names["repository"], request.json))


def xet_read(hub: Hub, request: Request) -> Answer:
    """Admit a reader to the Xet storage."""
    readable(hub, request)
    return xet.admit(hub)


def xet_write(hub: Hub, request: Request) -> Answer:
    """Admit a writer to the Xet storage."""
    writable(hub, request, pull=request.asks("create_pr"))
    return xet.admit(hub)


def verify(hub: Hub, request: Request) -> Answer:
    """Confirm that a large file arrived."""
    writable(hub, request, pull=True)
    return storage.confirm(hub, request.json)


ROUTES: tuple[tuple[str, str, Route], ...] = (
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate),
    ("POST", "/api/complete/(?P<sha256>[0-9a-f]{64})", storage.complete),
    ("POST", f"{MODEL}/preupload/{REVISION}", preupload),
    ("POST", f"{MODEL}/commit/{REVISION}", commit),
    ("POST", f"{MODEL}/branch/(?P<branch>[^/]+)", branch),
    ("POST", f"{MODEL}/paths-info/{REVISION}", paths_info),
    ("POST", f"{MODEL}/discussions", discuss),
    ("GET", rf"{MODEL}/discussions/(?P<number>[1-9]\d*)", discussion),
    ("GET", f"{MODEL}/refs", refs),
    ("GET", f"{MODEL}/commits/{REVISION}", history),
    ("GET", f"{MODEL}/tree/{REVISION}(/(?P<path>.+))?", tree),
    ("GET", f"{MODEL}/xet-read-token/{REVISION}", xet_read),
    ("GET", f"{MODEL}/xet-write-token/{REVISION}", xet_write),
    ("GET", f"{MODEL}/revision/{REVISION}", model),
    ("GET", f"{MODEL}/auth-check", check_read),
    ("GET", f"{MODEL}/auth-check/write", check_write),
    ("GET", MODEL, model),
    ("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/batch", batch),
    ("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/verify", verify),
    ("GET|HEAD", f"/{REPOSITORY}/resolve/{REVISION}/(?P<path>.+)", resolve),
)
STORAGE: tuple[tuple[str, str, Route], ...] = (
    ("PUT", "/objects/(?P<sha256>[0-9a-f]{64})", storage.put),
    ("PUT", r"/objects/(?P<sha256>[0-9a-f]{64})/(?P<part>\d+)", storage.put_part),
    ("GET|HEAD", "/objects/(?P<sha256>[0-9a-f]{64})", storage.get),
)


def respond(hub: Hub, place: str, request: Request) -> Answer:
    """Answer a request to the Hub or to its object storage."""
    try:
        if place == "storage":
            return _routed(hub, STORAGE, storage.unsigned(request))
        return _routed(hub, ROUTES, replace(request, account=account_of(hub, request)))
    except HubError as error:
        return error.answer


def _routed(hub: Hub, routes: tuple[tuple[str, str, Route], ...], request: Request) -> Answer:
    for method, pattern, route in routes:
        match = re.fullmatch(pattern, request.path)
        if match and re.fullmatch(method, request.method):
            names = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
            return route(hub, replace(request, names=names))
    raise HubError(404, f"The tests' Hub does not know {request.method} {request.path}")
