"""Steps found against steps known, packed bytes against MLX's reader, numba against numpy, decisions against truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert import lattice as rule
from g4convert.convert import lattice_kernels as kernels
from g4convert.convert.lattice import (
    Fit,
    Format,
    Solution,
    Tally,
    fit_block,
    fit_groups,
    is_lattice,
    sampled_rows,
    solve,
)
from g4convert.convert.lattice_kernels import EXACT, UNPLACED
from g4convert.convert.quantize import Packed, dequantize, pack, quantize, unpack
from g4convert.convert.recipe import LATTICE
from g4convert.tests.convert.lattice_cases import CASES, COLUMNS, ROWS, Case, Share, gaussian, noisy, rounded, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

Floats = NDArray[np.float32]
STORAGE = ("BF16", "F16", "F32")
ON = [name for name, case in CASES.items() if case.lattice]


def read_by_mlx(packed: Packed) -> Floats:
    """What MLX makes of the bytes, in float32."""
    assert packed.biases is not None
    words = mx.array(np.ascontiguousarray(packed.weight).view(np.uint32))
    scales, biases = (mx.array(array.astype(np.float32)) for array in (packed.scales, packed.biases))
    return np.array(mx.dequantize(words, scales, biases, LATTICE.group_size, LATTICE.bits, dtype=mx.float32))


def read_without_fusion(packed: Packed) -> Floats:
    """The product rounded to float32, then the sum."""
    assert packed.biases is not None
    codes = unpack(packed.weight, 4).reshape(len(packed.weight), -1, 32).astype(np.float32)
    scales, biases = (array.astype(np.float32)[..., None] for array in (packed.scales, packed.biases))
    decoded: Floats = (scales * codes + biases).reshape(len(packed.weight), -1)
    return decoded


def come_back(packed: Packed, weights: Floats, source: str) -> NDArray[np.bool_]:
    """Which groups do, bit for bit but for the sign of zero."""
    same = rounded(read_by_mlx(packed), source).reshape(-1, 32) == weights.reshape(-1, 32)
    return np.asarray(same.all(axis=1), np.bool_)


def within(share: float, bounds: Share) -> bool:
    return bounds[0] <= share <= bounds[1]


def relative_error(decoded: Floats, weights: Floats) -> float:
    misses = decoded.astype(np.float64) - weights
    return float(np.sqrt((misses**2).sum() / (weights.astype(np.float64) ** 2).sum()))


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("name", CASES)
def test_as_many_groups_come_back_as_can(name: str, storage: str) -> None:
    case = CASES[name]
    weights = case.make()

    solution = solve(weights, case.source, storage)

    assert solution.tally.groups == weights.size // 32
    assert within(solution.tally.placed / solution.tally.groups, case.placed)
    assert within(solution.tally.exact / solution.tally.groups, case.exact[storage])
    assert_counted(solution, weights, case, storage)


def assert_counted(solution: Solution, weights: Floats, case: Case, storage: str) -> None:
    """MLX's own reader finds the same groups exact; the affine rule may have luck with others."""
    states = fit_groups(weights.reshape(-1, 32), case.source, storage).states
    placed, back = states != UNPLACED, come_back(solution.packed, weights, case.source)
    np.testing.assert_array_equal(back[placed], states[placed] == EXACT)
    assert solution.tally.exact == (states == EXACT).sum()


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("name", ON)
def test_float32_holds_the_lattice_without_rounding(name: str, storage: str) -> None:
    case = CASES[name]
    weights = case.make()

    packed = solve(weights, case.source, storage).packed

    placed = fit_groups(weights.reshape(-1, 32), case.source, storage).states != UNPLACED
    readings = (read_by_mlx(packed), read_without_fusion(packed), dequantize(packed, LATTICE))
    mlx, unfused, fused = (reading.reshape(-1, 32)[placed] for reading in readings)
    np.testing.assert_array_equal(mlx, fused)
    np.testing.assert_array_equal(unfused, fused)
    assert packed.biases is not None
    scales, biases = (array.astype(np.float64).reshape(-1)[placed] for array in (packed.scales, packed.biases))
    np.testing.assert_array_equal(biases, -8 * scales)
    assert np.isfinite(scales).all()
    assert (scales != 0).all()


