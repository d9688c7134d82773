"""Convert checkpoints of the published models' true size beside mlx-lm, mlx-vlm, and the disk itself, in one run.

    python tests/benchmarks/true_size.py FOLDER [--repeat N] [--cold] [--only NAME]... [--sparse-31b]

FOLDER holds the source between runs: E2B with random weights of the right scale, 10.2 GB, or with `--sparse-31b` the
31B as 62.5 GB of holes. Outputs go beside it and are removed (3.6 GB, 18.4 GB, and 10.2 GB for `cp`). It prints wall
time, CPU time, peak resident memory, and the wall time beside that of reading the file; with `--cold` the page cache
forgets the source before every command. `read` and `write` are the disk's part of a conversion alone: reading the
source, and writing and syncing as many bytes as our plain conversion writes. `cached` is our plain conversion of a
source that has just been read, which needs memory for all of it. The extra `parity` brings mlx-lm and
mlx-vlm; what is not installed is left out. mlx-lm converts the language model only.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from g4convert.convert import Options, prepare
from g4convert.loaders.checkpoint import TensorInfo, read_header
from g4convert.tests.support import WEIGHTS, config_of, e2b_header, headers, sparse_checkpoint

OURS = [sys.executable, "-c", "from g4convert.convert.cli import main; main()", "hf-to-mlx", "--quiet"]
PEERS = {"mlx-lm": "mlx_lm", "mlx-vlm": "mlx_vlm"}
READ = "import sys; stream = open(sys.argv[1], 'rb', 0)\nwhile stream.read(1 << 24): pass"
WRITE = """
import os, sys
block, left = os.urandom(1 << 24), int(sys.argv[2])
with open(sys.argv[1], "wb", 0) as stream:
    while left > 0:
        left -= stream.write(block[:left])
    os.fsync(stream.fileno())
"""
READING, CACHED = "read", "cached"
SAMPLE = Path(__file__).parents[1] / "checkpoints" / "e2b"
PLAIN = Options(recipe="uniform", rounding="min-max")

# Random numbers are made this many at a time.
BLOCK = 1 << 24


@dataclass(frozen=True)
class Measurement:
    """One finished command: seconds of wall and CPU time, bytes of peak resident memory."""

    wall: float
    cpu: float
    peak: int


def full_e2b(folder: Path) -> Path:
    """E2B with random weights, each tensor of unit gain; made once."""
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        sparse_checkpoint(folder, "E2B-published", e2b_header())
        _fill(folder / WEIGHTS)
        (folder / "made").touch()
    return folder


def sparse_31b(folder: Path) -> Path:
    """The 31B as holes; made once."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        tensors = {info.name: (info.dtype, info.shape) for info in headers(config_of("31B-published"))}
        sparse_checkpoint(folder, "31B-published", tensors)
    return folder


def _fill(file: Path) -> None:
    generator = np.random.default_rng(20)
    with file.open("r+b") as stream:
        for info in read_header(file).values():
            stream.seek(info.offset)
            for start in range(0, info.size, BLOCK):
                stream.write(_random(info, min(BLOCK, info.size - start), generator))
        os.fsync(stream.fileno())


def _random(info: TensorInfo, count: int, generator: np.random.Generator) -> bytes:
    """Weights of a matrix have a deviation of 1 / sqrt(columns); vectors and scalars are ones."""
    if len(info.shape) < 2:
        return np.ones(count, ml_dtypes.bfloat16).tobytes()
    values = generator.standard_normal(count, np.float32) * np.float32(info.shape[-1] ** -0.5)
    return values.astype(ml_dtypes.bfloat16).tobytes()


def commands(source: Path, output: Path) -> dict[str, list[str]]:
    """What is compared, by name."""
    found = {READING: [sys.executable, "-c", READ, str(source / WEIGHTS)]}
    found["write"] = [sys.executable, "-c", WRITE, str(output), str(prepare(source, PLAIN).plan.nbytes)]
    found["cp"] = ["cp", str(source / WEIGHTS), str(output)]
    found["plain"] = [*OURS, "--recipe", "uniform", "--rounding", "min-max", str(source), str(output)]
    found[CACHED] = found["plain"]
    found["default"] = [*OURS, str(source), str(output)]
    for name, module in PEERS.items():
        if importlib.util.find_spec(module) is not None:
            call = [sys.executable, "-m", module, "convert", "-q", "--hf-path", str(source), "--mlx-path", str(output)]
            found[name] = call
    return found


def compile_kernels(output: Path) -> None:
    """The first conversion after an installation compiles for some seconds, and later ones do not."""
    for rounding in ("min-max", "search"):
        measure([*OURS, "--rounding", rounding, str(SAMPLE), str(output)], output)


def measure(command: list[str], output: Path) -> Measurement:
    """Run a command to its end, and ask the kernel what it took."""
    _remove(output)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"failed with {process.returncode}: {' '.join(command)}\n{said.decode()[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    _remove(output)
    return Measurement(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def _remove(output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.unlink(missing_ok=True)


def forget(file: Path) -> None:
    """Drop a file from the page cache, after what is dirty has reached the disk."""
    os.sync()
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def remember(file: Path) -> None:
    """Fill the page cache with a file; the second pass tells the kernel that it is in use."""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", READ, str(file)], check=True)


def report(results: Mapping[str, list[Measurement]]) -> None:
    """The medians, and each command's wall time beside that of reading the file."""
    reading = statistics.median(one.wall for one in results[READING])
    print(f"\n{'':10}{'wall':>10}{'CPU':>10}{'peak':>10}{'of the read':>14}")
    for name, runs in results.items():
        wall, cpu = (statistics.median(getattr(one, field) for one in runs) for field in ("wall", "cpu"))
        peak = max(one.peak for one in runs) / 1e6
        print(f"{name:10}{wall:8.1f} s{cpu:8.1f} s{peak:7.0f} MB{wall / reading:14.2f}")


def main() -> None:
    """Commands take turns, so that a noisy machine is noisy for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="forget the source before every command")
    parser.add_argument("--sparse-31b", action="store_true")
    parser.add_argument("--only", action="append", help="of the commands, beside the read")
    arguments = parser.parse_args()
    source = sparse_31b(arguments.folder / "31b") if arguments.sparse_31b else full_e2b(arguments.folder / "e2b")
    output = arguments.folder / "out"
    compile_kernels(output)
    chosen = commands(source, output)
    if arguments.only:
        chosen = {name: command for name, command in chosen.items() if name in (READING, *arguments.only)}
    results: dict[str, list[Measurement]] = {name: [] for name in chosen}
    for _ in range(arguments.repeat):
        for name, command in chosen.items():
            if arguments.cold:
                forget(source / WEIGHTS)
            if name == CACHED:
                remember(source / WEIGHTS)
            results[name].append(measure(command, output))
            print(f"{name}: {results[name][-1]}", flush=True)
    report(results)


if __name__ == "__main__":
    main()
