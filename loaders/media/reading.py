"""A medium of any kind, read as a checkpoint and the user say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ...schemas.errors import ConfigError
from .audio import Audio, read_audio
from .config import WHERE, MediaSettings
from .image import Image, checked_budget, read_image
from .links import Reach
from .video import Video, check_options, read_video

Kind = Literal["image", "audio", "video"]
Medium = Image | Video | tuple[Audio, ...]
"""A picture, a clip, or a sound, which may have been split."""

PARTS: dict[Kind, str] = {"image": "image_processor", "audio": "feature_extractor", "video": "video_processor"}


@dataclass(frozen=True)
class MediaOptions:
    """What the user says about media; None leaves it to the checkpoint.

    Attributes:
        image_tokens: soft tokens to a picture, at most: 70, 140, 280, 560 or 1120.
        fps: frames of a clip a second.
        max_frames: frames of a clip, at most.
        timestamps: `true` or `index`, see `read_video`.
        split_audio: cut a sound that is too long into several clips instead of refusing it.
        reach: what links in a conversation may lead to.
    """

    image_tokens: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    timestamps: str = "true"
    split_audio: bool = False
    reach: Reach = field(default_factory=Reach)

    def check(self) -> None:
        """Refuse what has no meaning, whether or not there is a medium that it is for.

        Raises:
            UsageError: an option is not what it may be.
        """
        if self.image_tokens is not None:
            checked_budget(self.image_tokens)
        check_options(self.fps, self.max_frames, self.timestamps)


def read_medium(kind: Kind, source: Any, settings: MediaSettings, options: MediaOptions) -> Medium:
    """Read a picture, sound or clip.

    Raises:
        MediaError: it cannot be read or used.
        UsageError: an option is not what it may be.
        ConfigError: the checkpoint does not say how to read this kind.
    """
    if kind == "image" and settings.image is not None:
        return read_image(source, settings.image, soft_tokens=options.image_tokens)
    if kind == "audio" and settings.audio is not None:
        return read_audio(source, settings.audio, split=options.split_audio)
    if kind == "video" and settings.video is not None:
        return read_video(
            source, settings.video, fps=options.fps, max_frames=options.max_frames, timestamps=options.timestamps
        )
    raise ConfigError(f"found no {PARTS[kind]}", where=WHERE, fix="take the file of the base model")
