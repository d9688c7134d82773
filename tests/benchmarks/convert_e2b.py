"""Convert a checkpoint of the published E2B's true size, with g4convert and with mlx-lm, in one run.

    python tests/benchmarks/convert_e2b.py [--repeat N] [--recipe NAME]

It prints wall time, CPU time, peak resident memory, and source bytes per second. The source is sparse (10.2 GB of
zeros) and read once before, so the disk's speed does not count for reading; 3.6 GB are written. mlx-lm converts the
language model only. The extra `parity` brings mlx-lm; without it only g4convert is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from g4convert.tests.support import WEIGHTS, sparse_e2b

OURS = [sys.executable, "-c", "from g4convert.convert.cli import main; main()", "hf-to-mlx"]
MLX_LM = [sys.executable, "-m", "mlx_lm", "convert", "-q"]


@dataclass(frozen=True)
class Measurement:
    """One finished command."""

    wall: float
    cpu: float
    peak: int

    def row(self, name: str, source_bytes: int) -> str:
        """One line of the table."""
        speed = source_bytes / self.wall / 1e9
        return f"{name:12s}{self.wall:9.1f} s{self.cpu:9.1f} s{self.peak / 1e6:10.0f} MB{speed:9.2f} GB/s"


def measure(command: list[str], output: Path) -> Measurement:
    """Run a command to its end, and ask the kernel what it took."""
    shutil.rmtree(output, ignore_errors=True)
    start = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"failed with {process.returncode}: {' '.join(command)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Measurement(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def read_once(file: Path) -> None:
    """Fill the page cache, so that the first command does not pay for all that follow."""
    with file.open("rb", buffering=0) as stream:
        while stream.read(1 << 24):
            pass


def commands(source: Path, output: Path, recipe: str) -> dict[str, list[str]]:
    """What is compared."""
    found = {"g4convert": [*OURS, str(source), str(output), "--recipe", recipe, "--quiet"]}
    if importlib.util.find_spec("mlx_lm") is not None:
        found["mlx-lm"] = [*MLX_LM, "--hf-path", str(source), "--mlx-path", str(output)]
    return found


def main() -> None:
    """Print a table; the commands take turns, so that a noisy machine is noisy for both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--recipe", default="uniform")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, output = sparse_e2b(Path(folder) / "source"), Path(folder) / "out"
        size = (source / WEIGHTS).stat().st_size
        read_once(source / WEIGHTS)
        print(f"{'':12s}{'wall':>11s}{'CPU':>11s}{'peak':>13s}{'read':>14s}")
        for _ in range(arguments.repeat):
            for name, command in commands(source, output, arguments.recipe).items():
                print(measure(command, output).row(name, size), flush=True)


if __name__ == "__main__":
    main()
