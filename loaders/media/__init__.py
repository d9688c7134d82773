"""A picture, sound or clip -> arrays that a tower takes: numpy, Pillow and FFmpeg, no MLX.

Everything that a file can do wrong is one `MediaError`, one line that names it.
"""

from __future__ import annotations

from .audio import Audio, read_audio
from .config import AudioSettings, ImageSettings, MediaSettings, VideoSettings, WaveformSettings
from .image import Image, read_image
from .links import Reach
from .reading import Kind, MediaOptions, Medium, read_medium
from .source import Blob, Source
from .video import Video, read_video

__all__ = [
    "Audio",
    "AudioSettings",
    "Blob",
    "Image",
    "ImageSettings",
    "Kind",
    "MediaOptions",
    "MediaSettings",
    "Medium",
    "Reach",
    "Source",
    "Video",
    "VideoSettings",
    "WaveformSettings",
    "read_audio",
    "read_image",
    "read_medium",
    "read_video",
]
