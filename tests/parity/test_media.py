"""The media front ends against transformers' processors on the same input."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from g4convert.loaders.media import MediaSettings, read_image, read_video
from g4convert.loaders.media.audio import from_samples
from g4convert.loaders.media.config import SOFT_TOKENS
from g4convert.loaders.media.image import target_size
from g4convert.loaders.media.mel import count_soft_tokens, log_mel
from g4convert.loaders.media.video import label
from g4convert.schemas.defaults import processor_defaults
from g4convert.tests.media import make_media
from g4convert.tests.parity import media_reference as reference
from PIL import Image

pytestmark = pytest.mark.parity

SETTINGS = MediaSettings.from_dict(reference.config())
IMAGE, AUDIO, VIDEO = SETTINGS.image, SETTINGS.audio, SETTINGS.video
MEDIA = make_media.HERE

# Every length up to 4000, and a few up to the longest clip; the mask depends on the length alone.
EACH_LENGTH = (*range(161, 4001), *range(4001, 480001, 997), 480000)
SOME_LENGTHS = (161, 320, 321, 1000, 7777, 16000, 48001, 100_000, 479_999, 480_000)


@pytest.mark.parametrize("signal", make_media.SIGNALS)
@pytest.mark.parametrize("length", SOME_LENGTHS)
def test_mel_is_bit_equal(signal: str, length: int) -> None:
    samples = make_media.SIGNALS[signal](length)
    features, valid = reference.mel(samples)

    (ours,) = from_samples(samples, AUDIO)

    assert ours.features.dtype == features.dtype
    assert ours.features.tobytes() == features.tobytes()
    assert ours.valid.tolist() == valid.tolist()


def test_features_masks_and_counts_are_equal_for_each_length() -> None:
    longest = make_media.noise(480_000)
    for length in EACH_LENGTH:
        features, valid = reference.mel(longest[:length])
        ours, mask = log_mel(longest[:length], AUDIO)
        assert np.array_equal(mask, valid), length
        assert count_soft_tokens(mask) == reference.audio_tokens(valid), length
        assert np.array_equal(ours, features), length


@pytest.mark.parametrize(
    "changes",
    [
        {"preemphasis": 0.97},
        {"preemphasis": 0.97, "preemphasis_htk_flavor": False},
        {"input_scale_factor": 2.5},
        {"mel_floor": 1e-5},
        {"min_frequency": 125.0, "max_frequency": 7600.0},
        {"feature_size": 80},
        {"padding_side": "left"},
        {"padding_side": "left", "padding_value": 0.25},
        {"per_bin_mean": list(np.linspace(-3, 1, 128)), "per_bin_stddev": list(np.linspace(0.5, 2, 128))},
    ],
    ids="-".join,
)
def test_every_parameter_of_the_mel_counts_as_in_the_reference(changes: dict) -> None:
    samples = make_media.speech_like(5000)
    features, valid = reference.mel(samples, **changes)
    fixed = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}

    ours, mask = log_mel(samples, replace(AUDIO, **fixed))

    assert np.array_equal(ours, features)
    assert np.array_equal(mask, valid)
    assert not np.array_equal(ours, reference.mel(samples)[0])


def test_the_longest_clip_has_as_many_soft_tokens_as_the_reference_allows() -> None:
    (clip,) = from_samples(make_media.silence(AUDIO.max_samples), AUDIO)

    assert clip.soft_tokens == AUDIO.audio_seq_length == 750
    assert AUDIO.max_samples >= 480_000


MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "HSV", "LAB", "RGBa", "RGBX", "I", "F")
SIZES = ((1, 1), (640, 480), (768, 768), (333, 1001), (20_000, 10), (10, 20_000))


def in_mode(mode: str, size: tuple[int, int]) -> Image.Image:
    """Noise, with an alpha channel where the mode has one."""
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 4), np.uint8)
    rgba = Image.fromarray(pixels)
    if mode == "LAB":
        return Image.merge(mode, rgba.convert("RGB").split())
    if mode in ("RGBA", "LA", "RGBa"):
        return rgba.convert(mode)
    return rgba.convert("P").convert(mode) if mode == "PA" else rgba.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_patches_and_positions_are_bit_equal_to_the_pillow_backend(mode: str, size: tuple[int, int]) -> None:
    picture = in_mode(mode, size)
    patches, positions, tokens = reference.image(picture)

    ours = read_image(picture, IMAGE)

    assert ours.patches.dtype == patches.dtype
    assert ours.patches.tobytes() == patches.tobytes()
    assert np.array_equal(ours.positions, positions)
    assert ours.soft_tokens == tokens


@pytest.mark.parametrize("budget", SOFT_TOKENS)
@pytest.mark.parametrize("name", ["picture.png", "transparent.png", "palette.gif", "turned.jpg"])
def test_files_are_bit_equal_at_each_budget(name: str, budget: int) -> None:
    patches, positions, tokens = reference.image(reference.opened(MEDIA / name), budget)

    ours = read_image(MEDIA / name, IMAGE, soft_tokens=budget)

    assert ours.patches.tobytes() == patches.tobytes()
    assert np.array_equal(ours.positions, positions)
    assert ours.soft_tokens == tokens <= budget


@pytest.mark.parametrize(
    "changes",
    [
        {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"resample": 2},
        {"rescale_factor": 1 / 127.5},
        {"patch_size": 14},
        {"pooling_kernel_size": 2},
    ],
    ids="-".join,
)
def test_every_parameter_of_a_picture_counts_as_in_the_reference(changes: dict) -> None:
    picture = in_mode("RGB", (300, 200))
    patches, positions, tokens = reference.image(picture, **changes)
    fixed = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}

    ours = read_image(picture, replace(IMAGE, **fixed))

    assert ours.patches.tobytes() == patches.tobytes()
    assert np.array_equal(ours.positions, positions)
    assert ours.soft_tokens == tokens
    assert not np.array_equal(ours.patches, reference.image(picture)[0])


def test_target_sizes_are_equal_for_random_and_extreme_sizes() -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

    rng = np.random.default_rng(11)
    sides = (10 ** rng.uniform(0, 6, (12_000, 2))).astype(int)
    near = rng.integers(1, 4000, (4000, 2))
    for height, width in (*sides.tolist(), *near.tolist(), (1, 1), (10, 20_000), (20_000, 10), (1, 10**9)):
        for budget in SOFT_TOKENS:
            expected = get_aspect_ratio_preserving_size(height, width, 16, budget * 9, 3)
            assert target_size(height, width, replace(IMAGE, max_soft_tokens=budget)) == expected, (height, width)


@pytest.mark.parametrize("name", ["constant.mp4", "variable.mp4"])
@pytest.mark.parametrize("count", [1, 2, 5, 7, 11])
def test_frames_and_index_timestamps_are_the_references(name: str, count: int) -> None:
    indices, timestamps, frames = reference.sampled(MEDIA / name, num_frames=count)

    ours = read_video(MEDIA / name, replace(VIDEO, num_frames=count), timestamps="index")

    assert np.array_equal(ours.indices, indices)
    assert ours.timestamps == tuple(timestamps)
    for frame, patches in zip(frames, ours.patches, strict=True):
        assert np.array_equal(patches, reference.image(Image.fromarray(frame), budget=70)[0])


@pytest.mark.parametrize("fps", [1, 2, 3.5, 24])
def test_frames_a_second_are_the_references(fps: float) -> None:
    indices, _, _ = reference.sampled(MEDIA / "constant.mp4", fps=fps)

    ours = read_video(MEDIA / "constant.mp4", VIDEO, fps=fps, max_frames=1000)

    assert np.array_equal(ours.indices, indices)


def test_on_a_constant_rate_true_times_are_the_references() -> None:
    _, timestamps, _ = reference.sampled(MEDIA / "constant.mp4", num_frames=32)

    assert read_video(MEDIA / "constant.mp4", VIDEO).timestamps == pytest.approx(timestamps, abs=1e-9)


def test_labels_are_the_references() -> None:
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
    from transformers.video_utils import VideoMetadata

    processor = Gemma4Processor.__new__(Gemma4Processor)
    processor.boi_token, processor.video_token, processor.eoi_token = "[", "v", "]"
    metadata = VideoMetadata(total_num_frames=9, fps=0.7, frames_indices=[0, 1, 41, 42, 43, 2519, 5000])
    inputs = {"num_soft_tokens_per_video": [1], "video_metadata": [metadata]}

    expected = re.findall(r"(\S+) \[v\]", processor.replace_video_token(inputs, 0))

    assert [label(seconds) for seconds in metadata.timestamps] == expected


def test_the_table_of_defaults_is_that_of_the_classes() -> None:
    """The file of a processor that is made without arguments says what its class defaults are."""
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor

    audio = Gemma4AudioFeatureExtractor().to_dict()
    assert processor_defaults("Gemma4AudioFeatureExtractor").items() <= audio.items()

    image = reference.Gemma4ImageProcessorPil()
    for key, value in processor_defaults("Gemma4ImageProcessor").items():
        assert np.array_equal(getattr(image, key), value), key


def test_the_table_of_defaults_is_that_of_the_processor() -> None:
    import inspect

    parameters = inspect.signature(reference.Gemma4Processor.__init__).parameters
    for key, value in processor_defaults("Gemma4Processor").items():
        assert parameters[key].default == value


# What the torchvision backend makes of a byte may differ by two: the two backends of transformers differ by as much.
TOLERANCE = 2 / 255 + 1e-6


@pytest.fixture
def torchvision() -> Callable[[str], type]:
    """Transformers' classes that need torchvision."""
    pytest.importorskip("torchvision")
    import transformers

    return lambda name: getattr(transformers, name)


