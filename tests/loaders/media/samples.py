"""What the media tests share: the published settings, and the goldens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from g4convert.loaders.media import AudioSettings, ImageSettings, MediaSettings, VideoSettings, WaveformSettings
from g4convert.schemas.errors import MediaError
from g4convert.tests.media import make_media
from g4convert.tests.support import TESTS, read_json

MEDIA = make_media.HERE


def settings() -> tuple[ImageSettings, AudioSettings, VideoSettings]:
    """As published for E2B."""
    path = TESTS / "schemas" / "documents" / "processor_config" / "published.json"
    found = MediaSettings.from_dict(read_json(path))
    assert found.image is not None
    assert isinstance(found.audio, AudioSettings)
    assert found.video is not None
    return found.image, found.audio, found.video


IMAGE, AUDIO, VIDEO = settings()


def unified_settings() -> tuple[ImageSettings, WaveformSettings, VideoSettings]:
    """As published for the 12B."""
    path = TESTS / "schemas" / "documents" / "processor_config" / "unified-published.json"
    found = MediaSettings.from_dict(read_json(path))
    assert found.image is not None
    assert isinstance(found.audio, WaveformSettings)
    assert found.video is not None
    return found.image, found.audio, found.video


UNIFIED_IMAGE, WAVEFORM, UNIFIED_VIDEO = unified_settings()


def goldens(kind: str) -> dict[str, Any]:
    """The arrays `kind/...` of the golden file, by the rest of their names."""
    with np.load(MEDIA / "goldens.npz") as arrays:
        return {name.split("/", 1)[1]: arrays[name] for name in arrays.files if name.startswith(f"{kind}/")}


def one_line(caught: pytest.ExceptionInfo[MediaError], name: object) -> str:
    """The message, which is one line that names the file and says what to do."""
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(name))
    assert caught.value.fix
    return message
