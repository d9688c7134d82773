"""Which weights of a checkpoint are found to lie on a 4-bit grid, and what the conversion makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert import Options, hf_to_mlx, prepare, verify
from g4convert.convert.chunks import convert, cut, read
from g4convert.convert.lattice import Tally
from g4convert.convert.recipe import LATTICE
from g4convert.convert.verification.outcome import Status
from g4convert.loaders import load
from g4convert.tests.convert.lattice_cases import rounded
from g4convert.tests.support import copy_of, edit_json, edit_tensors, read_json, read_tensors
from numpy.typing import NDArray

Array = NDArray[Any]
MLP = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")


def on_a_grid(weights: Array, divisor: float = 7.5, step: str = "BF16", dtype: Any = ml_dtypes.bfloat16) -> Array:
    """The nearest multiples of a step per group of 32, stored in `dtype`."""
    groups = weights.astype(np.float32).reshape(-1, 32)
    largest = np.abs(groups).max(axis=1, keepdims=True)
    steps = rounded(largest / divisor, step).astype(np.float64)
    levels = np.clip(np.rint(groups / np.where(steps == 0, 1, steps)), -8, 7)
    return (levels * steps).astype(dtype).reshape(weights.shape)


def trained(folder: Path, endings: tuple[str, ...], snap: Callable[[Array], Array] = on_a_grid) -> Path:
    """Put the text weights whose names end so on a grid."""

    def edit(tensors: dict[str, Array]) -> None:
        chosen = {name: array for name, array in tensors.items() if name.endswith(endings) and "tower" not in name}
        tensors.update({name: snap(array) for name, array in chosen.items()})

    edit_tensors(folder, edit)
    return folder


def entries(output: Path) -> dict[str, Any]:
    """What the manifest says of each packed weight, without the name of the whole model."""
    tensors = read_json(output / "conversion.json")["tensors"].items()
    packed = {name: entry["quantization"] for name, entry in tensors if entry["quantization"]}
    return {name: packing for name, packing in packed.items() if packing["part"] == "weight"}


def endings_of(names: Iterable[str]) -> set[str]:
    return {".".join(name.split(".")[-2:]) for name in names}


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample whose MLPs were trained on a grid, and nothing else."""
    return trained(copy_of("text", tmp_path_factory.mktemp("grid") / "source"), MLP)


def test_weights_on_a_grid_are_packed_on_it_and_the_others_as_ever(partly: Path, tmp_path: Path) -> None:
    hf_to_mlx(partly, tmp_path / "out")

    found = entries(tmp_path / "out")
    grids = {name: packing["grid"] for name, packing in found.items() if "grid" in packing}
    assert endings_of(grids) == set(MLP)
    assert all(grid["rounded_to"] == "BF16" for grid in grids.values())
    assert all(grid["exact"] == grid["placed"] == grid["groups"] > 0 for grid in grids.values())
    assert {(p["bits"], p["group_size"]) for name, p in found.items() if name in grids} == {(4, 32)}
    assert {p["group_size"] for name, p in found.items() if name not in grids} == {64}


def test_what_comes_back_is_the_source_bit_for_bit(partly: Path, tmp_path: Path) -> None:
    hf_to_mlx(partly, tmp_path / "out")
    source = {name.removeprefix("model."): array for name, array in read_tensors(partly).items()}
    tensors: Any = mx.load(str(tmp_path / "out" / "model.safetensors"))
    grids = [name for name, packing in entries(tmp_path / "out").items() if "grid" in packing]

    for name in grids:
        module = name.removesuffix(".weight")
        scales, biases = (tensors[f"{module}.{leaf}"].astype(mx.float32) for leaf in ("scales", "biases"))
        values = np.array(mx.dequantize(tensors[name], scales, biases, group_size=32, bits=4, dtype=mx.float32))
        original = next(array for end, array in source.items() if name.endswith(end))
        assert np.array_equal(values.astype(ml_dtypes.bfloat16), original)


@pytest.mark.parametrize(
    "options",
    [Options(recipe="balanced"), Options(recipe="uniform"), Options(bits=3), Options(mode="mxfp4")],
    ids=["balanced", "uniform", "fewer bits", "another mode"],
)
def test_a_grid_is_passed_over_where_something_else_is_asked_for(partly: Path, options: Options) -> None:
    assert prepare(partly, options).plan.lattices == {}


@pytest.mark.parametrize("options", [Options(bits=8), Options(group_size=128)], ids=["8 bits", "groups of 128"])
def test_a_grid_beats_more_bits_and_other_groups(partly: Path, options: Options) -> None:
    plan = prepare(partly, options).plan

    assert {plan.quantized[module] for module in plan.lattices} == {LATTICE}
    assert len(plan.lattices) == 3 * plan.config.text.num_hidden_layers


