"""Packed bytes against MLX's own reader, the rule against mx.quantize, numba against numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert import kernels
from g4convert.convert import quantize as rule
from g4convert.convert.quantize import Packed, dequantize, pack, quantize, unpack
from g4convert.convert.recipe import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES, MIN_MAX, ROUNDINGS, SEARCH, Quantization
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
    values = generator.standard_normal(shape)
    match kind:
        case "gaussian":
            values = 0.02 * values
        case "heavy-tailed":
            values = 0.02 * generator.standard_t(3, shape)
        case "uniform":
            values = generator.uniform(-1, 1, shape)
        case "one-sided":
            values = 1 + generator.random(shape)
        case "few values":
            values = np.round(values) / 4
        case "mostly zero":
            values[generator.random(shape) < 0.95] = 0
        case "one outlier":
            values = 0.02 * values
            values[:, ::32] = generator.choice([-3, 3], values[:, ::32].shape)
        case "constant":
            values = np.repeat(values[:, ::128], 128, axis=1)
        case "many magnitudes":
            values = values * 10.0 ** generator.integers(-9, 4, shape)
        case "subnormal":
            values = values * 2.0**-128
        case "huge":
            values = values * 2.0**123
        case "far from zero":  # there are no such bfloat16
            return (100 + 0.1 * values).astype(np.float32)
    return bf16(values)


USUAL = ("gaussian", "heavy-tailed")
UNUSUAL = ("uniform", "one-sided", "few values", "mostly zero", "one outlier", "constant")
MAGNITUDES = ("many magnitudes", "subnormal", "huge")
WEIGHTS = USUAL + UNUSUAL + MAGNITUDES

# So much less squared error than mx.quantize's at least, in groups of any size, by bits.
GAINS = {2: 0.25, 3: 0.22, 4: 0.15, 5: 0.13, 6: 0.13, 8: 0.38}


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


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("spec", AFFINE_SPECS, ids=name)
def test_no_group_is_worse_than_mlx(spec: Quantization, kind: str, rounding: str) -> None:
    values = weights(kind)
    theirs = quantized_by_mlx(values, spec)

    ours = dequantize(quantize(values, spec, "BF16", rounding), spec)

    our_errors, their_errors = (squared_errors(decoded, values, spec.group_size) for decoded in (ours, theirs))
    assert (our_errors <= their_errors).all()
    if kind in USUAL and rounding == SEARCH:
        assert our_errors.sum() < (1 - GAINS[spec.bits]) * their_errors.sum()


@pytest.mark.parametrize("spec", AFFINE_SPECS, ids=name)
def test_a_search_is_never_worse_than_none(spec: Quantization) -> None:
    values = weights("heavy-tailed")

    searched, plain = (dequantize(quantize(values, spec, "BF16", rounding), spec) for rounding in (SEARCH, MIN_MAX))

    errors, plain_errors = (squared_errors(decoded, values, spec.group_size) for decoded in (searched, plain))
    assert (errors <= plain_errors * (1 + 1e-6)).all()
    assert errors.sum() < plain_errors.sum()


def quantize_plainly(values: Floats, spec: Quantization, storage: str, rounding: str = SEARCH) -> Packed:
    """The numpy formulation, whether numba is installed or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule, "affine_kernel", None)
        patch.setattr(rule, "min_max_kernel", None)
        return quantize(values, spec, storage, rounding)


needs_numba = pytest.mark.skipif(kernels.affine_kernel is None, reason="numba, the extra `fast`, is not installed")


@needs_numba
@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("kind", [*WEIGHTS, "far from zero"])
@pytest.mark.parametrize("spec", AFFINE_SPECS, ids=name)
def test_numba_and_numpy_give_the_same_bytes(spec: Quantization, kind: str, storage: str) -> None:
    values = weights(kind, rows=9)  # not a multiple of the lanes

    for rounding in ROUNDINGS:
        assert_same(quantize(values, spec, storage, rounding), quantize_plainly(values, spec, storage, rounding))


