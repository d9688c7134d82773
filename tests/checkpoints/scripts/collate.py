"""Batches for training, made without the processors' cost per call, and the slow true path to compare them with."""

from functools import cache

import numpy as np
import torch
import torchvision_on_cpu  # noqa: F401 (before transformers imports torchvision)
from numpy.typing import NDArray
from tasks import COARSE_SIZE, FRAMES, Medium, Sample
from tokenizer import token_id
from transformers import BatchFeature, ProcessorMixin
from transformers.video_utils import VideoMetadata

PATCH, POOL, PATCHES = 16, 3, 630
BLOCK = PATCH * POOL
IGNORED = -100
Batch = dict[str, torch.Tensor]
TYPES = {"<|image|>": 1, "<|video|>": 2, "<|audio|>": 3}


def is_coarse(picture: NDArray) -> bool:
    """Tell whether the picture has the small canvas of the coarse phase."""
    return picture.shape[-3:-1] == COARSE_SIZE


def tiles(picture: NDArray, side: int, most: int) -> tuple[NDArray, NDArray]:
    """Return the square tiles [most, values] of the picture and their (x, y) positions [most, 2], padded.

    A coarse picture has half the tiles on either axis, spreads them over the positions of the full grid, and is not
    padded.
    """
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    cut = picture.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(rows * columns, -1)
    pixels = cut.astype(np.float32) * np.float32(1 / 255)
    y, x = np.divmod(np.arange(rows * columns), columns)
    places = np.stack([x, y], -1)
    if is_coarse(picture):
        return pixels, places * 2
    missing = ((0, most - len(pixels)), (0, 0))
    return np.pad(pixels, missing), np.pad(places, missing, constant_values=-1)


def patches(picture: NDArray) -> tuple[NDArray, NDArray]:
    """Return the patches [n, 768] that a vision tower takes, and their positions."""
    return tiles(picture, PATCH, PATCHES)


