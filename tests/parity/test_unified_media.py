"""The 12B's front ends against transformers' processors on the same input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from g4convert.loaders.media import MediaSettings, WaveformSettings, read_image, read_video
from g4convert.loaders.media.audio import from_samples
from g4convert.schemas.defaults import processor_defaults
from g4convert.tests.media import make_media
from g4convert.tests.parity import media_reference as reference
from g4convert.tests.support import TESTS
from PIL import Image
from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import Gemma4UnifiedAudioFeatureExtractor

pytestmark = pytest.mark.parity

CONFIG = json.loads((TESTS / "schemas/documents/processor_config/unified-published.json").read_text())
SETTINGS = MediaSettings.from_dict(CONFIG)
WAVEFORM = SETTINGS.audio
MEDIA = make_media.HERE

LENGTHS = (*range(1, 1400), *range(1400, 480_001, 4999), 480_000)
# The torchvision backend resizes a byte at most two away from Pillow, and rescales in float32.
TOLERANCE, ROUNDING = 2 / 255 + 1e-6, 1e-7


def extractor(**changes: object) -> Gemma4UnifiedAudioFeatureExtractor:
    return Gemma4UnifiedAudioFeatureExtractor(**arguments("feature_extractor"), **changes)


def arguments(name: str) -> dict:
    """One part of the config, without its type."""
    return {key: value for key, value in CONFIG[name].items() if not key.endswith("_type")}


def test_frames_masks_and_counts_are_equal_for_each_length() -> None:
    longest, reads = make_media.noise(480_000), extractor()
    for length in LENGTHS:
        output = reads([longest[:length]], return_tensors="np")
        (ours,) = from_samples(longest[:length], WAVEFORM)
        assert np.array_equal(ours.features, output["input_features"][0]), length
        assert np.array_equal(ours.valid, output["input_features_mask"][0]), length
        assert ours.soft_tokens == output["input_features_mask"][0].sum(), length


@pytest.mark.parametrize("signal", make_media.SIGNALS)
def test_frames_are_bit_equal(signal: str) -> None:
    samples = make_media.SIGNALS[signal](7777)
    features = extractor()([samples], return_tensors="np")["input_features"][0]

    (ours,) = from_samples(samples, WAVEFORM)

    assert ours.features.dtype == features.dtype
    assert ours.features.tobytes() == features.tobytes()


def test_other_frame_sizes_count_as_in_the_reference() -> None:
    assert isinstance(WAVEFORM, WaveformSettings)
    samples = make_media.speech_like(5000)
    changed = Gemma4UnifiedAudioFeatureExtractor(feature_size=320, audio_samples_per_token=320)

    (ours,) = from_samples(samples, replace(WAVEFORM, audio_samples_per_token=320))

    assert np.array_equal(ours.features, changed([samples], return_tensors="np")["input_features"][0])


def test_the_table_of_defaults_is_that_of_the_sound_class() -> None:
    said = Gemma4UnifiedAudioFeatureExtractor().to_dict()

    assert processor_defaults("Gemma4UnifiedAudioFeatureExtractor").items() <= said.items()


class TestWithTorchvision:
    """The classes for pictures and clips need torchvision; they have no Pillow backend."""

    @pytest.fixture(autouse=True)
    def _torchvision(self) -> None:
        pytest.importorskip("torchvision")

    @pytest.mark.parametrize("size", [(640, 480), (97, 203), (1, 1), (2000, 100)], ids=str)
    def test_pictures_are_near(self, size: tuple[int, int]) -> None:
        patches, positions, count = seen(make_media.picture(*size))
        ours = read_image(make_media.picture(*size), SETTINGS.image)

        assert np.abs(patches - ours.patches).max() <= TOLERANCE
        assert np.array_equal(positions, ours.positions)
        assert count == ours.soft_tokens

    def test_a_picture_that_needs_no_resizing_is_equal(self) -> None:
        picture = make_media.picture(960, 672)
        patches, positions, _ = seen(picture)
        ours = read_image(picture, SETTINGS.image)

        assert np.abs(patches - ours.patches).max() <= ROUNDING
        assert np.array_equal(positions, ours.positions)

    @pytest.mark.parametrize("name", ["constant.mp4", "variable.mp4"])
    def test_clips_are_near(self, name: str) -> None:
        import transformers

        processor = transformers.Gemma4UnifiedVideoProcessor(**{**arguments("video_processor"), "num_frames": 6})
        _, _, frames = reference.sampled(MEDIA / name, num_frames=6)
        output = processor([frames], do_sample_frames=False, return_tensors="pt")
        ours = read_video(MEDIA / name, replace(SETTINGS.video, num_frames=6))

        count = ours.patches.shape[1]
        assert np.abs(output["pixel_values_videos"][:, :count].numpy() - ours.patches).max() <= TOLERANCE
        assert np.array_equal(output["video_position_ids"][:, :count], ours.positions)
        assert output["num_soft_tokens_per_video"].tolist() == [ours.soft_tokens]

    @pytest.mark.parametrize("kind", ["Image", "Video"])
    def test_the_table_of_defaults_is_that_of_the_classes(self, kind: str) -> None:
        import transformers

        name = f"Gemma4Unified{kind}Processor"
        made = getattr(transformers, name)()
        for key, value in processor_defaults(name).items():
            assert np.array_equal(getattr(made, key), value), key


def seen(picture: Image.Image) -> tuple[np.ndarray, np.ndarray, int]:
    """Patches and positions without the padding, and soft tokens."""
    import transformers

    output = transformers.Gemma4UnifiedImageProcessor(**arguments("image_processor"))(picture, return_tensors="pt")
    positions = output["image_position_ids"][0].numpy()
    real = (positions >= 0).all(axis=1)
    return output["pixel_values"][0].numpy()[real], positions[real], int(output["num_soft_tokens_per_image"][0])
