"""Fixed prompts for every modality, generated the same each time, so that two runs and two models can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle, islice

from ...loaders.media import Kind, MediaOptions
from ...loaders.prompt import Prompt, PromptFormat
from .worlds import Beeps, Clip, Picture, World

# Small media, for a probe shall be cheap: 70 soft tokens to a picture, three frames to a clip.
CHEAP = MediaOptions(image_tokens=70, max_frames=3)
# How far beyond the sliding window the text probe goes.
BEYOND_WINDOW = 64
QUESTION = "What is this?"

# What is shown, and what is shown instead.
WORLDS: Mapping[Kind, tuple[World, World]] = {
    "image": (Picture("square", "red", "middle", "white"), Picture("square", "green", "left", "black")),
    "audio": (Beeps(2, "high"), Beeps(3, "low")),
    "video": (Clip("red", "right", "white"), Clip("red", "left", "white")),
}


@dataclass(frozen=True)
class Probe:
    """A prompt, and the same one with other media.

    Attributes:
        name: text, image, audio, video or combined.
        prompt: what the model is given.
        other: the same question about something else; None for text.
    """

    name: str
    prompt: Prompt
    other: Prompt | None = None


def make_probes(prompt: PromptFormat) -> list[Probe]:
    """The probes for what a model takes."""
    found = [Probe("text", Prompt(tuple(text_ids(prompt))))]
    kinds = list(prompt.marks)
    found += [_media_probe(prompt, kind, [kind]) for kind in kinds]
    return found if len(kinds) < 2 else [*found, _media_probe(prompt, "combined", kinds)]


def _media_probe(prompt: PromptFormat, name: str, kinds: Sequence[Kind]) -> Probe:
    one, other = (
        prompt.prepare(QUESTION, attachments=[WORLDS[kind][variant].attachment() for kind in kinds], options=CHEAP)
        for variant in (0, 1)
    )
    return Probe(name, one, other)


def text_ids(prompt: PromptFormat) -> list[int]:
    """The shipped text, or as much of it as goes beyond the window; a larger window has it several times."""
    ids = prompt.encode(shipped_text())
    return list(islice(cycle(ids), prompt.config.text.sliding_window + BEYOND_WINDOW))


def shipped_text() -> str:
    """A piece of plain prose, for perplexity."""
    return files(__package__).joinpath("prose.txt").read_text(encoding="utf-8")
