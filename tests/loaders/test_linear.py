"""Products with weights on the CPU: few rows and many, plain and packed, in every dtype, are the same product."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import linear
from g4convert.loaders.linear import (
    MANY_ROWS,
    Embedding,
    Linear,
    PackedEmbedding,
    PackedLinear,
    packed_product,
    product,
)

pytestmark = pytest.mark.usefixtures("on_the_cpu")

OUT, IN = 48, 64
MODES: dict[str, dict[str, Any]] = {
    "4 bits": {"group_size": 32, "bits": 4},
    "6 bits": {"group_size": 64, "bits": 6},
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "nvfp4": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    "mxfp8": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
}
ALL_MODES = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
ROWS = pytest.mark.parametrize("rows", [1, MANY_ROWS - 1, MANY_ROWS, 2 * MANY_ROWS + 1])
DTYPES = pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def filled(kind: type[Linear] | type[Embedding]) -> Any:
    module = kind(IN, OUT) if kind is Linear else kind(OUT, IN)
    module.weight = normal(OUT, IN, seed=1)
    return module


def float64(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def nmse(found: mx.array, expected: np.ndarray) -> float:
    return float(np.square(float64(found) - expected).sum() / np.square(expected).sum())


def rounding(dtype: mx.Dtype) -> float:
    """The mark for numbers that are added up in float32 and rounded once."""
    return max(1e-12, float(mx.finfo(dtype).eps) ** 2 / 8)


@ROWS
@pytest.mark.parametrize("shape", [(), (1,), (2,)], ids=str)
def test_rows_are_multiplied_wherever_they_stand(rows: int, shape: tuple[int, ...]) -> None:
    x, layer = normal(*shape, rows, IN), filled(Linear)

    found = layer(x)

    assert found.shape == (*shape, rows, OUT)
    assert nmse(found, float64(x) @ float64(layer.weight).T) <= 1e-12


@ALL_MODES
@ROWS
@DTYPES
def test_a_packed_product_is_rounded_once(mode: dict[str, Any], rows: int, dtype: mx.Dtype) -> None:
    """With mlx's own kernel of the CPU for Linux, this fails in bfloat16 and float16."""
    packed = filled(Linear).to_quantized(**mode)
    if "mode" not in mode:
        packed.scales, packed.biases = packed.scales.astype(mx.bfloat16), packed.biases.astype(mx.bfloat16)
    x = normal(rows, IN).astype(dtype)

    found = packed(x)

    assert isinstance(packed, PackedLinear)
    assert found.dtype == dtype
    assert nmse(found, float64(x) @ float64(linear.dequantize(packed.parts, mode)).T) <= rounding(dtype)


@ALL_MODES
@DTYPES
def test_a_packed_table_is_looked_up_and_multiplied_with(mode: dict[str, Any], dtype: mx.Dtype) -> None:
    packed = filled(Embedding).to_quantized(**mode)
    weight = linear.dequantize(packed.parts, mode)
    x, ids = normal(1, 2, IN).astype(dtype), mx.array([[3, 0, OUT - 1]])

    found = packed.as_linear(x)

    assert isinstance(packed, PackedEmbedding)
    assert mx.array_equal(packed(ids), weight[ids])
    assert found.dtype == dtype
    assert nmse(found, float64(x) @ float64(weight).T) <= rounding(dtype)


def test_a_table_multiplies_as_it_is_looked_up() -> None:
    table = filled(Embedding)

    assert mx.array_equal(table(mx.array([[2, 1]])), table.weight[mx.array([[2, 1]])])
    assert nmse(table.as_linear(normal(3, IN)), float64(normal(3, IN)) @ float64(table.weight).T) <= 1e-12


def test_a_gpu_gets_mlxs_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "on_cpu", lambda: False)
    given: list[mx.array] = []

    def multiply(x: mx.array) -> mx.array:
        given.append(x)
        return x

    x = normal(2 * MANY_ROWS, IN).astype(mx.bfloat16)

    assert packed_product(multiply, x) is given[0] is x
    assert not linear.has_many_rows(x)


def test_rows_count_wherever_they_stand() -> None:
    counts = [1, MANY_ROWS - 1, MANY_ROWS]

    assert [linear.has_many_rows(normal(count, IN)) for count in counts] == [False, False, True]
    assert linear.has_many_rows(normal(2, MANY_ROWS // 2, IN))


def test_a_weight_is_unpacked_for_many_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, unpacked = filled(Linear).to_quantized(**MODES["4 bits"]), list[int]()
    original = linear.dequantize

    def counted(*arguments: Any) -> mx.array:
        unpacked.append(1)
        return original(*arguments)

    monkeypatch.setattr(linear, "dequantize", counted)

    packed(normal(MANY_ROWS - 1, IN))
    assert not unpacked
    packed(normal(MANY_ROWS, IN))
    assert len(unpacked) == 1


def test_many_rows_are_the_same_product_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = normal(3, MANY_ROWS, IN), normal(OUT, IN, seed=1)
    many = product(x, weight)
    monkeypatch.setattr(linear, "MANY_ROWS", 1 << 30)

    np.testing.assert_allclose(np.array(many), np.array(product(x, weight)), atol=1e-4)
