"""Fixed prompts for every modality, generated the same each time, so that two runs and two models can be compared.

The media are small worlds with known contents: a shape on a ground, beeps, a square that crosses the picture.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle, islice

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ...loaders.media import Kind, MediaOptions
from ...loaders.messages import Attachment
from ...loaders.prompt import Prompt, PromptFormat

# Small media, for a probe shall be cheap: 70 soft tokens to a picture, three frames to a clip.
CHEAP = MediaOptions(image_tokens=70, max_frames=3)
# How far beyond the sliding window the text probe goes.
BEYOND_WINDOW = 64
QUESTION = "What is this?"

SAMPLE_RATE = 16_000
WIDTH, HEIGHT = 384, 384

Colour = tuple[int, int, int]
RED, GREEN, WHITE, BLACK = (212, 32, 38), (28, 160, 52), (245, 245, 245), (12, 12, 12)


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
        prompt.prepare(QUESTION, attachments=[MAKERS[kind](variant) for kind in kinds], options=CHEAP)
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


def picture(variant: int) -> Attachment:
    """A square: red on white in the middle, or green on black at the left."""
    return Attachment("image", square((0.5, 0.25)[variant], (RED, GREEN)[variant], (WHITE, BLACK)[variant]))


def square(across: float, colour: Colour, ground: Colour) -> PIL.Image.Image:
    """A picture of a square whose centre is so far from the left."""
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:] = ground
    side = HEIGHT // 2
    left = int(across * WIDTH) - side // 2
    pixels[HEIGHT // 4 : HEIGHT // 4 + side, max(0, left) : left + side] = colour
    return PIL.Image.fromarray(pixels)


def sound(variant: int) -> Attachment:
    """Two high beeps, or three low ones."""
    return Attachment("audio", wav(beeps((2, 3)[variant], (2400.0, 400.0)[variant])))


def beeps(count: int, frequency: float) -> NDArray[np.float64]:
    """Tones of a tenth of a second, with as much silence after each."""
    length = SAMPLE_RATE // 10
    tone = 0.5 * np.sin(2 * np.pi * frequency / SAMPLE_RATE * np.arange(length))
    return np.tile(np.concatenate([tone, np.zeros(length)]), count)


def wav(samples: NDArray[np.float64]) -> bytes:
    """A sound file of 16 bits, mono, of samples from -1 to 1."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def clip(variant: int) -> Attachment:
    """A square that moves to the right, or to the left."""
    frames = [square(across, RED, WHITE) for across in (0.25, 0.5, 0.75)]
    return Attachment("video", mp4(frames if variant == 0 else frames[::-1]))


def mp4(frames: list[PIL.Image.Image]) -> bytes:
    """A clip of one frame a second, without loss."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264rgb", rate=1, options={"qp": "0", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


MAKERS: Mapping[Kind, Callable[[int], Attachment]] = {"image": picture, "audio": sound, "video": clip}
