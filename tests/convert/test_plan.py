"""Decisions about single tensors, and the layout of shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from g4convert.convert.chunks import cut
from g4convert.convert.families.rules import CONV2D, FIRST_HALF, KEEP, SECOND_HALF, Role, Shape, Transform
from g4convert.convert.inventory import Match, Target
from g4convert.convert.plan import OutputTensor, Step, choose_packing, lay_out
from g4convert.convert.recipe import NO_QUANTIZATION, Quantization, load_recipe, quantization
from g4convert.loaders.checkpoint import TensorInfo
from hypothesis import given
from hypothesis import strategies as st

MODULE = "language_model.model.layers.0.mlp.down_proj"


def match(shape: Shape, role: Role = Role.LINEAR) -> Match:
    source = TensorInfo("source", "BF16", shape, Path("a.safetensors"), 0, 0)
    return Match(source, Target(f"{MODULE}.weight", "text", role, shape, shape, KEEP))


def step(name: str, shape: Shape, transform: Transform = KEEP, source: Shape | None = None) -> Step:
    info = TensorInfo(name, "BF16", source or shape, Path("a.safetensors"), 0, 0)
    return Step(info, name, "text", shape, transform, None, (OutputTensor(name, "BF16", shape),))


@pytest.mark.parametrize(
    ("columns", "mode", "reason"),
    [
        (4304, "affine", "4304 is not divisible by any group (32, 64, 128)"),
        (80, "mxfp4", "80 is not divisible by any group (32)"),
        (24, "nvfp4", "24 is not divisible by any group (16)"),
    ],
)
def test_a_row_that_no_group_divides_stays_and_says_why(columns: int, mode: str, reason: str) -> None:
    assert choose_packing(match((8, columns)), load_recipe("uniform", quantization(mode))) == (None, reason)


def test_a_smaller_group_is_taken_where_it_divides() -> None:
    packing, reason = choose_packing(match((8, 96)), load_recipe("uniform"))

    assert (packing, reason) == (Quantization(4, 32), None)


@pytest.mark.parametrize("role", [Role.VECTOR, Role.CLIP_BOUND])
def test_what_is_no_matrix_needs_no_reason(role: Role) -> None:
    assert choose_packing(match((64,), role), load_recipe("uniform")) == (None, None)


def test_without_quantization_nothing_needs_a_reason() -> None:
    assert choose_packing(match((8, 64)), NO_QUANTIZATION) == (None, None)


@given(
    experts=st.integers(1, 5),
    half=st.integers(1, 9),
    start=st.integers(0, 44),
    length=st.integers(1, 45),
)
def test_halves_are_read_from_where_they_lie(experts: int, half: int, start: int, length: int) -> None:
    rows = experts * half
    start, stop = min(start, rows - 1), min(start + length, rows)
    for index, transform in enumerate((FIRST_HALF, SECOND_HALF)):
        made = step("x", (experts, half, 4), transform, (experts, 2 * half, 4))

        runs = made.source_runs(start, max(stop, start + 1))

        read = [row for first, count in runs for row in range(first, first + count)]
        whole = [expert * 2 * half + index * half + row for expert in range(experts) for row in range(half)]
        assert read == whole[start : max(stop, start + 1)]


@given(shape=st.lists(st.integers(1, 12), max_size=4).map(tuple), limit=st.integers(1, 200))
def test_chunks_cover_every_row_once(shape: Shape, limit: int) -> None:
    made = step("x", shape)

    rows = [row for chunk in cut(made, limit) for row in range(chunk.start, chunk.stop)]

    assert rows == list(range(made.rows))
    assert made.rows * made.row_length == made.parameters


def test_a_transposed_tensor_is_cut_along_its_first_axis_only() -> None:
    made = step("x", (32, 3, 3, 128), CONV2D, (32, 128, 3, 3))

    assert (made.rows, made.row_length) == (32, 1152)


def test_a_tensor_above_the_limit_has_a_shard_of_its_own() -> None:
    shards = lay_out([step("a", (10,)), step("b", (1000,)), step("c", (10,))], 1000)

    assert [list(shard.offsets) for shard in shards] == [["a"], ["b"], ["c"]]
    assert [shard.file for shard in shards] == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


def test_a_shard_is_filled_to_its_limit() -> None:
    shards = lay_out([step(name, (1000,)) for name in "abcde"], 5000)

    assert [list(shard.offsets) for shard in shards] == [["a", "b"], ["c", "d"], ["e"]]
    assert all(shard.nbytes <= 5000 for shard in shards)


def test_golden_header() -> None:
    (shard,) = lay_out([step("a", ()), step("b", (2, 3))], 1000)

    length = int.from_bytes(shard.header[:8], "little")
    assert (length % 8, len(shard.header)) == (0, 8 + length)
    assert json.loads(shard.header[8:]) == {
        "__metadata__": {"format": "mlx"},
        "a": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]},
        "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [2, 14]},
    }
    assert shard.nbytes == len(shard.header) + 14