def test_a_plain_sample_is_on_no_grid_and_gets_the_bytes_of_balanced(converted: Callable[..., Path]) -> None:
    one, other = converted("e2b"), converted("e2b", recipe="balanced")

    assert not any("grid" in packing for packing in entries(one).values())
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_recipe_file_may_ask_for_grids(partly: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\ngrid = true\n[default]\nbits = 4\n[[rule]]\npattern = "*.up_proj"\nquantize = false\n'
    )

    found = prepare(partly, Options(recipe=str(file))).plan.lattices

    assert endings_of(f"{module}.weight" for module in found) == {"gate_proj.weight", "down_proj.weight"}


def test_experts_and_router_on_a_grid(tmp_path: Path) -> None:
    source = trained(
        copy_of("26b-a4b", tmp_path / "source"), ("gate_up_proj", "experts.down_proj", "router.proj.weight")
    )

    hf_to_mlx(source, tmp_path / "out")

    grids = {name: packing for name, packing in entries(tmp_path / "out").items() if "grid" in packing}
    routers = {name: packing for name, packing in grids.items() if "router" in name}
    assert len(grids) == 4 * len(routers) > 0
    assert {(packing["bits"], packing["group_size"]) for packing in routers.values()} == {(8, 32)}
    assert all(packing["grid"]["exact"] == packing["grid"]["groups"] for packing in grids.values())
    assert verify(tmp_path / "out", source=source, steps=("files", "tensors")).status is Status.PASS


@pytest.mark.parametrize(("dtype", "found"), [(np.float32, "BF16"), (np.float16, "F16")])
def test_the_dtype_that_the_grid_was_rounded_to(dtype: Any, found: str, tmp_path: Path) -> None:
    def snap(weights: Array) -> Array:
        stored = ml_dtypes.bfloat16 if dtype == np.float32 else dtype
        return on_a_grid(weights, dtype=stored).astype(dtype)

    source = trained(copy_of("text", tmp_path / "source"), MLP, snap)

    hf_to_mlx(source, tmp_path / "out")

    grids = [packing["grid"] for packing in entries(tmp_path / "out").values() if "grid" in packing]
    assert {grid["rounded_to"] for grid in grids} == {found}
    assert verify(tmp_path / "out", source=source, steps=("files", "tensors")).status is Status.PASS


def test_chunks_and_resuming_change_neither_bytes_nor_counts(partly: Path, tmp_path: Path) -> None:
    plan = prepare(partly, Options()).plan
    step = next(step for step in plan.steps if step.lattice)
    whole, parts = ([*cut(step, size)] for size in (1 << 20, 1))
    counts = []
    for chunks in (whole, parts):
        with step.source.file.open("rb") as stream:
            pieces = [convert(chunk, read(chunk, {step.source.file: stream.fileno()})) for chunk in chunks]
        counts.append(sum((codes.tally or Tally() for codes, *_ in pieces), Tally()))

    assert len(parts) > len(whole) == 1
    assert counts[0] == counts[1] != Tally()


def test_a_changed_count_in_the_manifest_is_a_defect(partly: Path, tmp_path: Path) -> None:
    hf_to_mlx(partly, tmp_path / "out")
    name = next(name for name, packing in entries(tmp_path / "out").items() if "grid" in packing)

    def edit(document: Any) -> None:
        document["tensors"][name]["quantization"]["grid"]["exact"] -= 1

    edit_json(tmp_path / "out" / "conversion.json", edit)
    found = verify(tmp_path / "out", source=partly, steps=("files", "tensors"))

    assert [finding.where for finding in found.findings] == [name]


def test_a_lost_grid_in_the_manifest_is_a_defect(partly: Path, tmp_path: Path) -> None:
    hf_to_mlx(partly, tmp_path / "out")
    name = next(name for name, packing in entries(tmp_path / "out").items() if "grid" in packing)
    edit_json(
        tmp_path / "out" / "conversion.json", lambda document: document["tensors"][name]["quantization"].pop("grid")
    )

    assert verify(tmp_path / "out", source=partly, steps=("files", "tensors")).status is Status.FAIL


def test_the_dry_run_and_the_card_say_so(partly: Path, tmp_path: Path) -> None:
    conversion = hf_to_mlx(partly, tmp_path / "out")

    assert "the grid of its training" in (tmp_path / "out" / "README.md").read_text()
    assert json.dumps(conversion.plan.lattices) != "{}"


def test_the_loader_reads_it(partly: Path, tmp_path: Path) -> None:
    hf_to_mlx(partly, tmp_path / "out")

    model = load(tmp_path / "out", dtype="float32")

    assert model.text.model.layers[0].mlp.up_proj.group_size == 32
    assert np.isfinite(np.array(model.text(mx.array([[2, 10, 20]])))).all()
