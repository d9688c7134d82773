"""Converted checkpoints to break: a copy of one's own, its tensors as bits, its manifest, and a verification."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from g4convert.convert.manifest import MANIFEST
from g4convert.convert.source import Source, open_source
from g4convert.convert.verification import files, tensors
from g4convert.convert.verification.checking import CheckFunction, take_step
from g4convert.convert.verification.outcome import Check
from g4convert.convert.verification.subject import Subject
from g4convert.loaders.checkpoint import DTYPE_BYTES, INDEX_FILE, read_header
from g4convert.schemas.errors import G4ConvertError
from g4convert.tests.support import CHECKPOINTS, WEIGHTS, read_json
from numpy.typing import NDArray

CHECKS: Mapping[str, CheckFunction] = {**files.CHECKS, **tensors.CHECKS}
UNSIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored: unsigned integers in its shape."""

    dtype: str
    bits: NDArray[Any]


Tensors = dict[str, Stored]


class Piece:
    """A converted checkpoint of one's own; its files are links to the shared ones until they are changed."""

    def __init__(self, shared: Path, folder: Path) -> None:
        self.folder = Path(shutil.copytree(shared, folder, copy_function=os.link))

    def write(self, name: str, data: bytes) -> None:
        """Put a file in the place of the link."""
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).write_bytes(data)

    def edit_bytes(self, name: str, edit: Callable[[bytes], bytes]) -> None:
        self.write(name, edit((self.folder / name).read_bytes()))

    @contextmanager
    def json(self, name: str) -> Iterator[Any]:
        """A JSON file, to change in place."""
        document = read_json(self.folder / name)
        yield document
        self.write(name, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())

    @contextmanager
    def tensors(self) -> Iterator[Tensors]:
        """All tensors, to change in place; the shard follows, and the index where there is one."""
        shard = self.folder / WEIGHTS
        data = shard.read_bytes()
        found = {
            info.name: Stored(
                info.dtype,
                np.frombuffer(data, UNSIGNED[DTYPE_BYTES[info.dtype]], info.size, info.offset)
                .reshape(info.shape)
                .copy(),
            )
            for info in read_header(shard).values()
        }
        yield found
        self.write(WEIGHTS, shard_bytes(found))
        if not (self.folder / INDEX_FILE).exists():
            return
        with self.json(INDEX_FILE) as index:
            index["weight_map"] = dict.fromkeys(sorted(found), WEIGHTS)
            index["metadata"]["total_size"] = sum(stored.bits.nbytes for stored in found.values())

    def refresh_manifest(self) -> None:
        """Record every byte as it is now, as a converter that made the same mistake would."""
        with self.json(MANIFEST) as manifest:
            names = {path.name for path in self.folder.iterdir()} - {MANIFEST}
            for block in ("sidecars", "written"):
                manifest[block] = {name: self.digest(name) for name in manifest[block] if name in names}
            known = {*manifest["written"], *manifest["sidecars"]}
            added = {name for name in names - known if name.endswith((".json", ".jinja"))}
            manifest["sidecars"].update({name: self.digest(name) for name in added})
            shards = sorted(name for name in names if name.endswith(".safetensors"))
            manifest["shards"] = {name: self._shard_entry(name) for name in shards}
            before = manifest["tensors"]
            with suppress(G4ConvertError):  # a damaged shard has no entries
                manifest["tensors"] = {name: entry for shard in shards for name, entry in self._entries(shard, before)}

    def digest(self, name: str) -> str:
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()

    def _shard_entry(self, name: str) -> dict[str, Any]:
        data = (self.folder / name).read_bytes()
        header = data[: 8 + int.from_bytes(data[:8], "little")]
        return {"bytes": len(data), "header_sha256": hashlib.sha256(header).hexdigest()}

    def _entries(self, shard: str, before: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        data = (self.folder / shard).read_bytes()
        for info in read_header(self.folder / shard).values():
            digest = hashlib.sha256(data[info.offset : info.offset + info.nbytes]).hexdigest()
            fresh = {"sources": ["unknown"], "transform": None, "quantization": None}
            said = {"dtype": info.dtype, "shape": list(info.shape), "sha256": digest}
            yield info.name, {**before.get(info.name, fresh), **said}


def shard_bytes(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file, wide elements first."""
    order = sorted(tensors, key=lambda name: (-tensors[name].bits.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"} if metadata is None else metadata}
    position = 0
    for name in order:
        stored = tensors[name]
        span = [position, position := position + stored.bits.nbytes]
        header[name] = {"dtype": stored.dtype, "shape": list(stored.bits.shape), "data_offsets": span}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = (tensors[name].bits.tobytes() for name in order)
    return b"".join([len(text).to_bytes(8, "little"), text, *data])


def reshaped(stored: Stored, bits: NDArray[Any]) -> Stored:
    """A tensor with other elements."""
    return replace(stored, bits=np.array(bits, order="C"))


@cache
def source_of(kind: str) -> Source:
    """A sample, opened."""
    return open_source(CHECKPOINTS / kind)


def verify(folder: Path, kind: str | None, only: str | None = None) -> dict[str, Check]:
    """Every check of the two steps, or one, by name; `kind` is the sample to compare with."""
    subject = Subject(folder, None if kind is None else source_of(kind))
    reported: set[str] = set()
    checks = CHECKS if only is None else {only: CHECKS[only]}
    return {check.name: check for check in take_step("all", checks, subject, reported).checks}


def said(checks: Mapping[str, Check]) -> list[str]:
    """What all findings say."""
    return [str(finding) for check in checks.values() for finding in check.findings]
