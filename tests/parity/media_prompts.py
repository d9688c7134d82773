"""Prompts with media that are made up on the spot, for our network and for the reference alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from g4convert.convert.verification.reference import own_masks
from g4convert.loaders.media import Image, MediaSettings, Medium, Video
from g4convert.loaders.media.audio import from_samples
from g4convert.loaders.media.image import from_rgb
from g4convert.loaders.placeholders import expansion
from g4convert.loaders.prompt import Prompt, PromptFormat
from g4convert.tests.parity import reference
from g4convert.tests.support import CHECKPOINTS, read_json
from numpy.typing import NDArray
from PIL import Image as Pillow

Array = NDArray[Any]
Inputs = dict[str, torch.Tensor]

# Behind the longest medium of a batch, so that every medium has padding: a pooled square of patches.
PADDING = 9
NO_PATCH, NO_FRAME = -1, 0

# How the reference tells the tokens of a prompt apart.
TYPES = {"image_token_id": 1, "video_token_id": 2, "audio_token_id": 3}


def config(kind: str) -> Mapping[str, Any]:
    """The sample's `config.json`."""
    document: Mapping[str, Any] = read_json(CHECKPOINTS / kind / "config.json")
    return document


def hears(kind: str) -> bool:
    """Whether it takes sounds."""
    return config(kind).get("audio_config") is not None


def has_audio_tower(kind: str) -> bool:
    """Whether a tower hears the sounds; 12B takes them as they are."""
    return hears(kind) and config(kind)["model_type"] == "gemma4"


def opens_blocks(kind: str) -> bool:
    """Whether the tokens of a picture see each other on sliding layers."""
    return config(kind)["text_config"]["use_bidirectional_attention"] == "vision"


def has_ple(kind: str) -> bool:
    """Whether it has per-layer embeddings."""
    return config(kind)["text_config"].get("hidden_size_per_layer_input", 0) > 0


@dataclass(frozen=True)
class Picture:
    """Noise on a ground of its own, of so many soft tokens by so many."""

    columns: int
    rows: int
    kind: str = "image"

    def make(self, settings: MediaSettings, seed: int) -> Image:
        """As the front end makes it."""
        unscaled = Pillow.fromarray(_pixels(self.columns, self.rows, settings, seed))
        # At its own size: resized to the budget, no picture would be smaller than the window.
        return from_rgb(unscaled, replace(settings.image, do_resize=False), "picture")


@dataclass(frozen=True)
class Sound:
    """So many samples of noise that swells."""

    samples: int
    kind: str = "audio"

    def make(self, settings: MediaSettings, seed: int) -> tuple[Any, ...]:
        """As the front end makes it."""
        noise = np.random.default_rng(seed).standard_normal(self.samples)
        return from_samples((noise * np.linspace(0.01, 0.3, self.samples)).astype(np.float32), settings.audio)


@dataclass(frozen=True)
class Clip:
    """So many pictures, one a second."""

    columns: int
    rows: int
    frames: int
    kind: str = "video"

    def make(self, settings: MediaSettings, seed: int) -> Video:
        """As the front end makes it of a file."""
        frames = [Picture(self.columns, self.rows).make(settings, 1000 * seed + i) for i in range(self.frames)]
        return Video(
            patches=np.stack([frame.patches for frame in frames]),
            positions=np.stack([frame.positions for frame in frames]),
            soft_tokens=frames[0].soft_tokens,
            indices=np.arange(self.frames),
            timestamps=tuple(map(float, range(self.frames))),
            labels=tuple(f"00:{second:02d}" for second in range(self.frames)),
        )


Part = int | Picture | Sound | Clip
"""What a prompt is made of; a number is so many tokens of text."""


def _pixels(columns: int, rows: int, settings: MediaSettings, seed: int) -> Array:
    assert settings.image is not None
    side, rng = settings.image.side_step, np.random.default_rng(seed)
    ground, noise = rng.integers(0, 200, 3), rng.integers(0, 56, (rows * side, columns * side, 3))
    return (ground + noise).astype(np.uint8)


