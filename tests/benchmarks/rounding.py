"""Compare the affine rule with `mx.quantize`, in the same format, in one run: squared error and speed, one thread.

    python tests/benchmarks/rounding.py [--storage BF16] [--weights N] [--repeat N]

Weights are bfloat16, of four distributions, and scales and biases what `--storage` says; `mx.quantize` keeps the dtype
of what it is given, so it is given the same weights in that one. A row is a number of bits and a group size: the ratio
of our squared error to theirs, by distribution; and, on the Gaussian one, megabytes of bfloat16 source a second of CPU
time: of the kernel if numba is installed, of the numpy formulation, and of `mx.quantize` on MLX's CPU backend. What is
timed takes turns, and the best of each is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from unittest import mock

import ml_dtypes
import mlx.core as mx
import numpy as np
from g4convert.convert import quantize as rule
from g4convert.convert.quantize import STORAGE, Floats, Packed, dequantize, quantize
from g4convert.convert.recipe import AFFINE_BITS, AFFINE_GROUPS, Quantization

COLUMNS = 512
PLAIN_SHARE = 8  # numpy alone is slow: it gets one in so many rows

MLX_DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


def distributions(count: int) -> dict[str, Floats]:
    """Weights of the size of a network's, as a checkpoint stores them."""
    generator = np.random.default_rng(0)
    drawn = {
        "gauss": generator.standard_normal(count),
        "laplace": generator.laplace(size=count),
        "t5": generator.standard_t(5, count),
        "t3": generator.standard_t(3, count),
        "uniform": generator.uniform(-1, 1, count),
    }
    rounded = {name: (0.02 * values).astype(ml_dtypes.bfloat16) for name, values in drawn.items()}
    return {name: values.astype(np.float32).reshape(-1, COLUMNS) for name, values in rounded.items()}


def by_mlx(values: mx.array, spec: Quantization) -> Packed:
    """What `mx.quantize` keeps, as ours."""
    words, scales, biases = mx.quantize(values, spec.group_size, spec.bits)
    packed = np.array(words).view(np.uint8)
    return Packed(packed, *(np.array(part.astype(mx.float32)) for part in (scales, biases)))


def squared_error(packed: Packed, values: Floats, spec: Quantization) -> float:
    """Against the weights, decoded in float32."""
    return float(np.square(dequantize(packed, spec).astype(np.float64) - values).sum())


def ratio(values: Floats, spec: Quantization, storage: str) -> float:
    """Our squared error by theirs."""
    theirs = by_mlx(mx.array(values).astype(MLX_DTYPES[storage]), spec)
    return squared_error(quantize(values, spec, storage), values, spec) / squared_error(theirs, values, spec)


def plainly(values: Floats, spec: Quantization, storage: str) -> None:
    """The numpy formulation."""
    with mock.patch.object(rule, "affine_kernel", None):
        quantize(values, spec, storage)


def speeds(values: Floats, spec: Quantization, storage: str, repeat: int) -> list[float]:
    """MB of bfloat16 per second of CPU time: ours as installed, ours in numpy, `mx.quantize`."""
    source = mx.array(values).astype(MLX_DTYPES[storage])
    mx.eval(source)
    few = values[: max(1, len(values) // PLAIN_SHARE)]
    runs: list[tuple[int, Callable[[], object]]] = [
        (values.size, partial(quantize, values, spec, storage)),
        (few.size, partial(plainly, few, spec, storage)),
        (values.size, lambda: mx.eval(mx.quantize(source, spec.group_size, spec.bits))),
    ]
    best = [0.0] * len(runs)
    for _ in range(repeat):
        for index, (count, run) in enumerate(runs):
            start = time.process_time()
            run()
            best[index] = max(best[index], 2 * count / (time.process_time() - start) / 1e6)
    return best


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", choices=STORAGE, default="BF16")
    parser.add_argument("--weights", type=int, default=1 << 21)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    drawn = distributions(arguments.weights // COLUMNS * COLUMNS)
    print("bits group" + "".join(f"{name:>9s}" for name in [*drawn, "MB/s", "numpy", "mlx"]))
    for bits in AFFINE_BITS:
        for group in AFFINE_GROUPS:
            spec = Quantization(bits, group)
            ratios = [ratio(values, spec, arguments.storage) for values in drawn.values()]
            fast = speeds(drawn["gauss"], spec, arguments.storage, arguments.repeat)
            columns = [*(f"{value:9.3f}" for value in ratios), *(f"{value:9.0f}" for value in fast)]
            print(f"{bits:4d}{group:6d}" + "".join(columns), flush=True)


if __name__ == "__main__":
    main()
