"""Bytes spent where they save most, against every other way to spend them."""

from __future__ import annotations

from itertools import product

import pytest
from g4convert.convert.allocation.budget import Candidate, Option, allocate, chosen_options, smallest, spent
from g4convert.convert.recipe import Quantization
from hypothesis import given
from hypothesis import strategies as st

BITS = (2, 3, 4, 6)


def candidate(name: str, unit: float, columns: int = 64) -> Candidate:
    """A module whose cost falls by four with every bit."""
    options = (Option(Quantization(bits, 64), bits * columns, unit * 4.0**-bits) for bits in BITS)
    return Candidate(name, tuple(options))


def cost(candidates: list[Candidate], packings: dict[str, Quantization]) -> float:
    return sum(option.cost for option in chosen_options(candidates, packings))


@given(
    units=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=4),
    budget=st.integers(0, 4 * 6 * 64),
)
def test_nothing_that_fits_is_much_better(units: list[float], budget: int) -> None:
    candidates = [candidate(f"m{index}", unit) for index, unit in enumerate(units)]
    ways = [
        dict(zip((one.module for one in candidates), way, strict=True)) for way in product(*([[*BITS]] * len(units)))
    ]
    fitting = [
        {module: Quantization(bits, 64) for module, bits in way.items()}
        for way in ways
        if sum(way.values()) * 64 <= budget
    ]

    found = allocate(candidates, budget)

    if not fitting:
        assert found is None
        return
    assert found is not None
    assert spent(candidates, found) <= budget
    # Greedy may leave at most the last step of one module to others.
    best = min(cost(candidates, way) for way in fitting)
    less = max(budget - 3 * 64, smallest(candidates))
    short = min(cost(candidates, way) for way in fitting if spent(candidates, way) <= less)
    assert best * (1 - 1e-9) <= cost(candidates, found) <= short * (1 + 1e-9)


def test_what_is_sensitive_gets_the_bits() -> None:
    candidates = [candidate("calm", 1.0), candidate("nervous", 1000.0)]

    found = allocate(candidates, 64 * 8)

    assert found == {"calm": Quantization(2, 64), "nervous": Quantization(6, 64)}


def test_an_option_that_saves_little_for_its_bytes_is_passed_over() -> None:
    options = (
        Option(Quantization(2, 64), 10, 1.0),
        Option(Quantization(3, 64), 20, 0.99),
        Option(Quantization(4, 64), 30, 0.0),
    )

    assert [option.packing.bits for option in Candidate("m", tuple(options)).frontier] == [2, 4]


def test_more_bytes_for_a_higher_cost_are_never_taken() -> None:
    options = (Option(Quantization(4, 64), 10, 0.0), Option(Quantization(8, 64), 20, 0.5))

    assert allocate([Candidate("m", options)], 1000) == {"m": Quantization(4, 64)}


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_modules_decides_nothing(order: int) -> None:
    candidates = [candidate(f"m{index}", 1.0) for index in range(5)][::order]

    assert allocate(candidates, 64 * 13) == {
        "m0": Quantization(3, 64), "m1": Quantization(3, 64), "m2": Quantization(3, 64),
        "m3": Quantization(2, 64), "m4": Quantization(2, 64),
    }  # fmt: skip
