"""Check, verify, write the card, upload, and read back what has arrived."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from huggingface_hub import ModelCard

from ...loaders.checkpoint import read_config
from ...model_cards.card import use, verification
from ...model_cards.sections import USE, VERIFICATION, replace_section
from ...schemas.errors import ConfigError, DefectError, HubError
from ..card import runtimes
from ..manifest import package_version
from ..plan import MODALITIES, kept_modalities
from ..source import CARD
from ..verification import figures
from ..verification.checking import Progress
from ..verification.outcome import Status, Verification
from ..verification.run import verify
from ..writer import replace_file
from .access import check_access, check_name
from .contents import PLOT, LocalFile, RemoteFile, contents, differences, is_another, stale
from .hub import GO_ON, Hub
from .section import plotted, verified

# What is verified before every upload; beside its source, a checkpoint goes through all steps.
STEPS = ("files", "tensors")
MAIN = "main"
PULL_REQUEST = "refs/pr/"


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


@dataclass(frozen=True)
class Publication:
    """What is, or would be, published.

    Attributes:
        folder: the checkpoint.
        card: the text of its README.md.
        plot: the text of the picture in it, if there is one.
        verification: what was found before.
        url: where it is now; None before the upload.
    """

    folder: Path
    card: str
    plot: str | None
    verification: Verification
    url: str | None = None

    @property
    def written(self) -> Mapping[str, bytes]:
        """The files that are written for the publication."""
        texts = {CARD: self.card, PLOT: self.plot}
        return {name: text.encode() for name, text in texts.items() if text is not None}

    @cached_property
    def files(self) -> Mapping[str, LocalFile]:
        """Everything that goes."""
        return contents(self.folder, plot=self.plot is not None)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, those included that are not written yet."""
        written = self.written
        return {name: len(written[name]) if name in written else file.size for name, file in self.files.items()}


def publish(
    model: str | Path,
    target: str | Target,
    *,
    source: str | Path | None = None,
    base_model: str | None = None,
    allow_defects: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
) -> Publication:
    """Upload a converted checkpoint to the Hub, after its verification, and check what has arrived.

    Args:
        model: its folder.
        target: where it goes, `owner/name` or more.
        source: what it was made from; with it, everything is verified and the card gets the numbers.
        base_model: what the card names as the base model, `owner/name`, where the conversion does not know.
        allow_defects: upload it even if the verification finds defects; the card says so.
        token: of the Hub; by default the one that this machine is logged in with.
        progress: see `verify`.

    Raises:
        DefectError: the verification found defects.
        HubError: the Hub refuses, cannot be reached, or has received something else.
        G4ConvertError: the call is wrong, or there is no checkpoint.
    """
    target = Target(target) if isinstance(target, str) else target
    upload = open_upload(target, token)
    upload.check_replaced(expanded(model))
    publication = prepare(
        model, target.repo_id, source=source, base_model=base_model, allow_defects=allow_defects, progress=progress
    )
    for name, data in publication.written.items():
        replace_file(publication.folder / name, data)
    return replace(publication, url=upload.send(publication))


def prepare(
    model: str | Path,
    repo_id: str,
    *,
    source: str | Path | None = None,
    base_model: str | None = None,
    allow_defects: bool = False,
    progress: Progress | None = None,
) -> Publication:
    """Verify a checkpoint and render its card; nothing is written, and the Hub is not asked. See `publish`.

    Raises:
        DefectError: the verification found defects.
        G4ConvertError: the call is wrong, or there is no checkpoint.
    """
    check_name(repo_id)
    if base_model is not None:
        check_name(base_model)
    folder = expanded(model)
    contents(folder, plot=False)
    found = verify(folder, source=source, steps=STEPS if source is None else None, progress=progress)
    if found.status is Status.FAIL and not allow_defects:
        raise DefectError(
            f"{figures.verdict(found)}, first: {found.findings[0]}",
            where=folder,
            fix="see g4convert verify; --allow-defects publishes it all the same, and the card says so",
        )
    return Publication(folder, published_card(folder, repo_id, base_model, found), plotted(found), found)


def expanded(model: str | Path) -> Path:
    """A folder as a user may write it."""
    return Path(os.path.expanduser(model))  # noqa: PTH111  # Path.expanduser() fails on ~nobody


