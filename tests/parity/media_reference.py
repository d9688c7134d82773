"""The reference for media: transformers' processors, with the published E2B's processor config."""

from __future__ import annotations

import json
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
from g4convert.tests.support import CHECKPOINTS, TESTS
from PIL import Image, ImageOps

sys.path.append(str(CHECKPOINTS / "scripts"))

import torchvision_on_cpu  # noqa: F401 (before transformers imports torchvision)
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.video_utils import default_sample_indices_fn, read_video_pyav

PUBLISHED = TESTS / "schemas" / "documents" / "processor_config" / "published.json"


@cache
def config() -> dict:
    return json.loads(PUBLISHED.read_text())


def part(name: str, **changes: object) -> dict:
    """One part of the config, without its type, as the arguments of its class."""
    return {key: value for key, value in config()[name].items() if not key.endswith("_type")} | changes


@cache
def extractor() -> Gemma4AudioFeatureExtractor:
    return Gemma4AudioFeatureExtractor(**part("feature_extractor"))


def mel(samples: np.ndarray, **changes: object) -> tuple[np.ndarray, np.ndarray]:
    """Features [F, 128] and mask [F]; a list makes the reference take the samples for one clip of many."""
    found = Gemma4AudioFeatureExtractor(**part("feature_extractor", **changes)) if changes else extractor()
    output = found([samples])
    return output["input_features"][0], output["input_features_mask"][0]


def audio_tokens(mask: np.ndarray) -> int:
    """The number of placeholders that the processor itself writes."""
    processor = Gemma4Processor.__new__(Gemma4Processor)
    processor.boa_token, processor.audio_token, processor.eoa_token = "", "a", ""
    return len(processor.replace_audio_token({"input_features_mask": [mask]}, 0))


def opened(path: Path) -> Image.Image:
    """A picture, upright; what transformers' `load_image` does before it drops the alpha channel."""
    with Image.open(path) as file:
        return ImageOps.exif_transpose(file)


def image(picture: Image.Image, budget: int = 280, **changes: object) -> tuple[np.ndarray, np.ndarray, int]:
    """Patches and positions without the padding, and soft tokens."""
    processor = Gemma4ImageProcessorPil(**part("image_processor", max_soft_tokens=budget, **changes))
    output = processor(picture, return_tensors="np")
    positions = output["image_position_ids"][0]
    real = (positions >= 0).all(axis=1)
    return output["pixel_values"][0][real], positions[real], output["num_soft_tokens_per_image"][0]


def sampled(
    path: Path, num_frames: int | None = None, fps: float | None = None
) -> tuple[np.ndarray, list[float], np.ndarray]:
    """Indices, timestamps and frames [frames, height, width, 3] of a clip."""
    sample = partial(default_sample_indices_fn, num_frames=num_frames, fps=fps)
    frames, metadata = read_video_pyav(str(path), sample)
    return metadata.frames_indices, metadata.timestamps, frames
