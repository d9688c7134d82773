"""The Xet storage, which the client prefers to Git LFS: `hf_xet` keeps it in a folder, and this reads it back."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .messages import Answer, HubError, reply
from .state import Hub

EXPIRY = 2**33
HEADER = 48
ROW = 48
VERIFIED, EXTENDED = 1 << 31, 1 << 30


def address(folder: Path) -> str:
    """What `hf_xet` takes for a server, and keeps its objects below."""
    return f"local://{folder}"


def admit(hub: Hub) -> Answer:
    """Tell the client where the storage is, and give it a pass; a Hub without one knows no such endpoint."""
    if hub.xet is None:
        raise HubError(404, "This Hub has no Xet storage")
    headers = {"X-Xet-Cas-Url": address(hub.xet), "X-Xet-Access-Token": "pass", "X-Xet-Token-Expiration": str(EXPIRY)}
    return reply({"casUrl": address(hub.xet), "exp": EXPIRY, "accessToken": "pass"}, headers=headers)


def fetch(hub: Hub, sha256: str) -> bytes | None:
    """The content with this SHA-256, if the client put it there."""
    if hub.xet is None:
        return None
    for shard in hub.xet.glob("xet/xorbs/shards/*.mdb"):
        name = dict(_files(shard.read_bytes())).get(sha256)
        if name:
            return _read(hub.xet, name)
    return None


def _files(shard: bytes) -> Iterator[tuple[str, str]]:
    """SHA-256 and Xet's own name of every file that a shard tells of."""
    position = HEADER
    while shard[position : position + 32] != b"\xff" * 32:
        flags, rows = struct.unpack_from("<II", shard, position + 32)
        end = position + ROW * (1 + rows + (rows if flags & VERIFIED else 0))
        if flags & EXTENDED:
            yield _name(shard, end), _name(shard, position)
        position = end + (ROW if flags & EXTENDED else 0)


def _name(shard: bytes, position: int) -> str:
    """A hash is four little-endian numbers, and its name their hexadecimal digits."""
    return "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", shard, position))


def _read(folder: Path, name: str) -> bytes:
    import hf_xet  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "content"
        with hf_xet.XetSession().new_file_download_group(
            endpoint=address(folder), token="pass", token_expiry_unix_secs=EXPIRY
        ) as group:
            group.start_download_file(hf_xet.XetFileInfo(name, None), str(target))
        return target.read_bytes()