def blocks(picture: NDArray) -> tuple[NDArray, NDArray]:
    """Return the blocks [n, 6912] that the kind without towers takes, one a soft token, and their positions."""
    return tiles(picture, BLOCK, PATCHES // POOL**2)


class Collator:
    """Makes a batch of conversations with their media; the labels are the answers and the token that ends them."""

    opening = "<|turn>model\n"
    cut = staticmethod(patches)

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor
        self._tokenize = cache(lambda text: processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def __call__(self, samples: list[Sample]) -> Batch:
        """Return the model's inputs and labels."""
        batch, sound_tokens = self.sounds([m for s in samples for m in s.media if m.kind == "audio"])
        counts = iter(sound_tokens)
        rows = [self._row(sample, counts) for sample in samples]
        batch |= self._texts(rows) | self._pictures(samples)
        return batch

    def sounds(self, media: list[Medium]) -> tuple[Batch, list[int]]:
        """Return the model's inputs for the sounds and how many soft tokens each has."""
        if not media:
            return {}, []
        features = self.processor.feature_extractor([medium.data for medium in media], return_tensors="pt")
        mask = features["input_features_mask"]
        batch = {"input_features": features["input_features"].float(), "input_features_mask": mask}
        return batch, self.sound_tokens(mask)

    def sound_tokens(self, mask: torch.Tensor) -> list[int]:
        """Return how many soft tokens the audio tower makes of each sound."""
        return mask[:, ::2][:, ::2].sum(-1).tolist()

    def _placeholders(self, medium: Medium, sound_tokens: int) -> list[int]:
        """Return the ids that stand for the medium."""
        if medium.kind == "audio":
            return [token_id("<|audio>"), *[token_id("<|audio|>")] * sound_tokens, token_id("<audio|>")]
        pictures = medium.data if medium.kind == "video" else medium.data[None]
        tokens = pictures[0].shape[0] * pictures[0].shape[1] // BLOCK**2
        framed = [token_id("<|image>"), *[token_id(f"<|{medium.kind}|>")] * tokens, token_id("<image|>")]
        if medium.kind == "image":
            return framed
        times = [self._tokenize(f"{' ' if second else ''}00:{second:02d} ") for second in range(len(pictures))]
        return [token for time in times for token in (*time, *framed)]

    def _row(self, sample: Sample, sound_tokens: "iter") -> tuple[list[int], list[int]]:
        """Return the conversation's ids and labels."""
        ids, labels = [token_id("<bos>")], [IGNORED]

        def add(tokens: list[int], learned: bool = False) -> None:
            ids.extend(tokens)
            labels.extend(tokens if learned else [IGNORED] * len(tokens))

        for index, (question, answer) in enumerate(sample.turns):
            add(self._tokenize("<|turn>user\n"))
            for medium in sample.media if index == 0 else []:
                add(self._placeholders(medium, next(sound_tokens) if medium.kind == "audio" else 0))
            add(self._tokenize(question.strip()))
            add(self._tokenize(f"<turn|>\n{self.opening}"))
            add(self._tokenize(f"{answer}<turn|>"), learned=True)
            add(self._tokenize("\n"))
        return ids, labels

    def _texts(self, rows: list[tuple[list[int], list[int]]]) -> Batch:
        """Pad the rows on the right."""
        longest = max(len(ids) for ids, _ in rows)

        def padded(lists: list[list[int]], value: int) -> torch.Tensor:
            return torch.tensor([tokens + [value] * (longest - len(tokens)) for tokens in lists])

        ids = padded([ids for ids, _ in rows], token_id("<pad>"))
        types = sum(kind * (ids == token_id(token)).long() for token, kind in TYPES.items())
        return {
            "input_ids": ids,
            "attention_mask": padded([[1] * len(ids) for ids, _ in rows], 0),
            "mm_token_type_ids": types,
            "labels": padded([labels for _, labels in rows], IGNORED),
        }

    def _pictures(self, samples: list[Sample]) -> Batch:
        media = [medium for sample in samples for medium in sample.media]
        batch: Batch = {}
        for kind, values, places in (
            ("image", "pixel_values", "image_position_ids"),
            ("video", "pixel_values_videos", "video_position_ids"),
        ):
            chosen = [medium.data for medium in media if medium.kind == kind]
            pictures = [picture for data in chosen for picture in (data if kind == "video" else [data])]
            if pictures:
                pixels, positions = zip(*map(self.cut, pictures), strict=True)
                batch[values], batch[places] = torch.tensor(np.stack(pixels)), torch.tensor(np.stack(positions))
            if chosen and kind == "video":
                batch["num_frames_per_video"] = torch.tensor([len(data) for data in chosen])
        return batch


class UnifiedCollator(Collator):
    """Makes batches for the kind without towers; every answer comes after an empty thought."""

    opening = "<|turn>model\n<|channel>thought\n<channel|>"
    cut = staticmethod(blocks)

    def sound_tokens(self, mask: torch.Tensor) -> list[int]:
        """Return the number of frames of each sound."""
        return mask.sum(-1).tolist()


def processed(processor: ProcessorMixin, sample: Sample) -> BatchFeature:
    """Return the prompt of one sample through the chat template and the processors, as a user would make it."""
    prompt = processor.apply_chat_template(sample.messages(), add_generation_prompt=True, tokenize=False)
    media = {kind: [m.data for m in sample.media if m.kind == kind] for kind in ("image", "audio", "video")}
    arguments = {}
    if media["image"]:
        arguments["images"] = media["image"]
    if media["audio"]:
        arguments["audio"] = media["audio"]
    if media["video"]:
        arguments["videos"] = [torch.tensor(clip).permute(0, 3, 1, 2) for clip in media["video"]]
        timing = VideoMetadata(total_num_frames=FRAMES, fps=1.0, frames_indices=list(range(FRAMES)), duration=FRAMES)
        arguments["video_metadata"] = [timing] * len(media["video"])
    return processor(text=[prompt], add_special_tokens=False, return_tensors="pt", **arguments)


def compare(collator: Collator, sample: Sample) -> None:
    """Raise if the fast batch of one sample differs from what the processors make of it."""
    fast, true = collator([sample]), processed(collator.processor, sample)
    length = true["input_ids"].shape[1]
    for name, expected in true.items():
        found = fast[name][:, :length] if name in ("input_ids", "attention_mask", "mm_token_type_ids") else fast[name]
        assert found.shape == expected.shape, name
        assert (found.float() - expected.float()).abs().max() < 1e-6, name
