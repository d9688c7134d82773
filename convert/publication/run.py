"""Check, verify, write the card, upload, and read back what has arrived."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from yaml import YAMLError

from ...loaders.checkpoint import read_config, within
from ...model_cards.card import described, use, verification
from ...model_cards.sections import USE, VERIFICATION, replace_section
from ...schemas.errors import ConfigError, DefectError
from ..card import runtimes
from ..disk import replace_file
from ..plan import MODALITIES, kept_modalities
from ..source import CARD, PLOT
from ..verification import figures
from ..verification.checking import Progress
from ..verification.outcome import Status, Verification
from ..verification.run import verify
from .access import check_name
from .contents import LocalFile, contents
from .section import plotted, verified
from .target import Target
from .upload import open_upload

# What is verified before every upload; beside its source, a checkpoint goes through all steps.
STEPS = ("files", "tensors")


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
    quiet: bool = False,
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
        quiet: no progress bars of the Hub's client, on a terminal neither.
        progress: see `verify`.

    Raises:
        DefectError: the verification found defects.
        HubError: the Hub refuses, cannot be reached, or has received something else.
        G4ConvertError: the call is wrong, or there is no checkpoint.
    """
    target = Target(target) if isinstance(target, str) else target
    upload = open_upload(target, token, quiet=quiet)
    upload.check_replaced(expanded(model))
    publication = prepare(
        model, target.repo_id, source=source, base_model=base_model, allow_defects=allow_defects, progress=progress
    )
    for name, data in publication.written.items():
        _write(publication.folder / name, data)
    return replace(publication, url=upload.send(publication.folder, publication.files))


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


def _write(path: Path, data: bytes) -> None:
    """Write a file, but not what it holds already."""
    if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
        replace_file(path, data)


def expanded(model: str | Path) -> Path:
    """A folder as a user may write it."""
    return Path(os.path.expanduser(model))  # noqa: PTH111  # Path.expanduser() fails on ~nobody


def published_card(folder: Path, repo_id: str, base_model: str | None, found: Verification) -> str:
    """The card in a checkpoint's folder, with where it is published and what was verified; all else stays as it is.

    Raises:
        ConfigError: there is no card, or its metadata cannot be read.
        UnsafeFileError: it is a link that leads out of the folder.
    """
    _, config = read_config(folder)
    kept = kept_modalities(config, MODALITIES)
    try:
        text = within(folder, folder / CARD).read_bytes().decode("utf-8-sig")
        text = described(text, {} if base_model is None else _based_on(base_model, quantized=bool(config.quantization)))
    except OSError as error:
        raise ConfigError(f"the card cannot be read: {error.strerror}", where=CARD, fix="convert again") from None
    except (ValueError, TypeError, YAMLError) as error:
        raise ConfigError(f"the card cannot be read: {error}", where=CARD, fix="correct it, or convert again") from None
    text = replace_section(text, USE, use(runtimes(config, kept, repo_id)))
    return replace_section(text, VERIFICATION, verification(verified(found)))


def _based_on(base_model: str, *, quantized: bool) -> Mapping[str, str]:
    return {"base_model": base_model, **({"base_model_relation": "quantized"} if quantized else {})}
