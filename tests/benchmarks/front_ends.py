"""Time the media front ends beside transformers' processors, on the same files, in one run.

    python tests/benchmarks/front_ends.py [--repeat N]

A photograph of 12 megapixels (JPEG), thirty seconds of sound (WAV, 44.1 kHz, stereo), and a clip of ten seconds (H.264,
640 x 480, 30 frames a second). Each from the file to the arrays that the towers take; what is turned by turn is timed
alternately, and the best of each is printed. Transformers reads pictures with Pillow (its Pillow backend and its
torchvision one), sounds with FFmpeg through PyAV as here, for it has no reader that works without further packages, and
clips with its own `read_video_pyav`. Needs the extra `parity` and torchvision.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from g4convert.loaders.media import MediaSettings, read_audio, read_image, read_video
from g4convert.loaders.media.audio import read_samples
from g4convert.tests.parity import media_reference as reference
from PIL import Image
from transformers import Gemma4ImageProcessor, Gemma4ImageProcessorPil, Gemma4VideoProcessor
from transformers.image_utils import load_image
from transformers.video_utils import default_sample_indices_fn, read_video_pyav

SETTINGS: Any = MediaSettings.from_dict(reference.config())
RATE, SECONDS = 44_100, 30
FRAME_RATE, CLIP_SECONDS = 30, 10

Run = Callable[[], object]


def photograph(path: Path) -> Path:
    """Twelve megapixels of smooth noise."""
    small = np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)
    Image.fromarray(small).resize((4000, 3000), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def sound(path: Path) -> Path:
    """Half a minute of noise in two channels."""
    samples = (np.random.default_rng(1).standard_normal((RATE * SECONDS, 2)) * 3000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return path


def clip(path: Path) -> Path:
    """Ten seconds of a gradient that moves."""
    across = np.arange(640)[None, :, None] + np.zeros((480, 1, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for index in range(FRAME_RATE * CLIP_SECONDS):
            pixels = ((across + 3 * index) % 256).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def their_picture(processor: object, path: Path) -> object:
    return processor(load_image(str(path)), return_tensors="pt")  # type: ignore[operator]


def their_sound(path: Path) -> object:
    return reference.extractor()([read_samples(path, 16_000)], return_tensors="pt")


def their_clip(path: Any) -> object:
    read: Any = read_video_pyav
    frames, _ = read(str(path), partial(default_sample_indices_fn, num_frames=32, fps=None))
    processor = Gemma4VideoProcessor(**reference.part("video_processor"))
    return processor([frames], do_sample_frames=False, return_tensors="pt")


def best(runs: dict[str, Run], repeat: int) -> dict[str, float]:
    """The shortest wall time of each, in seconds, taken in turn."""
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(repeat):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def show(what: str, runs: dict[str, Run], repeat: int) -> None:
    """Print one line; ratios are ours over theirs."""
    ours, *theirs = best(runs, repeat).items()
    text = "".join(f"   {name} {seconds:.3f} s, ratio {ours[1] / seconds:.2f}" for name, seconds in theirs)
    print(f"{what:8s} g4convert {ours[1]:.3f} s{text}", flush=True)


def main() -> None:
    """Print three lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    pillow = Gemma4ImageProcessorPil(**reference.part("image_processor"))
    torchvision = Gemma4ImageProcessor(**reference.part("image_processor"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture, noise, film = photograph(folder / "p.jpg"), sound(folder / "s.wav"), clip(folder / "c.mp4")
        pictures: dict[str, Run] = {
            "g4convert": lambda: read_image(picture, SETTINGS.image),
            "transformers (Pillow)": lambda: their_picture(pillow, picture),
            "transformers (torchvision)": lambda: their_picture(torchvision, picture),
        }
        show("picture", pictures, repeat)
        sounds: dict[str, Run] = {
            "g4convert": lambda: read_audio(noise, SETTINGS.audio),
            "transformers": lambda: their_sound(noise),
        }
        show("sound", sounds, repeat)
        clips: dict[str, Run] = {
            "g4convert": lambda: read_video(film, SETTINGS.video),
            "transformers": lambda: their_clip(film),
        }
        show("clip", clips, repeat)


if __name__ == "__main__":
    main()
