"""Is every byte as `conversion.json` says? Small files, headers, and every tensor by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..manifest import MANIFEST
from .checking import Notes, SkipError
from .listing import few, missing_tensors
from .outcome import Finding
from .reading import file_digest, open_shards, shard_header, tensor_digest
from .subject import Subject


def _manifest(subject: Subject) -> Mapping[str, Any]:
    if subject.manifest is None:
        raise SkipError(f"another tool made the checkpoint: there is no {MANIFEST}")
    return subject.manifest


def small_files(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Every small file is there with its digest, and no other."""
    manifest = _manifest(subject)
    listed = {**manifest["sidecars"], **manifest["written"]}
    for name, digest in listed.items():
        yield from _small_file(subject.folder / name, digest)
    for name in sorted(subject.sidecars.keys() - listed.keys()):
        yield Finding(f"the file is not in {MANIFEST}", name, "remove it, or convert again")
    notes.figures["files"] = len(listed)


def _small_file(path: Path, digest: str) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding(f"the file is missing; {MANIFEST} lists it", path.name, "convert again")
    elif file_digest(path) != digest:
        yield Finding(f"the file was changed after the conversion: its SHA-256 is not that of {MANIFEST}", path.name)


def headers(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Every shard has its size and its header, and the tensors are those that are listed."""
    manifest = _manifest(subject)
    for name, entry in manifest["shards"].items():
        yield from _shard(subject.folder / name, entry)
    for path in subject.checkpoint.shards:
        if path.name not in manifest["shards"]:
            yield Finding(f"the shard is not in {MANIFEST}", path.name)
    yield from few(_listed_tensors(subject, manifest["tensors"]))
    notes.figures["tensors"] = len(manifest["tensors"])


def _shard(path: Path, entry: Mapping[str, Any]) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding(f"the shard is missing; {MANIFEST} lists it", path.name)
        return
    if (size := path.stat().st_size) != entry["bytes"]:
        yield Finding(f"the shard has {size} bytes, {MANIFEST} says {entry['bytes']}", path.name)
    elif hashlib.sha256(shard_header(path)).hexdigest() != entry["header_sha256"]:
        yield Finding(f"the shard's header is not the one whose SHA-256 is in {MANIFEST}", path.name)


def _listed_tensors(subject: Subject, listed: Mapping[str, Any]) -> Iterator[Finding]:
    tensors = subject.checkpoint.tensors
    yield from missing_tensors(listed.keys() - tensors.keys(), listed, f"{MANIFEST} lists")
    for name in sorted(tensors.keys() - listed.keys()):
        yield Finding(f"the tensor is not in {MANIFEST}", name)
    for name in sorted(listed.keys() & tensors.keys()):
        found = (tensors[name].dtype, list(tensors[name].shape))
        wanted = (listed[name]["dtype"], listed[name]["shape"])
        if found != wanted:
            yield Finding("is {} {}, {} says {} {}".format(*found, MANIFEST, *wanted), name)


def tensors(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Every tensor has its digest; a flipped bit shows here, with the tensor's name."""
    listed, checkpoint = _manifest(subject)["tensors"], subject.checkpoint
    infos = [info for info in checkpoint.tensors.values() if info.name in listed]
    changed = []
    with open_shards(checkpoint.shards) as files:
        for info in infos:
            notes.at(info.name)
            if tensor_digest(info, files) != listed[info.name]["sha256"]:
                changed.append(info.name)
    what = f"the tensor was changed after the conversion: its SHA-256 is not that of {MANIFEST}"
    yield from few(Finding(what, name) for name in changed)
    notes.figures.update(tensors=len(infos), bytes_read=sum(info.nbytes for info in infos))
