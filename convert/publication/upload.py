"""Send what is not on the Hub yet, and read back what has arrived."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...schemas.errors import HubError
from ..manifest import package_version
from .access import check_access
from .contents import Local, Place, RemoteFile, contents, differences, is_another, stale
from .hub import GO_ON, Hub
from .target import PULL_REQUEST, Target

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

MAIN = "main"


@dataclass(frozen=True)
class Upload:
    """A way to a place on the Hub that may be written to.

    Attributes:
        hub: the Hub.
        target: the place.
        there: what is there.
        is_new: whether the place has to be made, or is a proposal: then nothing of anybody's is overwritten.
        quiet: whether the client shows no bars.
    """

    hub: Hub
    target: Target
    there: Place
    is_new: bool
    quiet: bool = False

    def check_replaced(self, folder: Path) -> None:
        """Refuse to replace another checkpoint unasked.

        Raises:
            HubError: another one is there, or parts of one.
        """
        self._check_replaced(contents(folder, plot=False), self.there)

    def _check_replaced(self, local: Local, there: Place) -> None:
        if self.target.overwrite or self.is_new:
            return
        if is_another(local, there.files):
            raise HubError(
                "another conversion is there",
                where=self.target.repo_id,
                fix="replace it with --overwrite, or say --revision BRANCH",
            )
        if others := stale(local, there.files):
            raise HubError(
                f"{others[0]} is there and not here, and runtimes would load it",
                where=self.target.repo_id,
                fix="remove it with --overwrite, or say --revision BRANCH",
            )

    def send(self, folder: Path, files: Local) -> str:
        """Upload what is not there yet, and check what has arrived.

        A verification takes its time, so it looks again, and refuses to come upon a commit that it has not seen.

        Args:
            folder: the checkpoint.
            files: what of it goes, by name.

        Returns:
            Where it is.

        Raises:
            HubError: the Hub refuses, cannot be reached, or holds something else than was sent.
        """
        if self.target.create_pr:
            revision, url = self._propose(folder, files)
        else:
            revision, url = self._make()
            there = look(self.hub, self.target.repo_id, revision)
            self._check_replaced(files, there)
            self._upload(folder, files, there, revision=revision, parent_commit=there.commit)
        self._read_back(files, revision)
        return url

    def _propose(self, folder: Path, files: Local) -> tuple[str, str]:
        """Open a pull request; the client does it in a way that is open to strangers."""
        try:
            made = self._upload(folder, files, self.there, create_pr=True)
        except HubError as error:
            fix = "if a pull request is open now, go on with --revision refs/pr/N instead of --create-pr"
            raise HubError(error.what, where=error.where, fix=f"{error.fix}; {fix}") from None
        if made.pr_revision is None or made.pr_url is None:  # all of it is there already
            return MAIN, f"{self.hub.api.endpoint}/{self.target.repo_id}"
        return made.pr_revision, made.pr_url

    def _upload(self, folder: Path, files: Local, there: Place, **where: Any) -> CommitInfo:
        replacing = self.target.overwrite or self.is_new
        others = stale(files, there.files) if replacing else ()
        with self.hub.errors(self.target.repo_id), _bars(quiet=self.quiet):
            made: CommitInfo = self.hub.api.upload_folder(
                repo_id=self.target.repo_id,
                folder_path=folder,
                allow_patterns=[glob.escape(name) for name in files],
                delete_patterns=[glob.escape(name) for name in others] or None,
                commit_message=_message(),
                **where,
            )
        return made

    def _make(self) -> tuple[str, str]:
        """The revision to upload to, made if need be, and its address."""
        api, target = self.hub.api, self.target
        url = f"{api.endpoint}/{target.repo_id}"
        with self.hub.errors(target.repo_id):
            if self.there.commit is None:  # an organisation may hide what is new
                api.create_repo(target.repo_id, private=target.private or None, exist_ok=True)
            if target.branch is None:
                return MAIN, url
            if self.is_new and not target.is_proposal:
                api.create_branch(target.repo_id, branch=target.branch, exist_ok=True)
        return target.branch, f"{url}/tree/{quote(target.branch, safe='')}"

    def _read_back(self, files: Local, revision: str) -> None:
        remote = look(self.hub, self.target.repo_id, revision).files
        if wrong := list(differences(files, remote)):
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            fix = f"go on with --revision {revision} instead of --create-pr" if self.target.create_pr else GO_ON
            raise HubError(
                f"what has arrived is not what was sent: {wrong[0]}{more}", where=self.target.repo_id, fix=fix
            )


def open_upload(target: Target, token: str | None = None, *, quiet: bool = False) -> Upload:
    """Check name, token and permission, and look at what is there.

    Raises:
        HubError: nothing can be uploaded there.
        UsageError: the name or the branch cannot be.
    """
    target.check()
    hub = Hub.connect(token)
    if not check_access(hub, target.repo_id, proposal=target.is_proposal):
        return Upload(hub, target, Place(), is_new=True, quiet=quiet)
    branch = target.branch or MAIN
    known = branch == MAIN or _has_branch(hub, target.repo_id, branch)
    there = look(hub, target.repo_id, branch if known else MAIN)
    return Upload(hub, target, there, is_new=target.is_proposal or not known, quiet=quiet)


def _has_branch(hub: Hub, repo_id: str, branch: str) -> bool:
    """Whether a branch is there already.

    Raises:
        HubError: it is a tag, or a pull request that is not there.
    """
    is_pull = PULL_REQUEST.fullmatch(branch) is not None
    with hub.errors(repo_id):
        refs = hub.api.list_repo_refs(repo_id, include_pull_requests=is_pull)
    if branch in (one.name for one in refs.tags):
        raise HubError(f"{branch} is a tag, to which nothing can be added", where=repo_id, fix="name a branch")
    if not is_pull:
        return branch in (one.name for one in refs.branches)
    if branch not in (one.ref for one in refs.pull_requests or ()):
        raise HubError(f"there is no pull request {branch}", where=repo_id, fix="open one with --create-pr")
    return True


def look(hub: Hub, repo_id: str, revision: str) -> Place:
    """What is on the Hub now.

    Raises:
        HubError: it cannot be seen, or has got another name.
    """
    with hub.errors(repo_id):
        info = hub.api.model_info(repo_id, revision=revision, files_metadata=True)
    if info.id != repo_id:
        raise HubError(f"the Hub calls it {info.id} now", where=repo_id, fix="use that name")
    return Place(info.sha, {sibling.rfilename: RemoteFile.of(sibling) for sibling in info.siblings or ()})


def _message() -> str:
    return f"Upload a conversion by g4convert {package_version()}"


@contextmanager
def _bars(*, quiet: bool) -> Iterator[None]:
    """The client's progress bars, on a terminal only."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if (sys.stderr.isatty() and not quiet) or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