@pytest.mark.parametrize("size", [(640, 480), (97, 203), (1, 1), (2000, 100)], ids=str)
def test_pictures_are_near_the_torchvision_backend(torchvision: Callable[[str], type], size: tuple[int, int]) -> None:
    picture = make_media.picture(*size)
    output = torchvision("Gemma4ImageProcessor")(**reference.part("image_processor"))(picture, return_tensors="pt")

    ours = read_image(picture, IMAGE)

    count = len(ours.patches)
    assert np.abs(output["pixel_values"][0][:count].numpy() - ours.patches).max() <= TOLERANCE
    assert np.array_equal(output["image_position_ids"][0][:count], ours.positions)
    assert output["num_soft_tokens_per_image"].tolist() == [ours.soft_tokens]


@pytest.mark.parametrize("name", ["constant.mp4", "variable.mp4"])
def test_clips_are_near_the_video_processor(torchvision: Callable[[str], type], name: str) -> None:
    """Its own reading of files needs torchcodec, so it gets the frames that transformers reads with PyAV."""
    processor = torchvision("Gemma4VideoProcessor")(**reference.part("video_processor", num_frames=6))
    _, _, frames = reference.sampled(MEDIA / name, num_frames=6)
    output = processor([frames], do_sample_frames=False, return_tensors="pt")

    ours = read_video(MEDIA / name, replace(VIDEO, num_frames=6))

    count = ours.patches.shape[1]
    assert np.abs(output["pixel_values_videos"][:, :count].numpy() - ours.patches).max() <= TOLERANCE
    assert np.array_equal(output["video_position_ids"][:, :count], ours.positions)
    assert output["num_soft_tokens_per_video"].tolist() == [ours.soft_tokens]
    assert output["num_frames_per_video"].tolist() == [6]


def test_the_table_of_defaults_is_that_of_the_video_processor(torchvision: Callable[[str], type]) -> None:
    processor = torchvision("Gemma4VideoProcessor")()
    for key, value in processor_defaults("Gemma4VideoProcessor").items():
        assert np.array_equal(getattr(processor, key), value), key


def test_a_clip_with_too_few_frames_raises_in_the_reference_and_not_here(tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    path.write_bytes(make_media.clip(5))

    with pytest.raises(ValueError, match="exceeds total_num_frames"):
        reference.sampled(path, num_frames=32)
    assert read_video(path, VIDEO).indices.tolist() == [0, 1, 2, 3, 4]
