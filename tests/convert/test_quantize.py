"""Packed bytes against MLX's own reader, the rule against mx.quantize, numba against numpy."""

from __future__ import annotations

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert import kernels
from g4convert.convert import quantize as rule
from g4convert.convert.quantize import Packed, affine_block, dequantize, pack, quantize, unpack
from g4convert.convert.recipe import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES, Quantization
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

Floats = NDArray[np.float32]
AFFINE_SPECS = [Quantization(bits, group) for bits in AFFINE_BITS for group in AFFINE_GROUPS]
ALL_SPECS = AFFINE_SPECS + [Quantization(bits, group, mode) for mode, (bits, group) in FIXED_MODES.items()]
STORAGE = ("BF16", "F16", "F32")


def name(spec: object) -> str:
    return f"{spec.mode}-{spec.bits}-{spec.group_size}" if isinstance(spec, Quantization) else str(spec)


def bf16(values: NDArray[np.floating]) -> Floats:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def weights(kind: str, rows: int = 32, columns: int = 512) -> Floats:
    generator = np.random.default_rng(7)
    shape = (rows, columns)
    match kind:
        case "gaussian":
            return bf16(0.02 * generator.standard_normal(shape))
        case "heavy-tailed":
            return bf16(0.02 * generator.standard_t(3, shape))
        case "many magnitudes":
            return bf16(generator.standard_normal(shape) * 10.0 ** generator.integers(-9, 4, shape))
        case "one-sided":
            return bf16(1 + generator.random(shape))
        case _:
            return bf16(np.round(generator.standard_normal(shape)) / 4)


WEIGHTS = ("gaussian", "heavy-tailed", "many magnitudes", "one-sided", "few values")


def read_by_mlx(packed: Packed, spec: Quantization) -> Floats:
    """What MLX makes of our bytes, in float32."""
    words = mx.array(np.ascontiguousarray(packed.weight).view(np.uint32))
    affine = packed.biases is not None
    scales = mx.array(packed.scales.astype(np.float32) if affine else packed.scales)
    biases = None if packed.biases is None else mx.array(packed.biases.astype(np.float32))
    return decode_by_mlx(words, scales, biases, spec)


def decode_by_mlx(words: mx.array, scales: mx.array, biases: mx.array | None, spec: Quantization) -> Floats:
    return np.array(mx.dequantize(words, scales, biases, spec.group_size, spec.bits, spec.mode, dtype=mx.float32))


def quantized_by_mlx(values: Floats, spec: Quantization) -> Floats:
    """What `mx.quantize` keeps of bfloat16 weights, decoded in float32."""
    words, scales, *biases = mx.quantize(mx.array(values).astype(mx.bfloat16), spec.group_size, spec.bits, spec.mode)
    if not biases:
        return decode_by_mlx(words, scales, None, spec)
    return decode_by_mlx(words, scales.astype(mx.float32), biases[0].astype(mx.float32), spec)


def squared_errors(decoded: Floats, values: Floats, group: int) -> NDArray[np.float64]:
    misses = decoded.astype(np.float64) - values
    errors: NDArray[np.float64] = (misses * misses).reshape(-1, group).sum(axis=1)
    return errors


@pytest.mark.parametrize("spec", ALL_SPECS, ids=name)
def test_mlx_reads_what_we_meant(spec: Quantization) -> None:
    values = weights("gaussian")

    packed = quantize(values, spec, "BF16")

    np.testing.assert_array_equal(read_by_mlx(packed, spec), dequantize(packed, spec))


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("spec", AFFINE_SPECS, ids=name)
def test_no_group_is_worse_than_mlx(spec: Quantization, kind: str) -> None:
    values = weights(kind)
    theirs = quantized_by_mlx(values, spec)

    ours = dequantize(quantize(values, spec, "BF16"), spec)

    our_errors, their_errors = (squared_errors(decoded, values, spec.group_size) for decoded in (ours, theirs))
    assert (our_errors <= their_errors).all()
    if kind in ("gaussian", "heavy-tailed"):
        assert our_errors.sum() < 0.97 * their_errors.sum()


