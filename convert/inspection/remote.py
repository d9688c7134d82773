"""A checkpoint on the Hub, of which only small files and the headers of the weights are fetched.

The headers go into files as long as the ones on the Hub, with a hole where the weights are; so what opens a folder here
finds every fault that it would find in the checkpoint itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...loaders.checkpoint import CONFIG_FILE, INDEX_FILE, LARGEST_CONFIG, LARGEST_HEADER, LARGEST_INDEX
from ...schemas.errors import ConfigError, HeaderError, HubError
from ..hub_errors import asking_hub
from ..manifest import MANIFEST
from ..source import PROCESSOR, Located

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub import HfApi

SHARD = ".safetensors"
# What is read beside the weights, and how large it may be; a manifest names every tensor.
SMALL_FILES: Mapping[str, int] = {
    CONFIG_FILE: LARGEST_CONFIG,
    PROCESSOR: LARGEST_CONFIG,
    INDEX_FILE: LARGEST_INDEX,
    MANIFEST: 20_000_000,
}
# Bytes of the first request: the header of most files, and more of none than a user would notice.
FIRST_READ = 1 << 18
TIMEOUT = 20


@dataclass(frozen=True)
class Remote:
    """A repository at one commit."""

    api: HfApi
    repo_id: str
    commit: str
    sizes: Mapping[str, int]

    def fetch(self, folder: Path) -> None:
        """Put its small files and its headers into a folder.

        Raises:
            ConfigError: a small file is too large.
            HeaderError: a header is too long.
            HubError: the Hub does not send parts of files.
        """
        for name, largest in SMALL_FILES.items():
            if name in self.sizes:
                self._fetch_whole(name, largest, folder)
        for name, size in self.sizes.items():
            if name.endswith(SHARD) and "/" not in name:
                self._fetch_header(name, size, folder / name)

    def _fetch_whole(self, name: str, largest: int, folder: Path) -> None:
        if self.sizes[name] > largest:
            raise ConfigError(f"the file has {self.sizes[name]:,} bytes, at most {largest:,} are read", where=name)
        shutil.copyfile(self.api.hf_hub_download(self.repo_id, name, revision=self.commit), folder / name)

    def _fetch_header(self, name: str, size: int, to: Path) -> None:
        start = self._read(name, 0, min(size, FIRST_READ))
        end = 8 + int.from_bytes(start[:8], "little")
        if end > 8 + LARGEST_HEADER:
            raise HeaderError(f"the header has {end - 8:,} bytes, {LARGEST_HEADER:,} at most", where=name)
        if len(start) < min(end, size):
            start += self._read(name, len(start), min(end, size) - len(start))
        with to.open("wb") as stream:
            stream.write(start[:end])
            stream.truncate(size)

    def _read(self, name: str, offset: int, count: int) -> bytes:
        """Some bytes of a file."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        if not count:
            return b""
        url = hf_hub_url(self.repo_id, name, revision=self.commit, endpoint=self.api.endpoint)
        headers = {**build_hf_headers(), "Range": f"bytes={offset}-{offset + count - 1}"}
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            hf_raise_for_status(response)
            return self._body(response, name, count)

    def _body(self, response: Response, name: str, count: int) -> bytes:
        """What was asked for, and no byte more: who does not know ranges would send gigabytes."""
        if response.status_code != 206:  # partial content
            raise HubError(
                f"the Hub sends only the whole of {name}", where=self.repo_id, fix="download it, and give the folder"
            )
        body = b""
        for piece in response.iter_bytes():
            body += piece
            if len(body) > count:
                break
        if len(body) != count:
            raise HubError(f"the Hub sent other bytes of {name} than asked for", where=self.repo_id, fix="try again")
        return body


@contextmanager
def headers_of(repo_id: str, revision: str | None) -> Iterator[Located]:
    """A folder with a repository's small files and headers, for as long as it is looked at.

    Raises:
        SourceNotFoundError: the Hub cannot be reached, or does not show such a repository.
        G4ConvertError: as `Remote.fetch`.
    """
    with TemporaryDirectory(prefix="g4convert-") as temporary:
        with asking_hub(repo_id):
            remote = _open(repo_id, revision)
            remote.fetch(Path(temporary))
        yield Located(Path(temporary), remote.repo_id, remote.commit)


def _open(repo_id: str, revision: str | None) -> Remote:
    from huggingface_hub import HfApi

    api = HfApi()
    info: Any = api.model_info(repo_id, revision=revision, files_metadata=True)
    return Remote(api, repo_id, info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})
