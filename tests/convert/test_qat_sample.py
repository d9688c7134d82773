"""The sample trained for four bits is what it claims to be: on a grid where it was trained, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert.lattice import Solution, Tally, is_lattice, sampled_rows, solve
from g4convert.convert.quantize import STORAGE, Packed, unpack
from g4convert.convert.recipe import LATTICE
from g4convert.convert.source import open_source
from g4convert.tests.convert.qat_variants import (
    SAMPLE,
    float32_steps,
    four_bit_steps,
    fp16_steps,
    trained_for_four_bits,
)
from g4convert.tests.support import CHECKPOINTS, Tensors, copy_of, edit_json, read_tensors
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Variant = Callable[[Path], Path]

FOLDER = CHECKPOINTS / SAMPLE
BEFORE = CHECKPOINTS / "e2b"
MATRICES = 52
BF16 = STORAGE["BF16"]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return read_tensors(FOLDER)


@pytest.fixture(scope="module")
def matrices(tensors: Tensors) -> Tensors:
    """What was trained on a grid."""
    return {name: tensors[name] for name in trained_for_four_bits(FOLDER, tensors)}


@pytest.fixture(scope="module")
def solved(matrices: Tensors) -> dict[str, Solution]:
    return {name: solve(as_float32(matrix), "BF16", "BF16") for name, matrix in matrices.items()}


def as_float32(array: NDArray[Any]) -> Floats:
    assert array.dtype == BF16
    return array.astype(np.float32)


def found_on_lattice(matrix: NDArray[Any]) -> bool:
    rows = as_float32(matrix)
    return is_lattice(rows[sampled_rows(*rows.shape)], "BF16")


def in_float32(packed: Packed) -> Floats:
    """What MLX makes of the bytes with scales and biases in float32, not rounded."""
    assert packed.biases is not None
    words = mx.array(np.ascontiguousarray(packed.weight).view(np.uint32))
    scales, biases = (mx.array(array.astype(np.float32)) for array in (packed.scales, packed.biases))
    return np.array(mx.dequantize(words, scales, biases, LATTICE.group_size, LATTICE.bits, dtype=mx.float32))


def in_bfloat16(packed: Packed) -> NDArray[Any]:
    """Product and sum each rounded to bfloat16."""
    assert packed.biases is not None
    codes = unpack(packed.weight, LATTICE.bits).reshape(len(packed.weight), -1, LATTICE.group_size).astype(BF16)
    decoded = packed.scales[..., None] * codes + packed.biases[..., None]
    assert decoded.dtype == BF16
    return np.asarray(decoded.reshape(len(packed.weight), -1))


def by_mlx(matrix: NDArray[Any]) -> Packed:
    """What `mx.quantize` packs; it rounds scales and biases to the dtype of the matrix."""
    packed = mx.quantize(mx.array(as_float32(matrix)).astype(mx.bfloat16), LATTICE.group_size, LATTICE.bits)
    scales, biases = (np.array(part.astype(mx.float32)) for part in packed[1:])
    return Packed(np.array(packed[0]).view(np.uint8), scales, biases)


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in tensors.items()}


def bits(array: NDArray[Any]) -> NDArray[np.uint16]:
    return array.astype(BF16).view(np.uint16)


def relative_error(decoded: Floats, matrix: NDArray[Any]) -> float:
    true = matrix.astype(np.float64)
    return float(np.sqrt(np.square(decoded - true).sum() / np.square(true).sum()))


def test_it_has_the_form_of_the_sample_before(tensors: Tensors) -> None:
    before = read_tensors(BEFORE)
    assert shapes(tensors) == shapes(before)
    for file in sorted(BEFORE.iterdir()):
        if file.name not in ("config.json", "model.safetensors"):
            assert (FOLDER / file.name).read_bytes() == file.read_bytes(), file.name


def test_only_the_language_model_was_trained(tensors: Tensors, matrices: Tensors) -> None:
    before = read_tensors(BEFORE)
    changed = {name for name in tensors if not np.array_equal(bits(tensors[name]), bits(before[name]))}
    assert len(matrices) == MATRICES
    assert matrices.keys() <= changed
    assert all(name.startswith("model.language_model.") for name in changed)
    assert not any(name.endswith("layer_scalar") for name in changed)


def test_the_sample_is_no_quantized_source(tmp_path: Path) -> None:
    assert open_source(FOLDER).document["transformers_version"] == "5.6.2"
    source = copy_of(SAMPLE, tmp_path / "source")
    edit_json(source / "config.json", lambda document: document.update(quantization_config={"bits": 4}))
    open_source(source)


def test_every_trained_matrix_is_on_a_lattice(matrices: Tensors) -> None:
    assert [name for name, matrix in matrices.items() if not found_on_lattice(matrix)] == []


def test_nothing_else_is(tensors: Tensors, matrices: Tensors) -> None:
    """Towers, embedders, norms, the projection of the per-layer inputs, K/V that nothing reads."""
    others = {name: array for name, array in tensors.items() if array.shape and array.shape[-1] % 32 == 0}
    rows = {name: array.reshape(-1, array.shape[-1]) for name, array in others.items() if name not in matrices}
    assert len(rows) > 100
    assert [name for name, array in rows.items() if found_on_lattice(array)] == []


def test_every_group_comes_back_bit_for_bit(matrices: Tensors, solved: dict[str, Solution]) -> None:
    for name, matrix in matrices.items():
        assert solved[name].tally == Tally(*[matrix.size // 32] * 3), name
        np.testing.assert_array_equal(bits(in_float32(solved[name].packed)), bits(matrix), name)


def test_the_levels_are_not_of_one_rule(solved: dict[str, Solution]) -> None:
    """The largest level is the eighth, on either side, or the seventh, or sometimes a smaller one."""
    packed = [solution.packed for solution in solved.values()]
    levels = np.concatenate([unpack(matrix.weight, 4).reshape(-1, 32).astype(int) - 8 for matrix in packed])
    steps = np.concatenate([matrix.scales.reshape(-1).astype(np.float64) for matrix in packed])
    largest = np.abs(levels).max(axis=1)
    shares = [(largest == 8).mean(), (largest == 7).mean(), (steps[largest == 8] < 0).mean()]
    np.testing.assert_allclose(shares, [0.30, 0.70, 0.30], atol=0.02)
    assert (largest < 7).sum() > 100


def test_the_steps_have_all_bits_of_bfloat16(solved: dict[str, Solution]) -> None:
    steps = np.concatenate([solution.packed.scales.reshape(-1) for solution in solved.values()]).astype(np.float64)
    odd = np.frexp(steps)[0] * 2**7 % 1 != 0
    assert 0.45 < odd.mean() < 0.55


def test_mx_quantize_loses_what_the_lattice_keeps(matrices: Tensors, solved: dict[str, Solution]) -> None:
    """Left in float32, the lattice differs from the file by no more than the file's own rounding."""
    for name, matrix in matrices.items():
        plain = relative_error(in_float32(by_mlx(matrix)), matrix)
        lattice = relative_error(in_float32(solved[name].packed), matrix)
        assert 0.05 < plain < 0.09, name
        assert 40 < plain / lattice < 65, name


