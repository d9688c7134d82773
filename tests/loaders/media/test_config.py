"""Processor configs as dataclasses: the published form, the shortened one, and what they leave out."""

from __future__ import annotations

from typing import Any

import pytest
from g4convert.loaders.media import (
    AudioSettings,
    MediaSettings,
    WaveformSettings,
    read_audio,
    read_image,
    read_video,
)
from g4convert.schemas.defaults import left_out
from g4convert.schemas.errors import ConfigError
from g4convert.tests.support import CHECKPOINTS, TESTS, read_json

DOCUMENTS = TESTS / "schemas" / "documents" / "processor_config"


def document(name: str) -> Any:
    return read_json(DOCUMENTS / f"{name}.json")


def test_the_published_form_says_everything() -> None:
    published = document("published")
    settings = MediaSettings.from_dict(published)

    assert settings.image is not None
    assert settings.video is not None
    assert isinstance(settings.audio, AudioSettings)
    assert (settings.image.max_soft_tokens, settings.video.max_soft_tokens, settings.video.num_frames) == (280, 70, 32)
    assert (settings.audio.frame_length, settings.audio.hop_length, settings.audio.fft_length) == (320, 160, 512)
    assert (settings.audio.min_samples, settings.audio.max_samples, settings.audio.max_seconds) == (161, 480_160, 30.01)
    assert left_out(published["feature_extractor"], "Gemma4AudioFeatureExtractor") == {}


def test_the_shortened_form_is_filled_up_to_the_published_one() -> None:
    assert MediaSettings.from_dict(document("short")) == MediaSettings.from_dict(document("published"))


def test_what_the_shortened_form_leaves_out_is_known() -> None:
    missing = left_out(document("short")["feature_extractor"], "Gemma4AudioFeatureExtractor")

    assert missing["mel_floor"] == 0.001
    assert missing["frame_length"] == 320
    assert "feature_size" not in missing  # spelled `num_mel_filters` there


def test_mel_filters_by_their_other_name_count() -> None:
    short = document("short")
    short["feature_extractor"]["num_mel_filters"] = 80
    audio = MediaSettings.from_dict(short).audio

    assert isinstance(audio, AudioSettings)
    assert audio.feature_size == 80


def test_the_samples_own_budgets_are_read() -> None:
    settings = MediaSettings.from_dict(read_json(CHECKPOINTS / "e2b" / "processor_config.json"))

    assert settings.image is not None
    assert settings.video is not None
    assert (settings.image.max_soft_tokens, settings.video.num_frames) == (70, 3)


def test_a_missing_part_is_a_missing_modality() -> None:
    sound_only = {"feature_extractor": document("published")["feature_extractor"], "image_processor": None}
    settings = MediaSettings.from_dict(sound_only)

    assert settings.image is settings.video is None
    assert settings.audio is not None
    assert settings.audio.audio_seq_length == 750


def test_the_12bs_patches_are_as_large_as_a_soft_token() -> None:
    settings = MediaSettings.from_dict(document("unified-published"))

    assert settings.image is not None
    assert settings.video is not None
    assert (settings.image.patch_size, settings.image.side_step, settings.image.max_soft_tokens) == (48, 48, 280)
    assert (settings.video.patch_size, settings.video.max_soft_tokens, settings.video.num_frames) == (48, 70, 32)
    assert isinstance(settings.audio, WaveformSettings)
    assert (settings.audio.min_samples, settings.audio.max_samples, settings.audio.max_seconds) == (1, 480_000, 30.0)


def test_the_parts_of_both_families_do_not_mix() -> None:
    mixed = {**document("published"), "feature_extractor": document("unified-published")["feature_extractor"]}

    with pytest.raises(ConfigError, match="image_processor: found Gemma4ImageProcessor, allowed is Gemma4Unified"):
        MediaSettings.from_dict(mixed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fft_length": 256}, r"fft_length: found 256, allowed is at least frame_length, 320"),
        ({"min_frequency": 8000.0}, r"min_frequency: found 8000.0, allowed is less than max_frequency, 8000.0"),
        ({"per_bin_mean": [0.0, 1.0]}, r"per_bin_mean: found 2 values, allowed is 128, one a mel bin"),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], message: str) -> None:
    published = document("published")
    published["feature_extractor"].update(change)

    with pytest.raises(ConfigError, match=message):
        MediaSettings.from_dict(published)


def test_the_samples_media_are_read_with_the_samples_settings() -> None:
    settings = MediaSettings.from_dict(read_json(CHECKPOINTS / "e2b" / "processor_config.json"))
    folder = CHECKPOINTS / "questions"
    readers: dict[str, Any] = {".png": read_image, ".wav": read_audio, ".mp4": read_video}
    parts: dict[str, Any] = {".png": settings.image, ".wav": settings.audio, ".mp4": settings.video}
    files = [path for path in sorted(folder.iterdir()) if path.suffix in readers]

    assert len(files) > 20
    for path in files:
        assert readers[path.suffix](path, parts[path.suffix])
