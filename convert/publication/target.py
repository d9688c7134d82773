"""A place on the Hub, as a user names it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...schemas.errors import UsageError
from .access import check_name

PULL_REQUEST = re.compile(r"refs/pr/[1-9]\d*")
# What Git takes for no branch.
NO_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^[-./@]$|^[-./]|[./]$|\.lock(/|$)|^refs/")


@dataclass(frozen=True)
class Target:
    """Where a checkpoint goes.

    Attributes:
        repo_id: `owner/name`.
        private: whether a new repository is hidden from others.
        branch: instead of `main`; it is made if need be. Also `refs/pr/N`, a pull request that is open.
        create_pr: propose it to the repository's owner instead of changing anything.
        overwrite: replace another conversion that is there.
    """

    repo_id: str
    private: bool = False
    branch: str | None = None
    create_pr: bool = False
    overwrite: bool = False

    @property
    def is_proposal(self) -> bool:
        """Whether the repository's owner decides about it."""
        return self.create_pr or PULL_REQUEST.fullmatch(self.branch or "") is not None

    def check(self) -> None:
        """Whether there can be such a place.

        Raises:
            UsageError: the Hub takes no such name or branch.
        """
        check_name(self.repo_id)
        if self.branch is not None and not self.is_proposal and (not self.branch or NO_BRANCH.search(self.branch)):
            raise UsageError(
                f"{self.branch!r} cannot be a branch", where="--revision", fix="choose another name, or refs/pr/N"
            )