@pytest.mark.skipif(kernels.affine_kernel is None, reason="numba, the extra `fast`, is not installed")
@pytest.mark.parametrize("storage", ["BF16", "F32"])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("spec", AFFINE_SPECS, ids=name)
def test_numba_and_numpy_give_the_same_bytes(
    spec: Quantization, kind: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = weights(kind, rows=9)  # not a multiple of the lanes
    fast = quantize(values, spec, storage)
    monkeypatch.setattr(rule, "affine_kernel", None)

    plain = quantize(values, spec, storage)

    assert_same(fast, plain)


def assert_same(one: Packed, other: Packed) -> None:
    np.testing.assert_array_equal(one.weight, other.weight)
    assert one.scales.tobytes() == other.scales.tobytes()
    assert (one.biases is None) == (other.biases is None)
    if one.biases is not None and other.biases is not None:
        assert one.biases.tobytes() == other.biases.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(np.float32, (4, 64), elements=st.floats(-1e4, 1e4, width=32)),
    bits=st.sampled_from(AFFINE_BITS),
    storage=st.sampled_from(STORAGE),
)
def test_any_values_survive(values: Floats, bits: int, storage: str) -> None:
    spec = Quantization(bits, 32)
    packed = quantize(values, spec, storage)

    decoded = dequantize(packed, spec)

    assert np.isfinite(decoded).all()
    spread = np.ptp(values.reshape(-1, 32), axis=1) + np.abs(values).reshape(-1, 32).max(axis=1)
    miss = np.abs(decoded - values).reshape(-1, 32).max(axis=1)
    assert (miss <= spread + 1e-3).all()
    fast_and_plain = affine_block(values.reshape(-1, 32), bits, rule.STORAGE[storage])
    assert fast_and_plain[0].tobytes() == packed.weight.tobytes()


@pytest.mark.parametrize("spec", ALL_SPECS, ids=name)
def test_zero_groups_decode_to_exact_zero(spec: Quantization) -> None:
    values = weights("gaussian")
    values[3, : spec.group_size] = 0

    decoded = dequantize(quantize(values, spec, "BF16"), spec)

    assert not decoded[3, : spec.group_size].any()


@pytest.mark.parametrize("spec", AFFINE_SPECS, ids=name)
def test_codes_are_the_nearest_for_the_stored_scale_and_bias(spec: Quantization) -> None:
    values = weights("heavy-tailed")
    packed = quantize(values, spec, "BF16")
    scale, bias = packed.scales.astype(np.float64)[..., None], packed.biases.astype(np.float64)[..., None]  # type: ignore[union-attr]
    levels = np.arange(2**spec.bits)

    grouped = values.astype(np.float64).reshape(len(values), -1, spec.group_size)
    best = np.abs(grouped[..., None] - (scale * levels + bias)[:, :, None, :]).min(axis=-1)

    ours = np.abs(dequantize(packed, spec).astype(np.float64).reshape(grouped.shape) - grouped)
    np.testing.assert_allclose(ours, best, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("mode", FIXED_MODES)
@pytest.mark.parametrize("kind", ["gaussian", "heavy-tailed"])
def test_shared_exponents_are_at_least_as_good_as_mlx(mode: str, kind: str) -> None:
    bits, group = FIXED_MODES[mode]
    spec, values = Quantization(bits, group, mode), weights(kind)
    theirs = quantized_by_mlx(values, spec)

    ours = dequantize(quantize(values, spec, "BF16"), spec)

    assert squared_errors(ours, values, group).sum() <= squared_errors(theirs, values, group).sum()


@pytest.mark.parametrize(("mode", "largest"), [("mxfp4", 2.0**100), ("mxfp8", 2.0**100), ("nvfp4", 448 * 6.0)])
def test_shared_exponents_reach_both_ends(mode: str, largest: float) -> None:
    bits, group = FIXED_MODES[mode]
    spec = Quantization(bits, group, mode)
    values = np.repeat(np.array([[1e-30], [1e-8], [largest]], np.float32), 64, axis=1)

    decoded = dequantize(quantize(values, spec, "BF16"), spec)

    assert np.isfinite(decoded).all()
    assert decoded[2, 0] == largest


@settings(max_examples=40, deadline=None)
@given(data=st.data(), bits=st.sampled_from([2, 3, 4, 5, 6, 8]))
def test_packing_is_a_bit_stream(data: st.DataObject, bits: int) -> None:
    codes = data.draw(hnp.arrays(np.uint8, (3, 32), elements=st.integers(0, 2**bits - 1)))

    packed = pack(codes, bits)

    stream = np.unpackbits(packed, axis=1, bitorder="little").reshape(3, 32, bits)
    np.testing.assert_array_equal(stream @ (1 << np.arange(bits)), codes)
    np.testing.assert_array_equal(unpack(packed, bits), codes)


GOLDEN = bytes.fromhex("10325476 98badcfe 10325476 98badcfe")


def test_golden_bytes_of_a_known_group() -> None:
    """Sixteen equal steps twice over: code k is the k-th step, two codes a byte, low half first."""
    values = np.tile(np.arange(-8, 8, dtype=np.float32), 2)[None]

    packed = quantize(values, Quantization(4, 32), "BF16")

    assert packed.weight.tobytes() == GOLDEN
    assert packed.scales.astype(np.float32).tolist() == [[1.0]]
    assert packed.biases is not None
    assert packed.biases.astype(np.float32).tolist() == [[-8.0]]
