"""Peak memory of `g4convert verify --source` beside the size of the source.

    python tests/benchmarks/verify_memory.py [--layers 48]

Writes a random checkpoint of the 26B-A4B's kind (hidden size 512, 64 experts, bfloat16, about 51 MB a layer) to a
temporary folder, converts it to 4 bits, verifies the output against it in a process of its own, and prints the peak
resident size of that process over the size of the source. Experts are many bytes for little arithmetic, so this takes
minutes even where mlx has no GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from g4convert.convert import hf_to_mlx
from g4convert.loaders.config import FULL, SLIDING, ModelConfig
from g4convert.tests.support import CHECKPOINTS, headers, read_json
from safetensors.numpy import save_file

KIND = "26b-a4b"
SIZES = {"hidden_size": 512, "num_experts": 64, "moe_intermediate_size": 256}


def write_source(folder: Path, layers: int) -> int:
    """A random checkpoint; the bytes of its weights."""
    shutil.copytree(CHECKPOINTS / KIND, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    document = read_json(folder / "config.json")
    types = [FULL if index % 6 == 5 else SLIDING for index in range(layers)]
    document["text_config"].update(SIZES, num_hidden_layers=layers, layer_types=types)
    (folder / "config.json").write_text(json.dumps(document))
    rng = np.random.default_rng(0)
    tensors = {}
    for info in headers(ModelConfig.from_dict(document)):
        scale = info.shape[-1] ** -0.5 if len(info.shape) > 1 else 0.2
        values = rng.standard_normal(info.shape, dtype=np.float32) * np.float32(scale)
        tensors[info.name] = (values if len(info.shape) > 1 else 1 + values).astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    return (folder / "model.safetensors").stat().st_size


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=48)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source, output = Path(name) / "source", Path(name) / "output"
        size = write_source(source, arguments.layers)
        hf_to_mlx(source, output)
        call = "from g4convert.convert.cli import main; main()"
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", call, "verify", str(output), "--source", str(source), "--json"],
            capture_output=True,
            check=False,
            text=True,
        )
        seconds = time.perf_counter() - start
        found = json.loads(done.stdout)
        peak = found["peak_memory"]
        print(
            f"source {size / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB: {peak / size:.2f} of it; {seconds:.0f} s; "
            f"{found['verdict']}"
        )


if __name__ == "__main__":
    main()
