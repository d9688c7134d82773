"""The memory that mlx takes for a prompt, measured in a process of its own.

    python tests/loaders/peak.py FOLDER --context 2048 [--images N] [--image-tokens N] [--frames N] [--sound N]

Media are noise, and as large as they may be. It prints mlx's peak in bytes by stage, as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from g4convert.loaders import Sampling, load
from g4convert.loaders.config import ModelConfig, UnifiedAudioConfig, UnifiedVisionConfig, VisionConfig
from g4convert.loaders.encoding import Array, encode
from g4convert.loaders.footprint.estimate import Load
from g4convert.loaders.generation import Sampler, decode
from g4convert.loaders.media import Audio, Image, Video
from g4convert.loaders.merge import merge
from g4convert.loaders.prompt import Prompt

# The words of the samples' tokenizer; what stands before them is special.
FIRST_WORD, LAST_WORD = 300, 450
TOKENS = 4
MEL_BINS = 128


@dataclass(frozen=True)
class Noise:
    """Makes media for a model."""

    config: ModelConfig
    rng: np.random.Generator

    def prompt(self, asked: Load) -> Prompt:
        """A prompt with as many tokens and media."""
        ids = [*self._ids(asked)]
        words = self.rng.integers(FIRST_WORD, LAST_WORD, asked.context - len(ids))
        return Prompt(
            (*ids, *words.tolist()),
            images=tuple(Image(*self._patches(asked.image_tokens), asked.image_tokens) for _ in range(asked.images)),
            sounds=tuple(self._sound(count) for count in asked.sounds),
            videos=(self._clip(asked.frames, asked.frame_tokens),) if asked.frames else (),
        )

    def _ids(self, asked: Load) -> Iterator[int]:
        tokens = self.config.media_tokens
        for count, token in (
            *[(asked.image_tokens, tokens.image_token_id)] * asked.images,
            *[(asked.frame_tokens, tokens.video_token_id)] * asked.frames,
        ):
            yield from (tokens.boi_token_id or 0, *[token or 0] * count, tokens.eoi_token_id or 0)
        for count in asked.sounds:
            yield from (tokens.boa_token_id or 0, *[tokens.audio_token_id or 0] * count, tokens.eoa_token_id or 0)

    def _patches(self, tokens: int) -> tuple[Array, Array]:
        vision = self.config.vision
        assert isinstance(vision, VisionConfig | UnifiedVisionConfig)
        kernel = vision.pooling_kernel_size if isinstance(vision, VisionConfig) else 1
        rows = next(count for count in range(int(tokens**0.5), 0, -1) if tokens % count == 0)
        row, column = np.divmod(np.arange(tokens * kernel**2), tokens // rows * kernel)
        positions = np.stack([column, row], axis=-1).astype(np.int32)
        return self.rng.random((len(positions), vision.patch_features), np.float32), positions

    def _clip(self, frames: int, tokens: int) -> Video:
        patches, positions = zip(*(self._patches(tokens) for _ in range(frames)), strict=True)
        times, labels = tuple(map(float, range(frames))), ("00:00",) * frames
        return Video(np.stack(patches), np.stack(positions), tokens, np.arange(frames), times, labels)

    def _sound(self, tokens: int) -> Audio:
        audio = self.config.audio
        if isinstance(audio, UnifiedAudioConfig):
            count, width = tokens, audio.audio_embed_dim
        else:
            count, width = 4 * tokens, MEL_BINS
        return Audio(self.rng.random((count, width), np.float32), np.ones(count, np.bool_), tokens)


def measure(folder: Path, asked: Load, dtype: str) -> dict[str, int]:
    """Mlx's peak by stage, in this process."""
    peaks = {}

    def note(stage: str) -> None:
        peaks[stage] = mx.get_peak_memory()
        mx.reset_peak_memory()

    model = load(folder, dtype=dtype)
    note("loading")
    prompt = Noise(model.config, np.random.default_rng(0)).prompt(asked)
    features = encode(model.network, prompt)
    note("encoding")
    merged = merge(model.config, np.array(prompt.ids), features)
    sampler = Sampler.make(Sampling(), model.prompt, model.config.text.vocab_size)
    answer = decode(model.text, merged, sampler, count=TOKENS)
    next(answer)
    note("prefill")
    list(answer)
    note("decoding")
    return peaks


def measured(folder: Path, asked: Load, dtype: str = "float32") -> int:
    """Mlx's peak over all stages, in a process of its own."""
    call = [sys.executable, __file__, str(folder), "--dtype", dtype, "--context", str(asked.context)]
    call += ["--images", str(asked.images), "--image-tokens", str(asked.image_tokens), "--frames", str(asked.frames)]
    call += [word for count in asked.sounds for word in ("--sound", str(count))]
    done = subprocess.run(call, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    peaks: dict[str, int] = json.loads(done.stdout)
    return max(peaks.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--context", type=int, default=256)
    for option, default in (("--images", 0), ("--image-tokens", 70), ("--frames", 0)):
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--sound", type=int, action="append", default=[], help="soft tokens of a sound")
    found = parser.parse_args()
    asked = Load(found.context, found.images, found.image_tokens, found.frames, sounds=tuple(found.sound))
    print(json.dumps(measure(found.folder, asked, found.dtype)))


if __name__ == "__main__":
    main()
