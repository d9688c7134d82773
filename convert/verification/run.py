"""Take all steps, from the files to the answers, and say what they found."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from ...loaders.checkpoint import CONFIG_FILE, Checkpoint
from ...loaders.loading import UNCONVERTED
from ...schemas.errors import G4ConvertError, SourceNotFoundError, UsageError
from ..manifest import package_version
from ..memory import peak_resident
from ..source import Source, open_source
from . import files, tensors
from .behaviour import behaviour
from .checking import CheckFunction, Progress, silent, take_step
from .limits import Limits
from .numerics import numerics
from .outcome import Verification
from .reference import TRANSFORMERS, reference_checks
from .subject import Subject


def verify(
    model: str | Path,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    reference: str | None = None,
    limits: Limits | None = None,
    steps: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Verify a converted checkpoint; what is wrong with it is a finding, never an error.

    Args:
        model: its folder.
        source: the Hugging Face checkpoint that it was made from, a folder or `org/name` on the Hub.
        revision: a branch, tag or commit on the Hub.
        reference: what to compute with besides, `transformers`; it needs the source.
        limits: how far the conversion may be from its source.
        steps: names of the steps to take; None takes all.
        progress: called with a step, and with what is being looked at in it.

    Raises:
        G4ConvertError: the call is wrong: there is no checkpoint, or the source cannot be opened.
    """
    limits = limits or Limits()
    _check_call(source, revision, reference)
    limits.check()
    folder = Path(os.path.expanduser(model))  # noqa: PTH111  # Path.expanduser() fails on ~nobody
    _check_model(folder)
    opened = None if source is None else open_source(source, revision)
    subject, reported = Subject(folder, opened), set[str]()
    taken = tuple(
        take_step(name, checks, subject, reported, progress or silent)
        for name, checks in _steps(subject, limits, asked=reference is not None).items()
        if steps is None or name in steps
    )
    return Verification(folder.resolve().name, _name(opened), taken, peak_resident(), package_version())


def _steps(subject: Subject, limits: Limits, *, asked: bool) -> Mapping[str, Mapping[str, CheckFunction]]:
    """The checks by step, in the order in which they are taken; nothing is read yet."""
    return {
        "files": files.CHECKS,
        "tensors": tensors.CHECKS,
        "numerics": numerics(subject, limits),
        "reference": reference_checks(subject, limits, asked=asked),
        "behaviour": behaviour(subject),
    }


def _check_call(source: str | Path | None, revision: str | None, reference: str | None) -> None:
    if reference not in (None, TRANSFORMERS):
        raise UsageError(f"{reference!r} is no reference", where="--reference", fix=f"the only one is {TRANSFORMERS}")
    if reference is not None and source is None:
        raise UsageError("it computes with the source", where="--reference", fix="give --source too")
    if revision is not None and source is None:
        raise UsageError("it is the source's", where="--revision", fix="give --source too")


def _check_model(folder: Path) -> None:
    """Whether there is a converted checkpoint at all, sound or not."""
    if not folder.is_dir():
        raise SourceNotFoundError("there is no such folder", where=folder, fix="check the path")
    if not (folder / CONFIG_FILE).exists() and not any(folder.glob("*.safetensors")):
        raise UsageError(f"holds neither {CONFIG_FILE} nor weights", where=folder, fix="give the checkpoint's folder")
    names = _tensor_names(folder)
    if any(name.startswith(UNCONVERTED) for name in names) and not any(map(_is_converted, names)):
        raise UsageError("this is a Hugging Face checkpoint", where=folder, fix="verify what was converted from it")


def _tensor_names(folder: Path) -> list[str]:
    """Nothing where the headers cannot be read: the first step says why."""
    try:
        return list(Checkpoint.open(folder).tensors)
    except G4ConvertError:
        return []


def _is_converted(name: str) -> bool:
    return name.startswith("language_model.")


def _name(source: Source | None) -> str | None:
    """The source without the path to it, for reports are handed on."""
    if source is None or source.repo_id is None:
        return None if source is None else source.checkpoint.folder.resolve().name
    return source.repo_id if source.commit is None else f"{source.repo_id}@{source.commit}"
