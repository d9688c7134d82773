"""A picture, sound or clip -> arrays that a tower takes: numpy, Pillow and FFmpeg, no MLX.

Everything that a file can do wrong is one `MediaError`, one line that names it.
"""

from __future__ import annotations

from .audio import Audio, read_audio
from .config import AudioSettings, ImageSettings, MediaSettings, VideoSettings
from .image import Image, read_image
from .source import Source
from .video import Video, read_video

__all__ = [
    "Audio",
    "AudioSettings",
    "Image",
    "ImageSettings",
    "MediaSettings",
    "Source",
    "Video",
    "VideoSettings",
    "read_audio",
    "read_image",
    "read_video",
]
