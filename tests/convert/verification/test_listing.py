"""Findings are few, and say where two documents differ."""

from __future__ import annotations

from typing import Any

import pytest
from g4convert.convert.verification.listing import differences, few, missing_tensors
from g4convert.convert.verification.outcome import Finding
from g4convert.convert.verification.reading import row_name


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, []),
        (1, ["0: x"]),
        (4, ["0: x", "1: x", "2: x", "3: x"]),
        (5, ["0: x", "1: x", "2: x", "3: x (and 1 more)"]),
        (700, ["0: x", "1: x", "2: x", "3: x (and 696 more)"]),
    ],
)
def test_the_first_of_many(count: int, said: list[str]) -> None:
    assert [str(finding) for finding in few(Finding("x", str(number)) for number in range(count))] == said


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, ["$.a: found 1, it is true"]),
        ({"a": None}, {}, ["$.a: found null, it is nothing"]),
        ({}, {"a": {"b": 1}}, ['$.a: found nothing, it is {"b": 1}']),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["$.a[1]: found 2, it is 3"]),
        ({"a": [1]}, {"a": [1, 3]}, ["$.a[1]: found nothing, it is 3"]),
        ({"a": [9, 1, 2]}, {"a": [1, 2]}, ["$.a[0]: found 9, it is 1"]),
        ({"a": "x", "b": 1}, {"a": ["x"], "b": 2}, ['$.a: found "x", it is ["x"]', "$.b: found 1, it is 2"]),
    ],
)
def test_differences(found: Any, expected: Any, said: list[str]) -> None:
    assert [difference.what("it is") for difference in differences(found, expected)] == said


def test_a_tower_that_is_gone_is_one_finding() -> None:
    called_for = ["a.x", "a.y", "b.x", "b.y", "c.x"]

    found = [str(finding) for finding in missing_tensors(["b.y", "a.y", "a.x", "c.x"], called_for, "T wants")]

    assert found == [
        "a: the whole of a is missing, 2 tensors; T wants it",
        "b.y: the tensor is missing; T wants it",
        "c.x: the tensor is missing; T wants it",
    ]


@pytest.mark.parametrize(
    ("shape", "row", "name"), [((), 0, "row 0"), ((5,), 0, "row 0"), ((4, 3), 2, "row 2"), ((2, 4, 3), 5, "row [1, 1]")]
)
def test_rows_have_names(shape: tuple[int, ...], row: int, name: str) -> None:
    assert row_name(shape, row) == name
