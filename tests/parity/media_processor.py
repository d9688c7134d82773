"""The reference's way from a conversation to a prompt: chat template and processor, with media as it reads them.

The classes for clips, and 12B's for pictures, need torchvision. Two stand-ins take their place: frames and 12B's
pictures go through the Pillow backend, which is bit for bit what our own front end does.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from g4convert.tests.parity import media_reference
from g4convert.tests.support import CHECKPOINTS, read_json
from PIL import Image
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import default_sample_indices_fn, read_video_pyav

Message = Mapping[str, Any]
Media = Mapping[str, list[Any]]

FRAMES = 3
"""To a clip, in every sample."""


class FrameByFrame(BaseVideoProcessor):
    """What `Gemma4VideoProcessor` gives, for frames that have been chosen."""

    def __init__(self, pictures: Gemma4ImageProcessorPil) -> None:
        self._pictures = pictures

    def __call__(self, videos: Sequence[np.ndarray], video_metadata: Sequence[Any], **_: Any) -> dict[str, Any]:
        """Take clips [frames, height, width, 3]."""
        outputs = [self._pictures([Image.fromarray(frame) for frame in video], return_tensors="pt") for video in videos]
        return {
            "pixel_values_videos": torch.cat([output["pixel_values"] for output in outputs]),
            "video_position_ids": torch.cat([output["image_position_ids"] for output in outputs]),
            "num_frames_per_video": [len(video) for video in videos],
            "num_soft_tokens_per_video": [int(output["num_soft_tokens_per_image"][0]) for output in outputs],
            "video_metadata": list(video_metadata),
        }


@cache
def processor(kind: str) -> Any:
    """The processor of a sample."""
    folder = CHECKPOINTS / kind
    config = read_json(folder / "processor_config.json")
    listening = getattr(transformers, config["feature_extractor"]["feature_extractor_type"])
    pictures = Gemma4ImageProcessorPil(**_sizes(config["image_processor"]))
    return _assembled(config["processor_class"])(
        listening(**_arguments(config["feature_extractor"])),
        pictures,
        transformers.AutoTokenizer.from_pretrained(folder),
        FrameByFrame(pictures),
        chat_template=(folder / "chat_template.jinja").read_text(),
    )


def _assembled(name: str) -> type:
    """The processor's class, but without the check that its parts are of the classes that need torchvision."""
    return type(name, (getattr(transformers, name),), {"check_argument_for_proper_class": lambda *_: None})


def _arguments(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if not key.endswith("_type")}


def _sizes(part: Mapping[str, Any]) -> dict[str, Any]:
    """12B pools nothing: one of its patches is as large as a soft token."""
    arguments = _arguments(part)
    if part["image_processor_type"].startswith("Gemma4Unified"):
        side = arguments["patch_size"] * arguments["pooling_kernel_size"]
        arguments |= {"patch_size": side, "pooling_kernel_size": 1}
    return arguments


def processed(processor: Any, messages: Sequence[Message]) -> dict[str, torch.Tensor]:
    """The model's inputs for a conversation whose media are paths."""
    text = processor.apply_chat_template(_bare(messages), add_generation_prompt=True, tokenize=False)
    media = _media(messages)
    given = {_ARGUMENTS[kind]: [_READERS[kind](path) for path in paths] for kind, paths in media.items() if paths}
    if clips := given.pop("videos", None):
        frames, metadata = zip(*clips, strict=True)
        given |= {"videos": list(frames), "video_metadata": list(metadata), "do_sample_frames": False}
    output = processor(text=[text], add_special_tokens=False, return_tensors="pt", **given)
    return {name: torch.as_tensor(value) for name, value in output.items()}


def _bare(messages: Sequence[Message]) -> list[Message]:
    """The messages with nothing but the types of their media, for the template."""
    return [{**message, "content": _bare_content(message["content"])} for message in messages]


def _bare_content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [part if part["type"] == "text" else {"type": part["type"]} for part in content]


def _media(messages: Sequence[Message]) -> dict[str, list[Path]]:
    """The paths of media by kind, in the order of the conversation."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    parts = [part for content in contents for part in content]
    return {kind: [part["path"] for part in parts if part["type"] == kind] for kind in _ARGUMENTS}


def _sound(path: Path) -> np.ndarray:
    """The samples of a 16-bit WAV at 16 kHz."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        levels = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return (levels / 32768).astype(np.float32)


def _clip(path: Path) -> tuple[np.ndarray, Any]:
    """Frames and what transformers knows of them."""
    return read_video_pyav(str(path), partial(default_sample_indices_fn, num_frames=FRAMES))


_ARGUMENTS = {"image": "images", "audio": "audio", "video": "videos"}
_READERS = {"image": media_reference.opened, "audio": _sound, "video": _clip}
