"""What a `processor_config.json` says about pictures, sounds and clips, as frozen dataclasses.

A field that the file leaves out takes transformers' class default (`schemas/processor_defaults.json`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from ...schemas.defaults import filled
from ...schemas.errors import ConfigError

WHERE = "processor_config.json"
SOFT_TOKENS = (70, 140, 280, 560, 1120)
"""The budgets that Gemma 4 was trained with."""

# How the names of the two families' processors begin, and the parts that have such a name.
TOWERS, UNIFIED = "Gemma4", "Gemma4Unified"
PARTS = ("image_processor", "feature_extractor", "video_processor")

Json = Mapping[str, Any]


def _taken(cls: type, document: Json) -> dict[str, Any]:
    """The entries of `document` that `cls` has a field for, lists as tuples."""
    names = {field.name for field in fields(cls)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items() if key in names}


@dataclass(frozen=True)
class ImageSettings:
    """How a picture becomes patches. Names are transformers'; sizes are in pixels.

    Attributes:
        patch_size: side of a patch.
        pooling_kernel_size: patches to a soft token, per side.
        max_soft_tokens: soft tokens to a picture, at most.
        resample: Pillow's number of the filter; 3 is bicubic.
        rescale_factor: what a byte is multiplied with.
    """

    patch_size: int
    pooling_kernel_size: int
    max_soft_tokens: int
    do_resize: bool
    resample: int
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read a complete `image_processor`, or `video_processor` for the subclass."""
        return cls(**_taken(cls, document))

    def merged(self) -> Self:
        """The same for `gemma4_unified`, which has no tower to pool: one patch is as large as a soft token."""
        return replace(self, patch_size=self.side_step, pooling_kernel_size=1)

    @property
    def side_step(self) -> int:
        """What both sides of a resized picture are multiples of: one soft token."""
        return self.patch_size * self.pooling_kernel_size


@dataclass(frozen=True)
class VideoSettings(ImageSettings):
    """How a clip becomes frames, and a frame becomes patches; `max_soft_tokens` is for each frame."""

    num_frames: int
    do_sample_frames: bool


@dataclass(frozen=True)
class AudioSettings:
    """How a sound becomes log-mel frames. Lengths are in samples, frequencies in hertz.

    Attributes:
        feature_size: mel bins.
        audio_seq_length: soft tokens to a clip, at most.
        mel_floor: what is added before the logarithm.
    """

    sampling_rate: int
    feature_size: int
    frame_length: int
    hop_length: int
    fft_length: int
    min_frequency: float
    max_frequency: float
    mel_floor: float
    dither: float
    input_scale_factor: float
    preemphasis: float
    preemphasis_htk_flavor: bool
    padding_side: str
    padding_value: float
    per_bin_mean: tuple[float, ...] | None
    per_bin_stddev: tuple[float, ...] | None
    audio_seq_length: int

    @classmethod
    def from_dict(cls, document: Json, audio_seq_length: int) -> Self:
        """Read a complete `feature_extractor`.

        Raises:
            ConfigError: fields contradict each other.
        """
        settings = cls(**_taken(cls, document), audio_seq_length=audio_seq_length)
        _check_audio(settings)
        return settings

    @property
    def pad_left(self) -> int:
        """Zeros before the first sample, so that the first frame is centred on it ("semicausal")."""
        return self.frame_length // 2

    @property
    def min_samples(self) -> int:
        """The shortest clip with a valid frame; a frame takes in one sample more than its length."""
        return self.frame_length + 1 - self.pad_left

    @property
    def max_samples(self) -> int:
        """The longest clip with at most `audio_seq_length` soft tokens, each of up to four frames."""
        return self.min_samples + 4 * self.audio_seq_length * self.hop_length - 1

    @property
    def max_seconds(self) -> float:
        """The length of `max_samples`."""
        return self.max_samples / self.sampling_rate


@dataclass(frozen=True)
class WaveformSettings:
    """How a sound becomes frames of samples as they are, for `gemma4_unified`. Lengths are in samples.

    Attributes:
        audio_seq_length: soft tokens to a clip, at most; one a frame.
    """

    sampling_rate: int
    audio_samples_per_token: int
    audio_seq_length: int

    @classmethod
    def from_dict(cls, document: Json, audio_seq_length: int) -> Self:
        """Read a complete `feature_extractor`."""
        return cls(**_taken(cls, document), audio_seq_length=audio_seq_length)

    @property
    def min_samples(self) -> int:
        """The shortest clip; what it lacks to a frame is silence."""
        return 1

    @property
    def max_samples(self) -> int:
        """The longest clip."""
        return self.audio_seq_length * self.audio_samples_per_token

    @property
    def max_seconds(self) -> float:
        """The length of `max_samples`."""
        return self.max_samples / self.sampling_rate


def _check_audio(settings: AudioSettings) -> None:
    at = "$.feature_extractor"
    if settings.frame_length > settings.fft_length:
        raise ConfigError(
            f"{at}.fft_length: found {settings.fft_length}, allowed is at least frame_length, {settings.frame_length}",
            where=WHERE,
        )
    if settings.min_frequency >= settings.max_frequency:
        raise ConfigError(
            f"{at}.min_frequency: found {settings.min_frequency}, allowed is less than max_frequency, "
            f"{settings.max_frequency}",
            where=WHERE,
        )
    for key in ("per_bin_mean", "per_bin_stddev"):
        values = getattr(settings, key)
        if values is not None and len(values) != settings.feature_size:
            raise ConfigError(
                f"{at}.{key}: found {len(values)} values, allowed is {settings.feature_size}, one a mel bin",
                where=WHERE,
            )


@dataclass(frozen=True)
class MediaSettings:
    """All of a `processor_config.json`; None where the file has no part for the modality."""

    image: ImageSettings | None
    audio: AudioSettings | WaveformSettings | None
    video: VideoSettings | None

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read a processor config that its schema has passed.

        Where pictures are configured and clips are not (the shortened form), clips are as published.

        Raises:
            ConfigError: fields contradict each other.
        """
        family = _family(document)
        image = _part(document, "image_processor", f"{family}ImageProcessor")
        audio = _part(document, "feature_extractor", f"{family}AudioFeatureExtractor")
        video = _part(document, "video_processor", f"{family}VideoProcessor")
        if video is None and image is not None:
            video = filled({}, f"{family}VideoProcessor")
        longest = filled(document, f"{family}Processor")["audio_seq_length"]
        pictures = None if image is None else ImageSettings.from_dict(image)
        clips = None if video is None else VideoSettings.from_dict(video)
        if family == UNIFIED:
            sounds = None if audio is None else WaveformSettings.from_dict(audio, longest)
            return cls(pictures and pictures.merged(), sounds, clips and clips.merged())
        return cls(pictures, None if audio is None else AudioSettings.from_dict(audio, longest), clips)


def _family(document: Json) -> str:
    """How the names of the processors begin."""
    names = [document.get("processor_class"), *map(_type_of, map(document.get, PARTS))]
    return UNIFIED if any(name is not None and name.startswith(UNIFIED) for name in names) else TOWERS


def _type_of(part: Json | None) -> str | None:
    return next((value for key, value in (part or {}).items() if key.endswith("_type")), None)


def _part(document: Json, name: str, kind: str) -> dict[str, Any] | None:
    part = document.get(name)
    if part is None:
        return None
    if (found := _type_of(part)) not in (None, kind):
        raise ConfigError(f"$.{name}: found {found}, allowed is {kind}, as the others are", where=WHERE)
    return filled(part, kind)