@needs_numba
@settings(max_examples=150, deadline=None)
@given(
    patterns=hnp.arrays(np.uint16, (3, 128)),
    exponents=st.sampled_from([0xFFFF, 0x8FFF, 0xBFFF]),
    spec=st.sampled_from(AFFINE_SPECS),
    storage=st.sampled_from(STORAGE),
)
def test_numba_and_numpy_agree_on_any_bits(
    patterns: NDArray[np.uint16], exponents: int, spec: Quantization, storage: str
) -> None:
    """All of bfloat16 but its infinities: all magnitudes at once, subnormal to 2**-96, and up to 2."""
    finite = np.where(patterns & 0x7F80 == 0x7F80, patterns & 0x807F, patterns) & exponents
    values = finite.astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)

    for rounding in ROUNDINGS:
        assert_same(quantize(values, spec, storage, rounding), quantize_plainly(values, spec, storage, rounding))


@pytest.mark.parametrize("quantizer", [quantize, quantize_plainly])
@pytest.mark.parametrize("spec", ALL_SPECS, ids=name)
def test_bfloat16_is_quantized_as_the_floats_that_it_stands_for(
    spec: Quantization, quantizer: Callable[..., Packed]
) -> None:
    values = weights("heavy-tailed", rows=9).astype(ml_dtypes.bfloat16)

    for rounding in ROUNDINGS:
        widened = quantizer(values.astype(np.float32), spec, "BF16", rounding)
        assert_same(quantizer(values, spec, "BF16", rounding), widened)


def assert_same(one: Packed, other: Packed) -> None:
    np.testing.assert_array_equal(one.weight, other.weight)
    assert one.scales.tobytes() == other.scales.tobytes()
    biases = [None if packed.biases is None else packed.biases.tobytes() for packed in (one, other)]
    assert biases[0] == biases[1]


@needs_numba
def test_the_kernel_rounds_to_float16_as_numpy_does() -> None:
    """Every float16, the middles between neighbours and what lies beside them, subnormal to beyond the largest."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = np.append((halves[:-1] + halves[1:]) / 2, [np.float32(65520), np.float32(1e38)])
    around = [halves, middles, np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(0))]
    values = np.concatenate(around + [-part for part in around]).astype(np.float32)
    values = np.resize(values, (len(values) // kernels.LANES + 1, kernels.LANES))
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)

    for row in values:
        kernels._to_float16(row, row.view(np.uint32))

    assert values.tobytes() == expected.tobytes()


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
    assert_same(packed, quantize_plainly(values, spec, storage))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("plain", [False, True], ids=["as installed", "numpy"])
def test_golden_digest(plain: bool, rounding: str) -> None:
    """The bytes are part of the rule: where they change, so does its name in `ROUNDINGS`."""
    steps = (np.arange(4096, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(16)).astype(np.float32) / 2**15 - 1
    values = bf16(steps * steps * steps).reshape(8, 512)
    digest = hashlib.sha256()

    for spec in AFFINE_SPECS:
        for storage in STORAGE:
            packed = (quantize_plainly if plain else quantize)(values, spec, storage, rounding)
            for part in (packed.weight, packed.scales, packed.biases):
                digest.update(part.tobytes() if part is not None else b"")

    assert digest.hexdigest() == GOLDEN_DIGESTS[rounding]


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


GOLDEN_DIGESTS = {
    SEARCH: "0fa2b4825898721b4e342f28e1ee7977b50bf26fdcab84926b5b8490bc2240c4",
    MIN_MAX: "065a32354a9b71b56dc7c4d80f964f23c1dcaeb3f1f48e87397689afde6ee413",
}
GOLDEN = bytes.fromhex("10325476 98badcfe 10325476 98badcfe")


def test_golden_bytes_of_a_known_group() -> None:
    """Sixteen equal steps twice over: code k is the k-th step, two codes a byte, low half first."""
    values = np.tile(np.arange(-8, 8, dtype=np.float32), 2)[None]

    packed = quantize(values, Quantization(4, 32), "BF16")

    assert packed.weight.tobytes() == GOLDEN
    assert packed.scales.astype(np.float32).tolist() == [[1.0]]
    assert packed.biases is not None
    assert packed.biases.astype(np.float32).tolist() == [[-8.0]]
