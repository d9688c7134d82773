"""Time the towers at E2B's true size with random weights, ours beside mlx-vlm's with the same weights, in one run.

    python tests/benchmarks/towers.py [--vision-layers N] [--audio-layers N] [--repeat N]

One picture of 2520 patches, one clip of 1500 mel frames (15 s), float32 on mlx's default device. It prints the best
time of each and how far the outputs are from each other. Needs the extra `parity`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import g4convert.tests.parity.reference  # noqa: F401  # lets transformers import, as mlx-vlm does
import mlx.core as mx
import numpy as np
from g4convert.loaders.audio import AudioTower
from g4convert.loaders.config import AudioConfig, VisionConfig
from g4convert.loaders.module import Module
from g4convert.loaders.vision import VisionTower
from g4convert.tests.loaders.test_towers import E2B_AUDIO, E2B_VISION
from mlx_vlm.models.gemma4 import audio as peer_audio
from mlx_vlm.models.gemma4 import config as peer_config
from mlx_vlm.models.gemma4 import vision as peer_vision

WIDTH, HEIGHT, PATCH_FEATURES = 60, 42, 768
FRAMES, MEL_BINS = 1500, 128

Run = Callable[[], mx.array]


def randomize(module: Module) -> Module:
    """Make what mlx leaves at zero random too; clip bounds stay infinite."""
    module.apply(lambda x: x + 0.02 * mx.random.normal(x.shape) if x.ndim > 1 else x)
    return module


def vision(layers: int) -> tuple[Run, Run]:
    """Ours and mlx-vlm's, each giving [280, 768]."""
    document: dict[str, Any] = {**E2B_VISION, "num_hidden_layers": layers}
    ours = randomize(VisionTower(VisionConfig.from_dict(document)))
    theirs = peer_vision.VisionModel(peer_config.VisionConfig(**document))
    theirs.update(ours.parameters())
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    positions = mx.array(np.stack([columns, rows], axis=-1).reshape(1, -1, 2))
    patches = mx.random.uniform(shape=(1, WIDTH * HEIGHT, PATCH_FEATURES))
    return lambda: ours(patches, positions)[0], lambda: theirs(patches, positions)[0]


def audio(layers: int) -> tuple[Run, Run]:
    """Ours and mlx-vlm's, each giving [375, 1536]; their mask is True for padding."""
    document: dict[str, Any] = {**E2B_AUDIO, "num_hidden_layers": layers}
    ours = randomize(AudioTower(AudioConfig.from_dict(document)))
    theirs = peer_audio.AudioEncoder(peer_config.AudioConfig(**document))
    theirs.update(ours.parameters())
    features = mx.random.normal((1, FRAMES, MEL_BINS))
    mask = mx.ones((1, FRAMES), mx.bool_)
    return lambda: ours(features, mask)[0][0], lambda: theirs(features, ~mask)[0][0]


def compare(name: str, ours: Run, theirs: Run, repeat: int) -> None:
    """Print one line."""
    mine, one = best(ours, repeat)
    peer, other = best(theirs, repeat)
    error = float(mx.square(one - other).sum() / mx.square(other).sum())
    print(f"{name:8s} g4convert {mine:8.2f} s   mlx-vlm {peer:8.2f} s   ratio {mine / peer:.2f}   NMSE {error:.1e}")


def best(run: Run, repeat: int) -> tuple[float, mx.array]:
    """The shortest wall time in seconds, and the output."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        output = run()
        mx.eval(output)
        times.append(time.perf_counter() - start)
    return min(times), output


def main() -> None:
    """Time both towers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision-layers", type=int, default=16)
    parser.add_argument("--audio-layers", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    compare("vision", *vision(arguments.vision_layers), arguments.repeat)
    compare("audio", *audio(arguments.audio_layers), arguments.repeat)


if __name__ == "__main__":
    main()