def build(kind: str, form: PromptFormat, parts: Sequence[Part], seed: int = 0) -> Prompt:
    """A prompt of these parts, in this order; another seed makes other text and other media."""
    settings = MediaSettings.from_dict(form.processor)
    ids: list[int] = []
    media: dict[str, list[Any]] = {"image": [], "audio": [], "video": []}
    for number, part in enumerate(parts, 100 * seed):
        if isinstance(part, int):
            ids += reference.random_ids(kind, part, number).tolist()
            continue
        medium = part.make(settings, number)
        ids += _tokens(form, part.kind, medium)
        media[part.kind] += medium if isinstance(medium, tuple) else [medium]
    return Prompt(tuple(ids), tuple(media["image"]), tuple(media["audio"]), tuple(media["video"]))


def _tokens(form: PromptFormat, kind: Any, medium: Medium) -> list[int]:
    ids: list[int] = form.tokenizer.encode(expansion(medium, form.marks[kind]), add_special_tokens=False).ids
    return ids


def joined(prompts: Sequence[Prompt]) -> Prompt:
    """One prompt that says what these say one after the other."""
    return Prompt(
        ids=sum((prompt.ids for prompt in prompts), ()),
        images=sum((prompt.images for prompt in prompts), ()),
        sounds=sum((prompt.sounds for prompt in prompts), ()),
        videos=sum((prompt.videos for prompt in prompts), ()),
    )


def reference_inputs(kind: str, prompt: Prompt) -> Inputs:
    """What the reference's `forward` takes, of the very arrays that our front ends made."""
    frames = [frame for video in prompt.videos for frame in zip(video.patches, video.positions, strict=True)]
    images = [(image.patches, image.positions) for image in prompt.images]
    ids = np.array(prompt.ids)
    inputs = {"input_ids": ids[None], "mm_token_type_ids": token_types(kind, ids)[None]}
    if images:
        inputs |= _stacked(images, ("pixel_values", "image_position_ids"), NO_PATCH)
    if frames:
        inputs |= _stacked(frames, ("pixel_values_videos", "video_position_ids"), NO_PATCH)
        inputs["num_frames_per_video"] = np.array([len(video.patches) for video in prompt.videos])
    if prompt.sounds:
        sounds = [(sound.features, sound.valid) for sound in prompt.sounds]
        inputs |= _stacked(sounds, ("input_features", "input_features_mask"), NO_FRAME)
    return {name: _tensor(array) for name, array in inputs.items()}


def token_types(kind: str, ids: Array) -> Array:
    """For each token what it stands for, see `TYPES`."""
    return sum(number * (ids == config(kind)[key]) for key, number in TYPES.items())


def _stacked(media: Sequence[tuple[Array, Array]], names: tuple[str, str], padding: int) -> dict[str, Array]:
    values, places = zip(*media, strict=True)
    return {names[0]: _padded(values, 0), names[1]: _padded(places, padding)}


def _padded(arrays: Iterable[Array], padding: int) -> Array:
    """[n, ...] each, to [B, longest n and more, ...]."""
    arrays = list(arrays)
    longest = max(map(len, arrays)) + PADDING
    rows = [np.pad(a, [(0, longest - len(a)), *[(0, 0)] * (a.ndim - 1)], constant_values=padding) for a in arrays]
    return np.stack(rows)


def _tensor(array: Array) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.long() if array.dtype == np.int32 else tensor


def reference_logits(model: torch.nn.Module, inputs: Inputs) -> Array:
    """Logits float32 [L, vocabulary] of one pass without a cache."""
    with torch.no_grad():
        logits = model(**inputs | own_masks(model, inputs), use_cache=False).logits
    return logits[0].numpy()


def reference_continuation(
    model: torch.nn.Module, inputs: Inputs, count: int, suppressed: Sequence[int] = ()
) -> list[int]:
    """The `count` tokens that follow greedily, none of them suppressed, whether or not stop tokens are among them."""
    tokens: list[int] = []
    step: Inputs = inputs | own_masks(model, inputs)
    past = None
    with torch.no_grad():
        while len(tokens) < count:
            output = model(**step, past_key_values=past, use_cache=True)
            logits = output.logits[:, -1:]
            logits[..., list(suppressed)] = -torch.inf
            past, token = output.past_key_values, logits.argmax(-1)
            tokens.append(int(token))
            step = {"input_ids": token}
    return tokens