# -- other steps -------------------------------------------------------------------------------------------------------


def solutions(folder: Path, storage: str) -> dict[str, tuple[NDArray[Any], Solution]]:
    found = read_tensors(folder)
    matrices = {name: found[name] for name in trained_for_four_bits(folder, found)}
    return {name: (matrix, solve(as_float32(matrix), "BF16", storage)) for name, matrix in matrices.items()}


def exact_share(folder: Path, storage: str) -> float:
    tally = sum((solution.tally for _, solution in solutions(folder, storage).values()), Tally())
    return tally.exact / tally.groups


@pytest.mark.parametrize("variant", [four_bit_steps, fp16_steps, float32_steps])
def test_a_variant_has_other_matrices_and_nothing_else(variant: Variant, tmp_path: Path, matrices: Tensors) -> None:
    folder = variant(tmp_path / "variant")
    open_source(folder)
    before, after = read_tensors(FOLDER), read_tensors(folder)
    assert before.keys() == after.keys()
    same = {name for name in before if np.array_equal(bits(before[name]), bits(after[name]))}
    assert same == before.keys() - matrices.keys()
    assert all(found_on_lattice(after[name]) for name in matrices)


def test_steps_of_four_bits_need_no_rounding(tmp_path: Path, solved: dict[str, Solution]) -> None:
    """Neither when the weights were stored nor in a runtime's arithmetic; those of eight bits need both."""
    for name, (matrix, solution) in solutions(four_bit_steps(tmp_path / "variant"), "BF16").items():
        assert solution.tally.exact == solution.tally.groups, name
        np.testing.assert_array_equal(in_float32(solution.packed), as_float32(matrix), name)
        np.testing.assert_array_equal(bits(in_bfloat16(solution.packed)), bits(matrix), name)
        longer = solved[name].packed
        assert (in_bfloat16(longer) != in_float32(longer).astype(BF16)).mean() > 0.1, name


@pytest.mark.parametrize(("variant", "storage"), [(fp16_steps, "F16"), (float32_steps, "F32")])
def test_longer_steps_come_back_with_scales_as_long(variant: Variant, storage: str, tmp_path: Path) -> None:
    folder = variant(tmp_path / "variant")
    assert exact_share(folder, storage) == 1.0
    assert 0.3 < exact_share(folder, "BF16") < 0.7
