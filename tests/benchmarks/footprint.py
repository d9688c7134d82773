"""The memory that `inspect` estimates beside the one that mlx takes, on random models of a size that counts.

    python tests/benchmarks/footprint.py [FOLDER] [--shapes dense experts] [--packings 4 8 plain] [--loads 256 ...]
                                         [--dtype float32]

The dense one has the shape of E2B, see `runner.py`, with 316 million parameters; the other one has experts, keys that
are values, and vision blocks, with 339 million. They are made in FOLDER, or in a temporary one, and used again where
FOLDER has them, with 4 and 8 bits and unquantized. Each measurement is a process of its own; what is printed is mlx's
own peak in MB, the estimate, and the one over the other.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from g4convert.convert import Options, hf_to_mlx
from g4convert.convert.inspection.parts import stored_weights
from g4convert.convert.inspection.subject import opened
from g4convert.loaders.config import FULL, SLIDING
from g4convert.loaders.footprint import CPU_BFLOAT16, CPU_FLOAT32
from g4convert.loaders.footprint.estimate import Estimator, Load
from g4convert.tests.benchmarks import runner
from g4convert.tests.loaders.peak import measured

DENSE = {**runner.TEXT, "intermediate_size": 2048}
EXPERTS = {
    "hidden_size": 640,
    "intermediate_size": 640,
    "num_hidden_layers": 12,
    "layer_types": [FULL if index % 6 == 5 else SLIDING for index in range(12)],
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 1,
    "head_dim": 128,
    "global_head_dim": 256,
    "num_experts": 32,
    "top_k_experts": 4,
    "moe_intermediate_size": 320,
    "sliding_window": 512,
    "vocab_size": 65536,
}
SIGHT = {"hidden_size": 576, "intermediate_size": 2152, "num_hidden_layers": 4, "num_attention_heads": 8}
SIGHT |= {"num_key_value_heads": 8, "head_dim": 72, "global_head_dim": 72}

PACKINGS: Mapping[str, Mapping[str, Any]] = {"4": {"bits": 4}, "8": {"bits": 8}, "plain": {"quantize": False}}
LOADS = {
    "256": Load(256),
    "2048": Load(2048),
    "8192": Load(8192),
    "2048, 4 frames": Load(2048, frames=4),
    "2048, 16 frames": Load(2048, frames=16),
    "2048, a picture": Load(2048, images=1, image_tokens=280),
    "2048, sound": Load(2048, sounds=(250,)),
}
RUNTIMES = {"float32": CPU_FLOAT32, "bfloat16": CPU_BFLOAT16}


SHAPES: Mapping[str, Callable[[Path], None]] = {
    "dense": partial(runner.write_source, text=DENSE),
    "experts": partial(runner.write_source, kind="26b-a4b", text=EXPERTS, vision=SIGHT),
}


def make(folder: Path, shape: str, packing: str) -> Path:
    """A converted checkpoint, made where it is missing."""
    source, output = folder / f"{shape}-source", folder / f"{shape}-{packing}"
    if not output.exists():
        if not source.exists():
            SHAPES[shape](source)
        hf_to_mlx(source, output, options=Options(**PACKINGS[packing]))
    return output


def compare(model: Path, loads: Sequence[str], dtype: str) -> Iterator[str]:
    """A line for each prompt that the model can take."""
    with opened(model) as subject:
        estimator = Estimator(subject.config, stored_weights(subject), RUNTIMES[dtype])
        for name in loads:
            load = LOADS[name]
            if load.sounds and subject.config.audio is None:
                continue
            found, estimate = measured(model, load, dtype), estimator.estimate(load).peak
            yield f"{model.name:16s} {name:18s}{found / 1e6:10.1f}{estimate / 1e6:10.1f}{estimate / found:8.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--packings", nargs="+", choices=PACKINGS, default=[*PACKINGS])
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=[*LOADS])
    parser.add_argument("--dtype", choices=RUNTIMES, default="float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{'model':16s} {'context':18s}{'measured':>10s}{'estimate':>10s}{'ratio':>8s}")
        for shape in arguments.shapes:
            for packing in arguments.packings:
                for line in compare(make(folder, shape, packing), arguments.loads, arguments.dtype):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
