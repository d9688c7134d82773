"""What `g4convert serve` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...schemas.errors import UsageError
from ..media import MediaOptions, Reach
from ..media.fence import Fence


@dataclass(frozen=True)
class ServeOptions:
    """What a server does with requests.

    Attributes:
        api_key: what requests must bring; None for nothing.
        queue: how many requests may wait while one is answered.
        max_tokens: the most that an answer may have.
        hosts: whose media are fetched; none unless named.
        folders: whose files are read; none unless named.
        private: whether hosts may have addresses of this machine and of private networks.
        image_tokens, fps, max_frames, timestamps, split_audio: see `MediaOptions`; a request may say otherwise about
            the first three.
    """

    api_key: str | None = field(default=None, repr=False)
    queue: int = 16
    max_tokens: int = 4096
    hosts: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()
    private: bool = False
    image_tokens: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    timestamps: str = "true"
    split_audio: bool = False

    @property
    def media(self) -> MediaOptions:
        """How media are read, with bounds on where links lead."""
        return MediaOptions(
            image_tokens=self.image_tokens,
            fps=self.fps,
            max_frames=self.max_frames,
            timestamps=self.timestamps,
            split_audio=self.split_audio,
            reach=Reach(hosts=self.hosts, fence=Fence(self.folders, private=self.private)),
        )

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: an option is not what it may be.
        """
        if self.queue < 0:
            raise UsageError(f"{self.queue} requests cannot wait", where="--queue", fix="give 0 or more")
        if self.max_tokens < 1:
            raise UsageError(
                f"an answer cannot have {self.max_tokens} tokens", where="--max-tokens", fix="give 1 or more"
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise UsageError("is no text of printable ASCII characters", where="--api-key", fix="choose another")
        for folder in self.folders:
            if not folder.is_dir():
                raise UsageError("there is no such folder", where=f"--allow-folder {folder}", fix="check the path")
        self.media.check()
