"""Weights whose truth is known: on a lattice of four bits, nearly on one, or on none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from g4convert.convert.quantize import STORAGE
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Share = tuple[float, float]

ROWS, COLUMNS = 128, 512
SHAPE = (ROWS, COLUMNS // 32, 32)
ALL, NONE = (1.0, 1.0), (0.0, 0.0)
EVERYWHERE = {"BF16": ALL, "F16": ALL, "F32": ALL}
NOWHERE = {"BF16": NONE, "F16": NONE, "F32": NONE}


def rounded(values: NDArray[np.floating], dtype: str) -> Floats:
    return values.astype(np.float32).astype(STORAGE[dtype]).astype(np.float32)


def gaussian(seed: int = 0) -> Doubles:
    return 0.02 * np.random.default_rng(seed).standard_normal(SHAPE)


def peaks(weights: Doubles) -> Doubles:
    largest: Doubles = np.abs(weights).max(axis=-1, keepdims=True)
    return largest


@dataclass(frozen=True)
class Truth:
    """Integers -8..7 and a step per group: what training rounded the weights to."""

    levels: Doubles
    steps: Floats

    def weights(self, source: str) -> Floats:
        return rounded(self.levels * self.steps.astype(np.float64), source).reshape(ROWS, COLUMNS)


def trained(divisor: float = 8.0, step: str = "BF16", seed: int = 0) -> Truth:
    """Gaussian weights, rounded to the multiples of the largest over `divisor`."""
    weights = gaussian(seed)
    steps = rounded(peaks(weights) / divisor, step)
    return Truth(np.clip(np.rint(weights / steps), -8, 7), steps)


def up_to(level: int, step: str = "BF16") -> Truth:
    """The largest level is `level`, on the negative side, in every group."""
    weights = gaussian()
    steps = rounded(peaks(weights) / 8, step)
    levels = np.clip(np.rint(weights / steps), 1 - level, level - 1)
    levels[..., 5] = -level
    return Truth(levels, steps)


def positive_peaks() -> Floats:
    """The eighth level on the positive side: -7..8 of a step is -8..7 of its negative."""
    truth = up_to(8)
    return Truth(-truth.levels, truth.steps).weights("BF16")


def with_zero_groups() -> Floats:
    weights = trained().weights("BF16")
    weights[::3, 32:96] = 0
    return weights


def with_strangers() -> Floats:
    """One group in a hundred is on no lattice."""
    weights = trained().weights("BF16").reshape(-1, 32)
    weights[::100] = rounded(gaussian(1).reshape(-1, 32)[::100], "BF16")
    return weights.reshape(ROWS, COLUMNS)


def noisy(share: float) -> Floats:
    """Each weight misses its level by a share of the step, as a standard deviation."""
    truth = trained()
    noise = share * np.random.default_rng(2).standard_normal(SHAPE)
    return rounded((truth.levels + noise) * truth.steps, "BF16").reshape(ROWS, COLUMNS)


def a_bit_off() -> Floats:
    """One weight in ten is the next number of its dtype: as after another rounding on the way."""
    weights = trained().weights("BF16")
    bits = weights.view(np.uint32)
    bits[(np.random.default_rng(3).random(weights.shape) < 0.1) & (weights != 0)] += 1 << 16
    return weights


def in_groups_of(size: int) -> Floats:
    weights = gaussian().reshape(ROWS, -1, size)
    steps = rounded(peaks(weights) / 8, "BF16")
    return rounded(np.clip(np.rint(weights / steps), -8, 7) * steps, "BF16").reshape(ROWS, COLUMNS)


def ternary() -> Floats:
    signs = np.random.default_rng(4).integers(-1, 2, SHAPE)
    return rounded(signs * peaks(gaussian()), "BF16").reshape(ROWS, COLUMNS)


def one_magnitude() -> Floats:
    signs = 2 * np.random.default_rng(5).integers(0, 2, SHAPE) - 1
    return rounded(signs * peaks(gaussian()), "BF16").reshape(ROWS, COLUMNS)


def short_steps() -> Floats:
    """Steps of four significant bits: bfloat16 holds every multiple."""
    truth = trained()
    mantissa, exponent = np.frexp(truth.steps.astype(np.float64))
    steps = np.ldexp(np.rint(mantissa * 16), exponent - 4).astype(np.float32)
    return Truth(truth.levels, steps).weights("BF16")


def tiny() -> Floats:
    """Steps among the subnormal numbers of float16."""
    truth = trained()
    return rounded(truth.levels * np.ldexp(1.0, -24) * 3, "F16").reshape(ROWS, COLUMNS)


def both_eights() -> Floats:
    """Seventeen levels: the eighth on both sides, in every group."""
    truth = up_to(8)
    truth.levels[..., 6], truth.levels[..., 7] = 8, 7
    return truth.weights("BF16")


def two_values() -> Floats:
    """Continuous ones, the others zero: one group in ten fits by accident, and every third nearly."""
    weights = rounded(gaussian(), "BF16")
    weights[..., 2:] = 0
    return weights.reshape(ROWS, COLUMNS)


def six_bits() -> Floats:
    weights = gaussian()
    steps = rounded(peaks(weights) / 32, "BF16")
    return rounded(np.clip(np.rint(weights / steps), -32, 31) * steps, "BF16").reshape(ROWS, COLUMNS)


def continuous(draw: Callable[[np.random.Generator], Doubles], dtype: str = "BF16") -> Callable[[], Floats]:
    return lambda: rounded(draw(np.random.default_rng(6)), dtype).reshape(ROWS, COLUMNS)


@dataclass(frozen=True)
class Case:
    """Weights and what is to be found.

    Attributes:
        make: float32 [ROWS, COLUMNS].
        exact: by the storage of the steps, from which to which share of groups come back bit for bit.
        lattice: whether the weights are on a lattice.
        source: dtype of the weights.
        placed: from which to which share of groups is packed as a lattice.
    """

    make: Callable[[], Floats]
    exact: Mapping[str, Share] = field(default_factory=lambda: EVERYWHERE)
    lattice: bool = True
    source: str = "BF16"
    placed: Share = ALL


def weights_of(truth: Callable[[], Truth], source: str = "BF16") -> Callable[[], Floats]:
    return lambda: truth().weights(source)


def off(make: Callable[[], Floats], source: str = "BF16") -> Case:
    return Case(make, NOWHERE, lattice=False, source=source, placed=NONE)


HALF = (0.38, 0.56)
FROM_F16 = {"BF16": HALF, "F16": ALL, "F32": ALL}
FROM_F32 = {"BF16": HALF, "F16": (0.96, 0.99), "F32": ALL}

CASES: Mapping[str, Case] = {
    **{f"largest / {d}": Case(weights_of(partial(trained, d))) for d in (8, 7.5, 7, 6, 5, 4, 3)},
    **{f"float16 step, largest / {d}": Case(weights_of(partial(trained, d, "F16")), FROM_F16) for d in (8, 7.5, 7)},
    **{f"float32 step, largest / {d}": Case(weights_of(partial(trained, d, "F32")), FROM_F32) for d in (8, 7.5, 7)},
    **{f"up to level {m}": Case(weights_of(partial(up_to, m))) for m in range(1, 9)},
    "positive peaks": Case(positive_peaks),
    "groups of zeros": Case(with_zero_groups),
    "nothing but zeros": Case(lambda: np.zeros((ROWS, COLUMNS), np.float32), lattice=False),
    "one group in 100 on no lattice": Case(
        with_strangers, dict.fromkeys(EVERYWHERE, (0.985, 0.992)), placed=(0.985, 0.992)
    ),
    "groups of 64": Case(lambda: in_groups_of(64)),
    "ternary": Case(ternary),
    "one magnitude": Case(one_magnitude),
    "steps of four bits": Case(short_steps),
    "a bit off": Case(a_bit_off, dict.fromkeys(EVERYWHERE, (0.05, 0.35)), placed=(0.999, 1.0)),
    "float16 weights, bfloat16 step": Case(weights_of(trained, "F16"), source="F16"),
    "float16 weights, float16 step": Case(
        weights_of(partial(trained, step="F16"), "F16"), {"BF16": (0.05, 0.15), "F16": ALL, "F32": ALL}, source="F16"
    ),
    "float16 weights, float32 step": Case(
        weights_of(partial(trained, step="F32"), "F16"), {"BF16": (0, 0.15), "F16": HALF, "F32": ALL}, source="F16"
    ),
    "float16 weights, subnormal": Case(tiny, source="F16"),
    "float32 weights, bfloat16 step": Case(weights_of(trained, "F32"), source="F32"),
    "float32 weights, float16 step": Case(
        weights_of(partial(trained, step="F16"), "F32"), {"BF16": (0.05, 0.15), "F16": ALL, "F32": ALL}, source="F32"
    ),
    "float32 weights, float32 step": Case(
        weights_of(partial(trained, step="F32"), "F32"), dict.fromkeys(EVERYWHERE, (0.0, 0.1)), source="F32"
    ),
    "noise of 5 % of a step": off(lambda: noisy(0.05)),
    "groups of 16": Case(
        lambda: in_groups_of(16), dict.fromkeys(EVERYWHERE, (0.0, 0.02)), lattice=False, placed=(0.0, 0.05)
    ),
    "two values": Case(two_values, dict.fromkeys(EVERYWHERE, (0.05, 0.13)), lattice=False, placed=(0.27, 0.37)),
    "the eighth level on both sides": off(both_eights),
    "six bits": off(six_bits),
    "gaussian": off(continuous(lambda rng: rng.standard_normal(SHAPE))),
    "laplace": off(continuous(lambda rng: rng.laplace(size=SHAPE))),
    "student t3": off(continuous(lambda rng: rng.standard_t(3, SHAPE))),
    "cauchy": off(continuous(lambda rng: rng.standard_t(1, SHAPE))),
    "uniform": off(continuous(lambda rng: rng.uniform(-1, 1, SHAPE))),
    "gaussian, float16": off(continuous(lambda rng: rng.standard_normal(SHAPE), "F16"), "F16"),
    "gaussian, float32": off(continuous(lambda rng: rng.standard_normal(SHAPE), "F32"), "F32"),
}