def turned(packed: Packed, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Packed:
    codes = unpack(packed.weight, 4).reshape(-1, 32)
    return replace(packed, weight=pack(change(codes), 4).reshape(packed.weight.shape))


def scaled(packed: Packed, scale: float, bias: float) -> Packed:
    assert packed.biases is not None
    kind = packed.scales.dtype
    scales, biases = (array.astype(np.float64) for array in (packed.scales, packed.biases))
    return Packed(packed.weight, (scales * scale).astype(kind), (biases * bias).astype(kind))


MUTATIONS: Mapping[str, Callable[[Packed], Packed]] = {
    "codes one up": lambda packed: turned(packed, lambda codes: (codes + np.uint8(1)) & np.uint8(15)),
    "codes mirrored": lambda packed: turned(packed, lambda codes: np.uint8(15) - codes),
    "halves of a byte swapped": lambda packed: turned(
        packed, lambda codes: codes.reshape(-1, 2)[:, ::-1].reshape(-1, 32)
    ),
    "codes of the next group": lambda packed: turned(packed, lambda codes: np.roll(codes, 1, axis=0)),
    "bias of -7 steps": lambda packed: scaled(packed, 1, 7 / 8),
    "bias of the other sign": lambda packed: scaled(packed, 1, -1),
    "scale of the other sign": lambda packed: scaled(packed, -1, 1),
    "half a step": lambda packed: scaled(packed, 0.5, 0.5),
    "the next step": lambda packed: scaled(packed, 1 + 2.0**-7, 1 + 2.0**-7),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_of_exactness_sees_every_mistake(mutation: str) -> None:
    weights = CASES["largest / 7.5"].make()
    sound = solve(weights, "BF16", "BF16").packed

    broken = MUTATIONS[mutation](sound)

    assert come_back(sound, weights, "BF16").all()
    assert come_back(broken, weights, "BF16").mean() < 0.01


@pytest.mark.parametrize("divisor", [8, 7.5, 7, 5])
def test_the_very_step_is_found(divisor: float) -> None:
    """Not only the values come back: levels and steps do, unrounded, where the values determine them."""
    truth = trained(divisor)

    for storage in STORAGE:
        decoded = dequantize(solve(truth.weights("BF16"), "BF16", storage).packed, LATTICE)

        same = decoded.reshape(-1, 32) == (truth.levels * truth.steps).reshape(-1, 32)
        assert same.all(axis=1).mean() > 0.99


def test_steps_of_four_bits_need_no_rounding() -> None:
    weights = CASES["steps of four bits"].make()

    np.testing.assert_array_equal(read_by_mlx(solve(weights, "BF16", "BF16").packed), weights)


@pytest.mark.parametrize("name", ["largest / 8", "largest / 7.5", "largest / 7", "positive peaks"])
def test_mlx_loses_what_the_lattice_keeps(name: str) -> None:
    """mx.quantize in groups of 32 misses by 4 to 8 %; what is left here is the rounding of the source itself."""
    weights = CASES[name].make()
    words, scales, biases = mx.quantize(mx.array(weights).astype(mx.bfloat16), 32, 4)
    theirs = mx.dequantize(words, scales.astype(mx.float32), biases.astype(mx.float32), 32, 4, dtype=mx.float32)

    ours = read_by_mlx(solve(weights, "BF16", "BF16").packed)

    assert relative_error(np.array(theirs), weights) > 0.04
    assert relative_error(ours, weights) < 0.0016


def test_the_nearest_step_is_stored_where_the_very_one_cannot_be() -> None:
    weights = CASES["float32 step, largest / 7.5"].make()

    errors = [relative_error(read_by_mlx(solve(weights, "BF16", storage).packed), weights) for storage in STORAGE]

    assert errors[0] < 0.0021
    assert max(errors[1:]) < 0.0017
    source = CASES["float32 weights, float32 step"].make()
    assert relative_error(read_by_mlx(solve(source, "F32", "F32").packed), source) < 2.0**-20


def test_what_is_on_no_lattice_is_packed_by_the_affine_rule() -> None:
    weights = CASES["one group in 100 on no lattice"].make()
    strangers = np.ascontiguousarray(weights.reshape(-1, 32)[::100])

    packed = solve(weights, "BF16", "BF16").packed

    affine = quantize(strangers, LATTICE, "BF16")
    assert packed.weight.reshape(-1, 16)[::100].tobytes() == affine.weight.tobytes()
    for part, other in ((packed.scales, affine.scales), (packed.biases, affine.biases)):
        assert part is not None
        assert other is not None
        assert part.reshape(-1)[::100].tobytes() == other.tobytes()


def test_zeros_have_a_scale_of_their_own() -> None:
    packed = solve(np.zeros((1, 64), np.float32), "BF16", "BF16").packed

    assert packed.weight.tobytes() == b"\x88" * 32
    assert packed.scales.astype(np.float32).tolist() == [[2.0**-23] * 2]
    assert packed.biases is not None
    assert packed.biases.astype(np.float32).tolist() == [[-(2.0**-20)] * 2]


GOLDEN = bytes.fromhex("10325476 98badcfe 10325476 98badcfe")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_golden_bytes_of_a_known_group(sign: float) -> None:
    """Code k + 8 is the k-th step, two codes a byte, low half first; a positive eighth level turns the scale."""
    levels = np.tile(np.arange(-8, 8, dtype=np.float32), 2)[None]

    packed = solve(sign * 0.75 * levels, "BF16", "BF16").packed

    assert packed.weight.tobytes() == GOLDEN
    assert packed.scales.astype(np.float32).tolist() == [[0.75 * sign]]
    assert packed.biases is not None
    assert packed.biases.astype(np.float32).tolist() == [[-6.0 * sign]]


@pytest.fixture(params=["numba", "numpy"])
def formulation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(rule, "lattice_kernel", None)


@pytest.mark.usefixtures("formulation")
@pytest.mark.parametrize("storage", ["BF16", "F16"])
def test_no_bias_is_infinite(storage: str) -> None:
    """One level would do, but eight steps of that size are too many for the bias."""
    peak = 0.7 * rule.STEPS[storage].largest
    weights = rounded(np.tile([peak, 0, -peak, 0], 8)[None], "BF16")

    solution = solve(weights, "BF16", storage)

    assert solution.tally.placed == 1
    assert solution.packed.biases is not None
    assert np.isfinite(solution.packed.biases.astype(np.float32)).all()
    assert abs(float(solution.packed.scales[0, 0])) == pytest.approx(peak / 6, rel=0.01)


@pytest.mark.usefixtures("formulation")
def test_below_the_smallest_normal_number_the_spacing_stays() -> None:
    """2^-14 of float16 has neighbours at 2^-24 on both sides, so a step of 2^-14 - 3/8 * 2^-24 rounds to it."""
    step = 2.0**-14 - 0.375 * 2.0**-24
    weights = rounded(np.tile([1, -2, 0, 0], 8)[None] * step, "F16")

    assert weights[0, :2].tolist() == [2.0**-14, -(2.0**-13) + 2.0**-24]
    assert solve(weights, "F16", "F32").tally.exact == 1


# -- the same bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False], ids=["numba", "numpy"])
@pytest.mark.parametrize("levels", [[7, 0], [-7, 7], [3, -6], [-5, 0], [6, -6, 0]], ids=str)
def test_levels_with_a_common_divisor_keep_the_step_that_can_be_stored(
    levels: list[int], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three levels of one step are one level of a step with two bits more, which bfloat16 does not hold."""
    if not compiled:
        monkeypatch.setattr(rule, "lattice_kernel", None)
    step = np.float32(173 / 2**14)  # all eight bits of a bfloat16
    groups = np.resize(np.array(levels, np.float32), (40, 32)) * step

    found = solve(groups, "F32", "BF16")

    assert found.tally == Tally(40, 40, 40)
    assert np.array_equal(dequantize(found.packed, LATTICE).reshape(40, 32), groups)


needs_numba = pytest.mark.skipif(kernels.lattice_kernel is None, reason="numba, the extra `fast`, is not installed")


def assert_same(one: Fit, other: Fit) -> None:
    assert one.states.tobytes() == other.states.tobytes()
    assert one.steps.tobytes() == other.steps.tobytes()
    assert one.packed.tobytes() == other.packed.tobytes()


@needs_numba
@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("name", CASES)
def test_numba_and_numpy_give_the_same_bytes(name: str, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    groups = case.make().reshape(-1, 32)[: 64 * 15 + 7]  # not a multiple of the lanes
    fast = fit_groups(groups, case.source, storage)
    monkeypatch.setattr(rule, "lattice_kernel", None)
    monkeypatch.setattr(rule, "BLOCK_GROUPS", 500)

    assert_same(fit_groups(groups, case.source, storage), fast)


@pytest.mark.parametrize("name", ["one group in 100 on no lattice", "float32 step, largest / 8", "gaussian"])
def test_chunks_make_no_difference(name: str) -> None:
    """Rows of experts are rows: a tensor of three dimensions is cut as one of two."""
    weights = CASES[name].make()
    whole = solve(weights, "BF16", "BF16")

    parts = [solve(weights[start:stop], "BF16", "BF16") for start, stop in ((0, 5), (5, 6), (6, 100), (100, ROWS))]

    assert b"".join(part.packed.weight.tobytes() for part in parts) == whole.packed.weight.tobytes()
    assert b"".join(part.packed.scales.tobytes() for part in parts) == whole.packed.scales.tobytes()
    assert sum(part.tally.exact for part in parts) == whole.tally.exact
    assert sum(part.tally.placed for part in parts) == whole.tally.placed


# -- any step, any levels ----------------------------------------------------------------------------------------------

ODD_BITS = [0, 1, 2, 3, 5, 8, 127, 128, 129, 0x3F80, 0x7F7F, 0x4001, 0xBF80, 0x80FF]
groups_of_levels = hnp.arrays(np.int8, (4, 32), elements=st.integers(-8, 7))


@settings(max_examples=60, deadline=None)
@given(
    levels=groups_of_levels,
    mantissa=st.integers(128, 255),
    exponent=st.integers(-133, 115),
    turn=st.sampled_from([1, -1]),
    storage=st.sampled_from(["BF16", "F32"]),
)
def test_any_bfloat16_step_and_any_levels(
    levels: NDArray[np.int8], mantissa: int, exponent: int, turn: int, storage: str
) -> None:
    step = turn * np.ldexp(float(mantissa), exponent)
    weights = rounded(levels * step, "BF16")

    solution = solve(weights, "BF16", storage)

    assert solution.tally.exact == 4
    assert come_back_exactly(solution.packed, weights, "BF16")


def come_back_exactly(packed: Packed, weights: Floats, source: str) -> bool:
    """As `come_back`, without MLX, which flushes subnormal numbers on some machines."""
    return bool((rounded(dequantize(packed, LATTICE), source) == weights).all())


@settings(max_examples=60, deadline=None)
@given(
    levels=groups_of_levels,
    step=st.floats(2.0**-30, 500, width=32),
    source=st.sampled_from(["BF16", "F16"]),
    storage=st.sampled_from(STORAGE),
)
def test_any_step_is_placed_and_counted_right(levels: NDArray[np.int8], step: float, source: str, storage: str) -> None:
    weights = rounded(levels * step, source)

    solution = solve(weights, source, storage)

    assert solution.tally.placed == 4
    assert (solution.tally.exact == 4) == come_back_exactly(solution.packed, weights, source)
    assert storage != "F32" or solution.tally.exact == 4


@needs_numba
@settings(max_examples=60, deadline=None)
@given(
    bits=hnp.arrays(np.uint32, (4, 32), elements=st.sampled_from(ODD_BITS)),
    source=st.sampled_from(["BF16", "F32"]),
    storage=st.sampled_from(STORAGE),
)
def test_odd_numbers_give_the_same_bytes_too(bits: NDArray[np.uint32], source: str, storage: str) -> None:
    groups = (bits << 16).view(np.float32)

    fast = fit_groups(groups, source, storage)

    assert_same(fit_block(groups, rule.SOURCES[source], rule.STEPS[storage]), fast)
    assert np.isfinite(8 * fast.steps).all()


# -- the decision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_decision_is_right(name: str) -> None:
    case = CASES[name]
    weights = case.make()

    assert is_lattice(weights[sampled_rows(ROWS, COLUMNS)], case.source) == case.lattice
    assert is_lattice(weights[:1], case.source) == case.lattice


@pytest.mark.parametrize(("noise", "lattice"), [(0.0, True), (0.02, False), (0.05, False)])
def test_noise_ends_a_lattice(noise: float, lattice: bool) -> None:
    assert is_lattice(noisy(noise), "BF16") == lattice


@pytest.mark.parametrize(("strangers", "lattice"), [(0.05, True), (0.2, False), (0.7, False)])
def test_nine_groups_in_ten_make_a_lattice(strangers: float, lattice: bool) -> None:
    weights = trained().weights("BF16").reshape(-1, 32)
    count = int(strangers * len(weights))
    chosen = np.random.default_rng(0).permutation(len(weights))[:count]
    weights[chosen] = rounded(gaussian(1).reshape(-1, 32)[chosen], "BF16")

    assert is_lattice(weights.reshape(ROWS, COLUMNS), "BF16") == lattice


def test_zeros_do_not_count() -> None:
    weights = trained().weights("BF16")
    weights[: ROWS - 1] = 0
    assert is_lattice(weights, "BF16")
    weights[ROWS - 1] = rounded(gaussian()[0].reshape(-1), "BF16")
    assert not is_lattice(weights, "BF16")


def test_a_refusal_looks_at_few_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counting(groups: Floats, source: Format, storage: Format) -> Fit:
        looked.append(len(groups))
        return fit_block(groups, source, storage)

    monkeypatch.setattr(rule, "fit_block", counting)

    assert not is_lattice(CASES["gaussian"].make(), "BF16")
    assert looked == [64]
    assert is_lattice(CASES["largest / 8"].make(), "BF16")
    assert looked == [64, 64, 1024]


@pytest.mark.parametrize(
    ("rows", "cols", "count"), [(262144, 1536, 22), (100000, 21504, 16), (5000, 256, 64), (7, 4096, 7), (1, 32, 1)]
)
def test_sampled_rows_are_few_and_spread(rows: int, cols: int, count: int) -> None:
    chosen = sampled_rows(rows, cols)

    assert len(chosen) == count == len(set(chosen.tolist()))
    assert 0 <= chosen.min() <= chosen.max() < rows
    assert np.ptp(chosen) >= (rows - 1) * (count - 1) // count
