"""Products on all cores: the bits of the product on one, in every thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import pytest
from g4convert.loaders import cores
from g4convert.loaders.cores import SHARE, across_cores, available_cores
from g4convert.loaders.linear import MANY_ROWS, Linear, PackedEmbedding, PackedLinear

pytestmark = pytest.mark.usefixtures("on_the_cpu")

PACKINGS = [(64, 4, "affine"), (32, 5, "affine"), (32, 4, "mxfp4"), (32, 8, "mxfp8"), (16, 4, "nvfp4")]
COLUMNS, ROWS = 512, 1031


@pytest.fixture(params=[1, 2, 3, 7])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many cores there are."""
    monkeypatch.setattr(cores, "available_cores", lambda: request.param)
    monkeypatch.setattr(cores, "_LOCAL", type(cores._LOCAL)())
    found: int = request.param
    return found


def random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


def shares_of(multiplications: int, parts: Sequence[mx.array]) -> list[tuple[int, ...]]:
    """How many rows of each part go together."""
    seen = []

    def multiply(share: Sequence[mx.array]) -> mx.array:
        seen.append(tuple(len(part) for part in share))
        return share[0][:, 0]

    assert mx.array_equal(across_cores(multiply, parts, multiplications), parts[0][:, 0])
    return seen


def test_each_core_takes_a_share_of_the_rows(count: int) -> None:
    parts = [random(ROWS, 4), random(ROWS, 2)]

    shares = shares_of(100 * SHARE, parts)

    assert len(shares) == count
    assert all(one == other for one, other in shares)
    assert sum(one for one, _ in shares) == ROWS
    assert max(shares)[0] - min(shares)[0] <= 1


def test_there_are_no_more_shares_than_work_for_them(count: int) -> None:
    assert len(shares_of(2 * SHARE, [random(ROWS, 4)])) == min(2, count)
    assert len(shares_of(2 * SHARE - 1, [random(ROWS, 4)])) == 1


def test_no_share_is_empty(count: int) -> None:
    assert shares_of(100 * SHARE, [random(2, 4)]) == ([(2,)] if count == 1 else [(1,), (1,)])


def test_a_gpu_does_its_products_alone(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "on_cpu", lambda: False)

    assert shares_of(100 * SHARE, [random(ROWS, 4)]) == [(ROWS,)]


def test_shares_are_computed_in_streams_of_their_own(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    used, original = [], mx.stream

    def stream(one: Any) -> Any:
        used.append(one)
        return original(one)

    monkeypatch.setattr(mx, "stream", stream)
    shares_of(100 * SHARE, [random(ROWS, 4)])

    assert len({str(one) for one in used}) == len(used) == (count if count > 1 else 0)


@pytest.mark.parametrize(("group_size", "bits", "mode"), PACKINGS)
@pytest.mark.parametrize("tokens", [1, 3])
def test_packed_products_have_the_same_bits(
    tokens: int, group_size: int, bits: int, mode: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = PackedLinear(random(ROWS, COLUMNS), group_size, bits, mode)
    table = PackedEmbedding(random(ROWS, COLUMNS), group_size, bits, mode)
    x = random(1, tokens, COLUMNS)
    found = packed(x), table.as_linear(x)

    monkeypatch.setattr(cores, "SHARE", 1 << 60)

    for one, other in zip(found, (packed(x), table.as_linear(x)), strict=True):
        assert mx.array_equal(one, other)
        assert one.shape == (1, tokens, ROWS)


def test_plain_products_are_those_of_one_core(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x = Linear(COLUMNS, ROWS), random(1, MANY_ROWS - 1, COLUMNS)
    linear.weight = random(ROWS, COLUMNS)
    found = linear(x)

    monkeypatch.setattr(cores, "SHARE", 1 << 60)

    assert mx.allclose(found, linear(x), rtol=1e-5, atol=1e-4)


def test_a_stream_belongs_to_a_thread(count: int) -> None:
    """A product that was made in one thread cannot use the streams of another."""
    packed, x = PackedLinear(random(ROWS, COLUMNS), 64, 4, "affine"), random(1, COLUMNS)
    mx.eval(packed.parameters(), x)
    expected = packed(x)
    mx.eval(expected)

    def answer(_: int) -> bool:
        mx.set_default_device(mx.Device(mx.cpu))
        return bool(mx.array_equal(packed(x), expected))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(answer, range(12)))


def test_the_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def allowed(cpus: set[int]) -> Callable[[int], set[int]]:
        return lambda _: cpus

    monkeypatch.setattr(os, "sched_getaffinity", allowed({3, 5}), raising=False)
    assert available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == os.cpu_count()