def published_card(folder: Path, repo_id: str, base_model: str | None, found: Verification) -> str:
    """The card in a checkpoint's folder, with where it is published and what was verified; all else stays as it is.

    Raises:
        ConfigError: there is no card, or its metadata cannot be read.
    """
    _, config = read_config(folder)
    kept = kept_modalities(config, MODALITIES)
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        card = ModelCard(text)
    except (OSError, ValueError) as error:  # what YAML says is a ValueError or has a base of its own
        raise ConfigError(f"the card cannot be read: {error}", where=CARD, fix="convert again") from None
    if base_model is not None:
        card.data["base_model"] = base_model
        if config.quantization:
            card.data["base_model_relation"] = "quantized"
        text = str(card)
    text = replace_section(text, USE, use(runtimes(config, kept, repo_id)))
    return replace_section(text, VERIFICATION, verification(verified(found)))


@dataclass(frozen=True)
class Upload:
    """A way to a place on the Hub that may be written to.

    Attributes:
        hub: the Hub.
        target: the place.
        remote: what is there, by name; empty where there is no repository yet.
        is_new: whether the place has to be made, or is a proposal: then nothing of anybody's is overwritten.
    """

    hub: Hub
    target: Target
    remote: Mapping[str, RemoteFile]
    is_new: bool

    def check_replaced(self, folder: Path) -> None:
        """Refuse to replace another checkpoint unasked.

        Raises:
            HubError: another one is there.
        """
        if self.target.overwrite or self.is_new:
            return
        if is_another(contents(folder, plot=False), self.remote):
            raise HubError(
                "another conversion is there",
                where=self.target.repo_id,
                fix="replace it with --overwrite, or say --revision BRANCH",
            )

    def send(self, publication: Publication) -> str:
        """Upload what is not there yet, and check what has arrived.

        Returns:
            Where it is.

        Raises:
            HubError: the Hub refuses, cannot be reached, or holds something else than was sent.
        """
        revision, url = self._place()
        with self.hub.errors(self._where(revision)), _bars():
            self.hub.api.upload_folder(
                repo_id=self.target.repo_id,
                folder_path=publication.folder,
                revision=revision,
                allow_patterns=[glob.escape(name) for name in publication.files],
                delete_patterns=self._stale(publication),
                commit_message=_message(),
            )
        self._read_back(publication, revision)
        return url

    def _stale(self, publication: Publication) -> list[str]:
        if not (self.target.overwrite or self.is_new):
            return []
        return [glob.escape(name) for name in stale(publication.files, self.remote)]

    def _place(self) -> tuple[str, str]:
        """The revision to upload to, made if need be, and its address."""
        api, target = self.hub.api, self.target
        with self.hub.errors(target.repo_id):
            if target.create_pr:
                proposal = api.create_pull_request(target.repo_id, title=_message())
                return proposal.git_reference or f"{PULL_REQUEST}{proposal.num}", proposal.url
            url = str(api.create_repo(target.repo_id, private=target.private, exist_ok=True))
            if target.branch is None:
                return MAIN, url
            if not target.branch.startswith(PULL_REQUEST):
                api.create_branch(target.repo_id, branch=target.branch, exist_ok=True)
        return target.branch, f"{url}/tree/{target.branch}"

    def _where(self, revision: str) -> str:
        """The place in an error; of a proposal, how to go on with it."""
        return self.target.repo_id if revision == MAIN else f"{self.target.repo_id}, --revision {revision}"

    def _read_back(self, publication: Publication, revision: str) -> None:
        remote = listing(self.hub, self.target.repo_id, revision)
        if wrong := list(differences(publication.files, remote)):
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise HubError(
                f"what has arrived is not what was sent: {wrong[0]}{more}", where=self._where(revision), fix=GO_ON
            )


def open_upload(target: Target, token: str | None = None) -> Upload:
    """Check name, token and permission, and look at what is there.

    Raises:
        HubError: nothing can be uploaded there.
        UsageError: the name or the branch cannot be.
    """
    check_name(target.repo_id)
    hub = Hub.connect(token)
    exists = check_access(hub, target.repo_id, create_pr=target.create_pr)
    branch = target.branch or MAIN
    known = exists and _has_branch(hub, target.repo_id, branch)
    remote = listing(hub, target.repo_id, branch if known else MAIN) if exists else {}
    return Upload(hub, target, remote, is_new=target.create_pr or not known)


def _has_branch(hub: Hub, repo_id: str, branch: str) -> bool:
    with hub.errors(repo_id):
        return hub.api.revision_exists(repo_id, branch)


def listing(hub: Hub, repo_id: str, revision: str) -> dict[str, RemoteFile]:
    """The files on the Hub, by name."""
    with hub.errors(repo_id):
        siblings = hub.api.model_info(repo_id, revision=revision, files_metadata=True).siblings or []
    return {sibling.rfilename: RemoteFile.of(sibling) for sibling in siblings}


def _message() -> str:
    return f"Upload a conversion by g4convert {package_version()}"


@contextmanager
def _bars() -> Iterator[None]:
    """The client's progress bars, on a terminal only."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
