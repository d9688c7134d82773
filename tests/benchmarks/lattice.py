"""Time the search for lattices beside plain quantization, and count what fits by accident.

    python tests/benchmarks/lattice.py [--repeat N] [--groups N] [--draws N]

Speed: seconds per gigabyte of bfloat16 weights, on one core, the best of N runs; all that is compared is timed in turn.
The last line is what it costs to refuse a tensor of the same size, as a share of quantizing it. Accidents: of groups of
continuous weights with so many values other than zero, how many fit a lattice, by rounding once and within half a unit
more on either side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from unittest.mock import patch

import numpy as np
from g4convert.convert import lattice, lattice_kernels, quantize
from g4convert.convert.lattice import fit_groups, is_lattice, sampled_rows, solve
from g4convert.convert.lattice_kernels import EXACT, UNPLACED
from g4convert.convert.recipe import LATTICE
from g4convert.tests.convert.lattice_cases import CASES, rounded
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Run = Callable[[], object]
Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]

COLUMNS = 2048
TIMED = ("largest / 8", "largest / 7.5", "up to level 3", "float32 step, largest / 7.5", "ternary", "groups of zeros")
REFUSED = ("gaussian", "student t3", "noise of 5 % of a step")
CONTINUOUS: Mapping[str, Draw] = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "student t3": lambda rng, shape: rng.standard_t(3, shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
}
FEW_VALUES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)


def matrix(name: str, groups: int) -> Floats:
    """A case's weights, repeated."""
    return np.resize(CASES[name].make(), (groups * 32 // COLUMNS, COLUMNS))


def refuse(weights: Floats) -> bool:
    """What a planner does: read some rows, decide."""
    return is_lattice(weights[sampled_rows(*weights.shape)], "BF16")


def best(runs: Mapping[str, Run], repeat: int) -> dict[str, float]:
    """The shortest wall time of each, in seconds, taken in turn."""
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(repeat + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def speeds(groups: int, repeat: int) -> dict[str, float]:
    """Seconds per case."""
    runs: dict[str, Run] = {name: partial(solve, matrix(name, groups), "BF16", "BF16") for name in TIMED}
    runs["float32 step, float32 scales"] = partial(solve, matrix(TIMED[3], groups), "BF16", "F32")
    runs["gaussian, the affine rule"] = partial(quantize.quantize, matrix("gaussian", groups), LATTICE, "BF16")
    return best(runs, repeat)


def refusals(groups: int, repeat: int) -> dict[str, float]:
    """Seconds to refuse a tensor."""
    return best({name: partial(refuse, matrix(name, groups)) for name in REFUSED}, repeat)


def print_speeds(title: str, groups: int, repeat: int) -> None:
    """One line a case."""
    times, gigabytes = speeds(groups, repeat), groups * 64 / 1e9
    print(f"\n{title}, {gigabytes * 1e3:.0f} MB")
    for name, seconds in times.items():
        print(f"{name:32s}{seconds / gigabytes:8.2f} s/GB{gigabytes * 1e3 / seconds:9.0f} MB/s", flush=True)
    for name, seconds in refusals(groups, repeat).items():
        share = 100 * seconds / times["gaussian, the affine rule"]
        print(f"{name + ', refused':32s}{seconds * 1e3:8.2f} ms  {share:8.2f} % of quantizing it", flush=True)


def accidents(draw: Draw, values: int, draws: int) -> tuple[float, float]:
    """Shares of groups that fit strictly, and nearly, if all but so many values are zero."""
    rng = np.random.default_rng(values)
    strictly = nearly = 0
    for _ in range(-(-draws // 100_000)):
        groups = np.zeros((100_000, 32), np.float32)
        groups[:, :values] = rounded(draw(rng, (len(groups), values)), "BF16")
        states = fit_groups(groups, "BF16", "F32").states
        strictly += int((states == EXACT).sum())
        nearly += int((states != UNPLACED).sum())
    total = 100_000 * -(-draws // 100_000)
    return strictly / total, nearly / total


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--groups", type=int, default=1 << 18)
    parser.add_argument("--draws", type=int, default=1_000_000)
    arguments = parser.parse_args()
    if lattice_kernels.lattice_kernel is not None:
        print_speeds("numba", arguments.groups, arguments.repeat)
    with patch.object(lattice, "lattice_kernel", None), patch.object(quantize, "affine_kernel", None):
        print_speeds("numpy", arguments.groups // 4, arguments.repeat)
    for name, draw in CONTINUOUS.items():
        print(f"\n{name}: values other than zero, share that fits, share that nearly fits")
        for values in (*FEW_VALUES, 32):
            strictly, nearly = accidents(draw, values, arguments.draws)
            print(f"{values:4d}{strictly:11.1e}{nearly:11.1e}", flush=True)


if __name__ == "__main__":
    main()
