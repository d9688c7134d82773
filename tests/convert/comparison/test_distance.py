"""The numbers that are told of two weights, computed otherwise or known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from g4convert.convert import diff
from g4convert.convert.comparison.distance import Distance, apart
from g4convert.convert.comparison.rows import Values
from g4convert.tests.support import CHECKPOINTS, read_tensors
from g4convert.tests.unpacking import unpacked

INFINITY, NAN = math.inf, math.nan


def values(*numbers: float, slack: float | None = 0.0, dtype: str | None = None) -> Values:
    array = np.array(numbers, np.float32)
    return Values(array, None if slack is None else np.full(array.shape, slack, np.float32), dtype)


def test_numbers_that_are_known() -> None:
    found = apart(values(1, 2, 3, -4), values(1, 2.5, 3, -3))

    assert (found.elements, found.differing, found.beyond, found.largest) == (4, 2, 2, 1.0)
    assert found.relative_rms == pytest.approx(math.sqrt(1.25 / 30))


def test_the_order_of_the_sides_does_not_matter() -> None:
    one, other = values(1, 2, 3, 5, slack=0.3), values(1.5, 2, 4, 4, slack=0.3)

    assert apart(one, other).figures == apart(other, one).figures


@pytest.mark.parametrize(
    ("one", "other", "differing", "beyond"),
    [
        (0.0, -0.0, 0, 0),
        (NAN, NAN, 0, 0),
        (INFINITY, INFINITY, 0, 0),
        (INFINITY, -INFINITY, 1, 1),
        (NAN, 1.0, 1, 1),
        (1.0, 1.0 + 2**-20, 1, 1),
    ],
)
def test_what_is_equal(one: float, other: float, differing: int, beyond: int) -> None:
    found = apart(values(one), values(other))

    assert (found.differing, found.beyond) == (differing, beyond)


def test_what_is_no_number_is_counted_by_side() -> None:
    found = apart(values(1, NAN, INFINITY), values(NAN, 1, 1))

    assert found.not_numbers == (2, 1)
    assert math.isnan(found.largest)
    assert math.isnan(found.relative_rms)


def test_rounding_is_that_of_both_sides() -> None:
    near, far = values(1.0, slack=0.2), values(1.5, slack=0.29)

    assert apart(near, far).beyond == 1
    assert apart(near, values(1.5, slack=0.31)).beyond == 0
    assert apart(near, values(1.5, slack=None)).beyond is None


def test_a_side_may_be_the_other_one_rounded() -> None:
    exact, rounded = values(1 + 2**-10, 3.0), values(1.0, 3.0, dtype="BF16")

    assert apart(exact, rounded).unrounded == (None, 0)
    assert apart(rounded, exact).unrounded == (0, None)
    assert apart(exact, values(1.0, 2.0, dtype="BF16")).unrounded == (None, 1)


def test_parts_add_up() -> None:
    pairs = [(values(1, 2), values(1, 3)), (values(NAN), values(4)), (values(5, 6), values(5, 6))]
    whole = apart(values(1, 2, NAN, 5, 6), values(1, 3, 4, 5, 6))

    found = sum((apart(one, other) for one, other in pairs), Distance())

    assert repr(found) == repr(whole)


def test_zero_against_zero_has_no_relative_error() -> None:
    assert math.isnan(apart(values(0, 0), values(0, 0)).relative_rms)


def test_a_conversion_as_mlx_unpacks_it(converted: Callable[..., Path]) -> None:
    name = "language_model.model.layers.1.mlp.down_proj.weight"
    source, conversion = CHECKPOINTS / "e2b", converted("e2b")
    one = read_tensors(source)["model.language_model.layers.1.mlp.down_proj.weight"].astype(np.float64)
    (((_, array),), _) = unpacked(conversion, [name])
    other = np.array(array).astype(np.float64)

    (figures,) = (found.figures for found in diff(source, conversion).differences if found.where == name)

    gap = np.abs(one - other)
    assert figures["elements"] == one.size
    assert figures["differing"] == pytest.approx((gap > 0).sum(), rel=0.01)
    assert figures["largest"] == pytest.approx(gap.max(), rel=1e-5)
    larger = max(np.square(one).sum(), np.square(other).sum())
    assert figures["relative_rms"] == pytest.approx(math.sqrt(np.square(gap).sum() / larger), rel=1e-5)
