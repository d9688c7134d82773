"""The reader of headers against the library that defines the format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g4convert.loaders.checkpoint import DTYPE_BYTES, read_header
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import save

from .effort import attempt, effort
from .nasty import NUMBERS, TEXTS, VALUES, damaged, mutated

GOOD = save(
    {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((0, 4), np.float16),
        "layers.0.ü": np.array(7, np.uint8),
        "z": np.ones((1, 2, 1), np.int64),
    },
    {"format": "pt"},
)
LENGTH = int.from_bytes(GOOD[:8], "little")
HEADER: dict[str, Any] = json.loads(GOOD[8 : 8 + LENGTH])
DATA = GOOD[8 + LENGTH :]

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


def framed(header: bytes, data: bytes = DATA) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def ours(file: Path, content: bytes) -> Tensors | None:
    """What our reader finds; None if it refuses the file."""
    file.write_bytes(content)
    header = attempt(lambda: read_header(file))
    if isinstance(header, str):
        return None
    return {
        name: (info.dtype, info.shape, content[info.offset : info.offset + info.nbytes])
        for name, info in header.items()
    }


def theirs(content: bytes) -> Tensors:
    """What the reference finds."""
    found: list[tuple[str, Mapping[str, Any]]] = deserialize(content)  # type: ignore[no-untyped-call]
    return {name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in found}


def agree(file: Path, content: bytes) -> None:
    """What we take the reference takes, and finds the same."""
    found = ours(file, content)
    assert found is None or found == theirs(content)


def test_the_file_that_is_damaged_is_good(file: Path) -> None:
    assert ours(file, GOOD) == theirs(GOOD) != {}


@effort(150)
@given(st.binary(max_size=64) | st.binary(max_size=64).map(framed))
def test_any_bytes(file: Path, content: bytes) -> None:
    agree(file, content)


@effort(300)
@given(damaged(GOOD))
def test_a_damaged_file(file: Path, content: bytes) -> None:
    agree(file, content)


@effort(300)
@given(damaged(GOOD[8 : 8 + LENGTH]).map(framed))
def test_a_damaged_header_of_the_right_length(file: Path, content: bytes) -> None:
    agree(file, content)


@effort(300)
@given(mutated(HEADER), st.booleans())
def test_a_header_with_other_values(file: Path, header: Any, ascii_only: bool) -> None:
    agree(file, framed(json.dumps(header, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")))


RARELY = st.integers(0, 19).map(lambda number: number == 0)
ODD_SHAPES = st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=4)


@st.composite
def laid_out(draw: st.DrawFn) -> bytes:
    """A file whose tensors follow each other, or nearly so, under names and dtypes of any kind."""
    entries: list[tuple[str, Any]] = []
    position = total = 0
    for _ in range(draw(st.integers(0, 5))):
        dtype = draw(st.sampled_from(("F4", "C64", "f32", "") if draw(RARELY) else tuple(DTYPE_BYTES)))
        shape: list[Any] = draw(ODD_SHAPES if draw(RARELY) else st.lists(st.integers(0, 3), max_size=4))
        size = nbytes(dtype, shape)
        begin = position + draw(st.sampled_from((*[0] * 8, -1, 1, -size)))
        position, total = begin + size, total + size
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [begin, position]}
        entries.append((draw(st.sampled_from(TEXTS) | st.text(max_size=4)), entry))
    if draw(st.booleans()):
        entries.append(
            ("__metadata__", draw(VALUES if draw(RARELY) else st.dictionaries(st.text(max_size=3), st.text())))
        )
    # A list of pairs, not an object: names may stand twice.
    body = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in draw(st.permutations(entries)))
    length = draw(st.sampled_from((*[position] * 4, total, total, total + 1, position - 1)))
    return framed(f"{{{body}}}".encode() + b" " * draw(st.integers(0, 8)), bytes(max(0, length)))


def nbytes(dtype: str, shape: list[Any]) -> int:
    """What a tensor takes, as far as a file can hold it."""
    size = math.prod(shape) * DTYPE_BYTES.get(dtype, 1)
    return int(size) if 0 <= size < 10_000 else 0


@effort(300)
@example(framed(b'{"a":{"dtype":"I64","shape":[8,9223372036854775807,0],"data_offsets":[0,0]}}', b""))
@given(laid_out())
def test_tensors_that_nearly_follow_each_other(file: Path, content: bytes) -> None:
    agree(file, content)


@effort(60)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(("<f4", "<f2", "|u1", "<i8", "|b1")), st.lists(st.integers(0, 4), max_size=4)),
        max_size=6,
    )
)
def test_what_the_reference_writes_is_taken(file: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    content = save({name: np.ones(shape, dtype) for name, (dtype, shape) in tensors.items()})

    assert ours(file, content) == theirs(content)
