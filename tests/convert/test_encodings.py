"""Sources whose weights are already packed: what they decode to, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert import Options, decoding, hf_to_mlx, prepare, verify
from g4convert.convert.chunks import convert, cut, read
from g4convert.convert.decoding import decode_rows, open_files
from g4convert.convert.encodings import ACTIVATIONS, CACHE, EncodedTensor
from g4convert.convert.quantize import STORAGE
from g4convert.convert.schemes import INT4, read_scheme
from g4convert.convert.source import open_source, open_weights
from g4convert.convert.verification.outcome import Status
from g4convert.loaders import load
from g4convert.schemas.errors import (
    G4ConvertError,
    MissingTensorError,
    QuantizedSourceError,
    TensorError,
    TensorShapeError,
)
from g4convert.tests.convert.encoded_sources import (
    BF16,
    E4M3,
    FLOAT8,
    FLOAT8_KINDS,
    FP8,
    compressed,
    declare,
    decode_int4,
    float8,
    int4_entries,
    is_linear,
    is_text_matrix,
    levels_of,
    pack_int4,
    packed_source,
    sharded,
    w4a16,
)
from g4convert.tests.support import (
    CHECKPOINTS,
    Tensors,
    copy_of,
    edit_json,
    edit_tensors,
    read_json,
    read_tensors,
    weights_and_index,
    write_tensors,
)
from numpy.typing import NDArray

Array = NDArray[Any]
UP, NORM = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
DTYPES = {"BF16": BF16, "F16": np.float16, "F32": np.float32}


def encoded_in(folder: Path) -> dict[str, EncodedTensor]:
    tensors = open_source(folder).checkpoint.tensors
    return {name: info for name, info in tensors.items() if isinstance(info, EncodedTensor)}


def decoded(info: EncodedTensor) -> Array:
    with open_files({part.file for part in info.parts}) as files:
        rows = decode_rows(info, 0, info.size // info.shape[-1], files)
    return rows.view(STORAGE[info.dtype]).reshape(info.shape)


def same(one: Array, other: Array) -> bool:
    """Bit for bit, so -0 is not 0."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def packings(output: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each packed weight, by the name of the source's tensor."""
    entries = read_json(output / "conversion.json")["tensors"].values()
    return {
        entry["sources"][0]: entry["quantization"]
        for entry in entries
        if entry["quantization"] and entry["quantization"]["part"] == "weight"
    }


def from_mlx(output: Path, module: str) -> Array:
    """What MLX makes of a module in float32."""
    tensors: Any = mx.load(str(output / "model.safetensors"))
    scales, biases = (tensors[f"{module}.{leaf}"].astype(mx.float32) for leaf in ("scales", "biases"))
    bits = 32 * tensors[f"{module}.weight"].shape[-1] // (32 * scales.shape[-1])
    weight = tensors[f"{module}.weight"]
    return np.array(mx.dequantize(weight, scales, biases, group_size=32, bits=bits, dtype=mx.float32))


# -- int4: the layout --------------------------------------------------------------------------------------------------


def test_the_packing_is_that_of_compressed_tensors() -> None:
    """The words are what `pack_to_int32` of compressed-tensors 0.20.0 gives for these levels."""
    levels = np.array([[*range(-8, 8), *range(7, -9, -1)]])

    words = pack_int4(levels).view(np.uint32)

    assert words.tolist() == [[0x76543210, 0xFEDCBA98, 0x89ABCDEF, 0x01234567]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["text", "e2b", "26b-a4b"])
def test_int4_decodes_to_scale_times_level(kind: str, dtype: str, tmp_path: Path) -> None:
    source = w4a16(kind, tmp_path / "source", DTYPES[dtype])
    tensors, found = read_tensors(source), encoded_in(source)

    assert set(found) == {name for name, array in read_tensors(CHECKPOINTS / kind).items() if is_linear(name, array)}
    assert {(info.dtype, info.kept_as) for info in found.values()} == {("F32", dtype)}
    for name, info in found.items():
        assert same(decoded(info), decode_int4(tensors, name) + np.float32(0)), name


# -- int4: what comes of it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "e2b", "26b-a4b"])
def test_every_int4_group_is_exact_in_mlx(kind: str, tmp_path: Path) -> None:
    source = w4a16(kind, tmp_path / "source")

    hf_to_mlx(source, tmp_path / "out")

    tensors, found = read_tensors(source), packings(tmp_path / "out")
    stored = read_json(tmp_path / "out" / "conversion.json")["tensors"]
    kept = {name.removesuffix("_packed") for name in found if name.endswith("_packed")}
    assert len(kept) == len([name for name in encoded_in(source) if f"{name}_packed" in found]) > 10
    for entry in [entry for entry in stored.values() if entry["sources"][0].endswith("_packed")]:
        assert entry["sources"] == [
            entry["sources"][0].replace("_packed", end) for end in ("_packed", "_scale", "_shape")
        ]
        packing = entry["quantization"]
        assert (packing["bits"], packing["group_size"]) == (4, 32)
        assert entry["dtype"] == ("U32" if packing["part"] == "weight" else "BF16")
    for output, entry in stored.items():
        if entry["sources"][0].endswith("_packed") and entry["quantization"]["part"] == "weight":
            grid = entry["quantization"]["grid"]
            assert grid["exact"] == grid["placed"] == grid["groups"] > 0, output
            assert grid["rounded_to"] == "F32"
            expected = decode_int4(tensors, entry["sources"][0].removesuffix("_packed")) + np.float32(0)
            assert same(from_mlx(tmp_path / "out", output.removesuffix(".weight")) + np.float32(0), expected), output


@pytest.mark.parametrize(("dtype", "storage"), [("F16", "F16"), ("F32", "F32")])
def test_scales_keep_their_dtype(dtype: str, storage: str, tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source", DTYPES[dtype])

    hf_to_mlx(source, tmp_path / "out")

    tensors = read_tensors(tmp_path / "out")
    module = "model.layers.0.mlp.up_proj"
    assert tensors[f"{module}.scales"].dtype == tensors[f"{module}.biases"].dtype == DTYPES[storage]
    if dtype == "F16":
        assert same(
            from_mlx(tmp_path / "out", module) + np.float32(0), decode_int4(read_tensors(source), UP) + np.float32(0)
        )


def test_float32_scales_of_twenty_bits_are_exact_and_finer_ones_are_counted(tmp_path: Path) -> None:
    fine = w4a16("text", tmp_path / "fine", np.float32)
    plain = packed_source("text", tmp_path / "plain", _widened, compressed())

    for source in (fine, plain):
        hf_to_mlx(source, tmp_path / f"{source.name}.out")
    grids = {
        name: [packing["grid"] for packing in packings(tmp_path / f"{name}.out").values() if "grid" in packing]
        for name in ("fine", "plain")
    }

    assert all(grid["exact"] == grid["groups"] for grid in grids["plain"])
    assert all(grid["exact"] < grid["placed"] == grid["groups"] for grid in grids["fine"])
    expected = decode_int4(read_tensors(fine), UP)
    found = from_mlx(tmp_path / "fine.out", UP.removesuffix(".weight"))
    assert np.abs(found - expected).max() <= 2.0**-19 * np.abs(expected).max()


def _widened(name: str, weights: Array) -> Tensors:
    """Scales of bfloat16 that are stored as float32."""
    entries = int4_entries(name, weights)
    return {**entries, f"{name}_scale": entries[f"{name}_scale"].astype(np.float32)}


def test_int4_of_zeros_is_on_its_grid_too(tmp_path: Path) -> None:
    """The values alone would not say so."""
    source = w4a16("text", tmp_path / "source")
    zeros = pack_int4(np.zeros((64, 64), np.int8))
    edit_tensors(source, lambda tensors: tensors.update({f"{UP}_packed": zeros}))

    hf_to_mlx(source, tmp_path / "out")

    assert packings(tmp_path / "out")[f"{UP}_packed"]["grid"]["exact"] == 128
    assert not from_mlx(tmp_path / "out", UP.removesuffix(".weight")).any()


def test_stacked_experts_and_routers_in_int4(tmp_path: Path) -> None:
    source = w4a16("26b-a4b", tmp_path / "source", chooses=is_text_matrix)

    hf_to_mlx(source, tmp_path / "out")

    tensors = read_tensors(source)
    name = "model.language_model.layers.0.experts.gate_up_proj"
    halves = np.split(decode_int4(tensors, name) + np.float32(0), 2, axis=1)
    for leaf, half in zip(("gate_proj", "up_proj"), halves, strict=True):
        module = f"language_model.model.layers.0.experts.switch_glu.{leaf}"
        assert same(from_mlx(tmp_path / "out", module) + np.float32(0), half)
    assert verify(tmp_path / "out", source=source, steps=("files", "tensors")).status is Status.PASS


def test_unquantized_it_is_bfloat16_again(tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source")

    hf_to_mlx(source, tmp_path / "out", options=Options(quantize=False))

    found, expected = read_tensors(tmp_path / "out"), read_tensors(source)
    assert same(found[UP], (decode_int4(expected, UP) + np.float32(0)).astype(BF16))
    assert {str(array.dtype) for array in found.values()} == {"bfloat16"}
    assert "quantization" not in read_json(tmp_path / "out" / "config.json")
    assert "quantization_config" not in read_json(tmp_path / "out" / "config.json")


@pytest.mark.parametrize(
    "options",
    [Options(recipe="uniform", dtype="float32"), Options(bits=3, dtype="float32"), Options(mode="mxfp4")],
    ids=["uniform", "3 bits", "mxfp4"],
)
def test_other_recipes_start_from_the_decoded_values(options: Options, tmp_path: Path) -> None:
    source, plain = w4a16("text", tmp_path / "source"), copy_of("text", tmp_path / "plain")
    tensors = read_tensors(source)
    edit_tensors(
        plain, lambda t: t.update({name: decode_int4(tensors, name) for name in t if f"{name}_packed" in tensors})
    )

    for folder in (source, plain):
        hf_to_mlx(folder, tmp_path / f"{folder.name}.out", options=options)

    one, other = (read_tensors(tmp_path / f"{folder.name}.out") for folder in (source, plain))
    assert one.keys() == other.keys()
    assert all(same(one[name], other[name]) for name in one if UP.removesuffix("weight") in name)


def test_an_ignore_list_leaves_modules_plain(tmp_path: Path) -> None:
    def chooses(name: str, array: Array) -> bool:
        return is_linear(name, array) and "layers.0." not in name

    source = w4a16("text", tmp_path / "source", chooses=chooses)
    hf_to_mlx(source, tmp_path / "out")

    grids = {name for name, packing in packings(tmp_path / "out").items() if "grid" in packing}
    assert grids
    assert not any("layers.0." in name for name in grids)
    assert packings(tmp_path / "out")[UP]["group_size"] == 64


def test_it_loads_and_says_what_it_is(tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source")
    hf_to_mlx(source, tmp_path / "out")

    document = read_json(tmp_path / "out" / "config.json")
    removals = read_json(tmp_path / "out" / "conversion.json")["config_removals"]
    model = load(tmp_path / "out", dtype="float32")

    assert document["quantization_config"] == document["quantization"]
    assert "quant_method" not in json.dumps(document)
    assert removals["$.quantization_config"] == "the source's compressed-tensors weights are decoded"
    assert model.text.model.layers[0].mlp.up_proj.group_size == 32
    assert np.isfinite(np.array(model.text(mx.array([[2, 10, 20]])))).all()


def test_a_block_within_text_config_goes_too(tmp_path: Path) -> None:
    source = w4a16("e2b", tmp_path / "source")

    def move(document: Any) -> None:
        document["text_config"]["quantization_config"] = document.pop("quantization_config")

    edit_json(source / "config.json", move)
    hf_to_mlx(source, tmp_path / "out")

    assert "compressed-tensors" not in (tmp_path / "out" / "config.json").read_text()
    assert "$.text_config.quantization_config" in read_json(tmp_path / "out" / "conversion.json")["config_removals"]


def test_every_entry_of_the_source_is_accounted_for(tmp_path: Path) -> None:
    source = w4a16("e2b", tmp_path / "source")  # its last layers share keys and values
    hf_to_mlx(source, tmp_path / "out")

    manifest = read_json(tmp_path / "out" / "conversion.json")
    kept = {name for entry in manifest["tensors"].values() for name in entry["sources"]}

    assert kept.isdisjoint(manifest["dropped"])
    assert kept | manifest["dropped"].keys() == read_tensors(source).keys()
    assert any(name.endswith("_packed") for name in manifest["dropped"])


# -- FP8 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", FLOAT8_KINDS)
@pytest.mark.parametrize("kind", ["text", "e2b"])
def test_fp8_decodes_to_bfloat16(kind: str, how: str, tmp_path: Path) -> None:
    source = float8(kind, tmp_path / "source", how)
    tensors, found = read_tensors(source), encoded_in(source)

    assert set(found) == {name for name, array in tensors.items() if array.dtype == E4M3}
    for name, info in found.items():
        assert (info.dtype, info.kept_as) == ("BF16", "BF16")
        assert same(decoded(info), FLOAT8_KINDS[how].decode(tensors, name)), name


@pytest.mark.parametrize("how", ["channel", "blocks", "small blocks"])
def test_stacked_experts_in_fp8(how: str, tmp_path: Path) -> None:
    source = float8("26b-a4b", tmp_path / "source", how, is_text_matrix)

    hf_to_mlx(source, tmp_path / "out", options=Options(quantize=False))

    tensors, found = read_tensors(source), read_tensors(tmp_path / "out")
    name = "model.language_model.layers.0.experts.gate_up_proj"
    gate, _ = np.split(FLOAT8_KINDS[how].decode(tensors, name), 2, axis=1)
    assert tensors[name].dtype == E4M3
    assert same(found["language_model.model.layers.0.experts.switch_glu.gate_proj.weight"], gate)


def test_fp8_convolutions_are_transposed_like_others(tmp_path: Path) -> None:
    def chooses(name: str, array: Array) -> bool:
        return array.ndim > 2 and "conv" in name

    source, twin = float8("e2b", tmp_path / "source", "channel", chooses), copy_of("e2b", tmp_path / "twin")
    tensors, names = read_tensors(source), encoded_in(source)
    edit_tensors(twin, lambda t: t.update({name: FLOAT8_KINDS["channel"].decode(tensors, name) for name in names}))

    for folder in (source, twin):
        hf_to_mlx(folder, tmp_path / f"{folder.name}.out", options=Options(quantize=False))

    one, other = (weights_and_index(tmp_path / f"{folder.name}.out") for folder in (source, twin))
    assert {len(info.shape) for info in names.values()} >= {3, 4}
    assert one == other


@pytest.mark.parametrize("options", [Options(), Options(quantize=False)], ids=["auto", "unquantized"])
def test_fp8_gives_the_bytes_of_its_bfloat16_twin(options: Options, tmp_path: Path) -> None:
    source, twin = float8("e2b", tmp_path / "source", "blocks"), copy_of("e2b", tmp_path / "twin")
    tensors = read_tensors(source)
    values = {name: FLOAT8_KINDS["blocks"].decode(tensors, name) for name in encoded_in(source)}
    edit_tensors(twin, lambda t: t.update(values))

    for folder in (source, twin):
        hf_to_mlx(folder, tmp_path / f"{folder.name}.out", options=options)

    one, other = (weights_and_index(tmp_path / f"{folder.name}.out") for folder in (source, twin))
    assert one == other


# -- what lies beside the weights --------------------------------------------------------------------------------------


def test_scales_of_activations_are_dropped_with_a_reason(tmp_path: Path) -> None:
    source = float8("text", tmp_path / "source", "scalar")
    one = np.ones((), np.float32)
    attention = "model.layers.0.self_attn"
    beside = {
        "model.layers.0.mlp.up_proj.input_scale": ACTIVATIONS,
        "model.layers.0.mlp.up_proj.activation_scale": ACTIVATIONS,
        f"{attention}.q_scale": ACTIVATIONS,
        f"{attention}.k_scale": CACHE,
        f"{attention}.v_scale": CACHE,
    }
    edit_tensors(source, lambda tensors: tensors.update(dict.fromkeys(beside, one)))

    hf_to_mlx(source, tmp_path / "out")

    assert read_json(tmp_path / "out" / "conversion.json")["dropped"] == beside
    assert verify(tmp_path / "out", source=source, steps=("files", "tensors")).status is Status.PASS


@pytest.mark.parametrize("form", ["int4", "FP8"])
def test_codes_and_scales_may_lie_in_different_shards(form: str, tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source") if form == "int4" else float8("text", tmp_path / "source", "blocks")
    hf_to_mlx(source, tmp_path / "one")

    ending = {True: "model-00002-of-00002.safetensors", False: "model-00001-of-00002.safetensors"}
    spread = sharded(source, lambda name: ending[name.endswith(("_scale", "_scale_inv"))])
    hf_to_mlx(spread, tmp_path / "two")

    assert weights_and_index(tmp_path / "one") == weights_and_index(tmp_path / "two")
    assert verify(tmp_path / "two", source=spread, steps=("files", "tensors")).status is Status.PASS


# -- chunks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["int4", "FP8"])
def test_chunks_and_blocks_change_no_byte(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "int4":
        source = w4a16("26b-a4b", tmp_path / "source", chooses=is_text_matrix)
    else:
        source = float8("26b-a4b", tmp_path / "source", "small blocks", is_text_matrix)
    steps = [step for step in prepare(source, Options()).plan.steps if isinstance(step.source, EncodedTensor)]
    whole = [_bytes_of(step, 1 << 30) for step in steps]

    for size, block in ((1, 1), (1000, 200), (1 << 30, 100), (4096, 1 << 30)):
        monkeypatch.setattr(decoding, "BLOCK_WEIGHTS", block)
        assert [_bytes_of(step, size) for step in steps] == whole


def _bytes_of(step: Any, size: int) -> dict[str, bytes]:
    outputs: dict[str, bytes] = {}
    with open_files({part.file for part in step.source.parts}) as files:
        for chunk in cut(step, size):
            for piece in convert(chunk, read(chunk, files)):
                assert piece.offset == len(outputs.get(piece.name, b""))
                outputs[piece.name] = outputs.get(piece.name, b"") + bytes(piece.data)
    return outputs


def test_decoding_holds_little_beside_the_chunk(tmp_path: Path) -> None:
    """Rows, codes, and one block: no second copy of what is decoded."""
    import tracemalloc

    rng = np.random.default_rng(0)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = rng.standard_normal((4096, 1024)).astype(np.float32)
    source = copy_of("text", tmp_path / "source")
    write_tensors(source, int4_entries(name, weights))
    info = open_weights(source, read_scheme({"quantization_config": compressed()})).tensors[name]
    assert isinstance(info, EncodedTensor)

    with open_files([info.file]) as files:
        tracemalloc.start()
        decode_rows(info, 0, 4096, files)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 1.3 * 4 * weights.size


# -- verification ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["int4", "FP8"])
def test_verify_passes_beside_a_packed_source(form: str, tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source") if form == "int4" else float8("text", tmp_path / "source", "blocks")
    hf_to_mlx(source, tmp_path / "out")

    found = verify(tmp_path / "out", source=source, steps=("files", "tensors", "numerics"))

    assert found.status is Status.PASS, found.findings


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_verify_takes_the_rounding_to_bfloat16_for_a_cast(dtype: str | None, tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source")
    hf_to_mlx(source, tmp_path / "out", options=Options(quantize=False, dtype=dtype))

    found = verify(tmp_path / "out", source=source, steps=("files", "tensors", "numerics"))

    assert found.status is Status.PASS, found.findings


def test_another_tools_conversion_is_near_its_packed_source(tmp_path: Path) -> None:
    """Without our manifest, what is compared are the values; so mlx-lm's repacking of int4 passes, too."""
    source = w4a16("text", tmp_path / "source")
    hf_to_mlx(source, tmp_path / "out")
    (tmp_path / "out" / "conversion.json").unlink()

    assert verify(tmp_path / "out", source=source, steps=("files", "tensors")).status is Status.PASS

    edit_tensors(source, lambda tensors: tensors.update({f"{UP}_scale": tensors[f"{UP}_scale"] * BF16(2)}))
    assert verify(tmp_path / "out", source=source, steps=("files", "tensors")).status is Status.FAIL


def test_transformers_is_no_reference_for_packed_weights(tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source")
    hf_to_mlx(source, tmp_path / "out")

    found = verify(tmp_path / "out", source=source, reference="transformers", steps=("reference",))

    assert {check.status for step in found.steps for check in step.checks} == {Status.SKIPPED}
    assert "computes with them in another way" in str(found)


SCALE = {"int4": f"{UP}_scale", "FP8": f"{UP}_scale_inv"}


@pytest.mark.parametrize("form", SCALE)
def test_verify_fails_when_a_scale_of_the_source_is_another(form: str, tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source") if form == "int4" else float8("text", tmp_path / "source", "blocks")
    hf_to_mlx(source, tmp_path / "out")

    def double(tensors: Tensors) -> None:
        tensors[SCALE[form]] = tensors[SCALE[form]].copy()
        tensors[SCALE[form]][0, 0] *= 2

    edit_tensors(source, double)
    found = verify(tmp_path / "out", source=source, steps=("files", "tensors"))

    assert found.status is Status.FAIL
    assert {str(finding.where).rpartition(".")[0] for finding in found.findings} == {UP.removesuffix(".weight")}


def _swapped(tables: dict[str, Array]) -> None:
    pairs = tables[INT4].view(np.float32).reshape(-1, 2)
    tables[INT4] = np.ascontiguousarray(pairs[:, ::-1]).view(np.uint64)[:, 0]


def _shifted(tables: dict[str, Array]) -> None:
    tables[INT4] = (tables[INT4].view(np.float32) + np.float32(1)).view(np.uint64)


def _twos_complement(tables: dict[str, Array]) -> None:
    levels = tables[INT4].view(np.float32)
    tables[INT4] = np.where(levels < 0, levels + 8, levels - 8).astype(np.float32).view(np.uint64)


MISTAKES: dict[str, Callable[[dict[str, Array]], None]] = {
    "swapped halves": _swapped, "offset of 7": _shifted, "two's complement": _twos_complement,
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_decoder_is_seen(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = w4a16("text", tmp_path / "source")
    with monkeypatch.context() as patch:
        tables = dict(decoding.TABLES)
        MISTAKES[mistake](tables)
        patch.setattr(decoding, "TABLES", tables)
        assert not same(decoded(encoded_in(source)[UP]), decode_int4(read_tensors(source), UP))
        hf_to_mlx(source, tmp_path / "out")

    assert verify(tmp_path / "out", source=source, steps=("tensors",)).status is Status.FAIL


def test_a_scale_of_the_wrong_group_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = w4a16("text", tmp_path / "source")
    right = decoding._scales
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_scales", lambda *args: np.roll(right(*args), 1, axis=1))
        assert not same(decoded(encoded_in(source)[UP]), decode_int4(read_tensors(source), UP))
        hf_to_mlx(source, tmp_path / "out")

    assert verify(tmp_path / "out", source=source, steps=("tensors",)).status is Status.FAIL


# -- refusals ----------------------------------------------------------------------------------------------------------

PACKED = f"{UP}_packed"


def _pop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def _put(**arrays: Any) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({f"{UP}{ending}": array for ending, array in arrays.items()})


def _change(ending: str, change: Callable[[Array], Array]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({f"{UP}{ending}": change(tensors[f"{UP}{ending}"])})


BROKEN_INT4: dict[str, tuple[Callable[[Tensors], object], type[G4ConvertError], str]] = {
    "no scale": (_pop(f"{UP}_scale"), MissingTensorError, f"{PACKED} is packed, and {UP}_scale is missing"),
    "no shape": (_pop(f"{UP}_shape"), MissingTensorError, f"{UP}_shape is missing"),
    "no codes": (_pop(PACKED), QuantizedSourceError, "compressed-tensors"),
    "scale of other groups": (_change("_scale", lambda s: s[:, :1]), TensorShapeError, "one for each 32 weights"),
    "scale of integers": (_change("_scale", lambda s: s.astype(np.int32)), TensorShapeError, "has the dtype I32"),
    "codes of another dtype": (_change("_packed", lambda c: c.astype(np.int64)), TensorShapeError, "has the dtype I64"),
    "codes of half a group": (_change("_packed", lambda c: c[:, :2]), TensorShapeError, "whole groups of 32"),
    "another stated shape": (
        _change("_shape", lambda s: s[::-1] * 2),
        TensorShapeError,
        "the packed weights are [64, 64]",
    ),
    "stated shape of three": (_change("_shape", lambda s: np.append(s, 1)), TensorShapeError, "calls for [2]"),
    "zero points": (_put(_zero_point=np.zeros((8, 2), np.int32)), QuantizedSourceError, "asymmetric"),
    "activation order": (_put(_g_idx=np.zeros(64, np.int32)), QuantizedSourceError, "activation order"),
    "a global scale": (_put(_global_scale=np.ones(1, np.float32)), QuantizedSourceError, "NVFP4"),
    "packed and plain": (lambda t: t.update({UP: np.zeros((64, 64), BF16)}), TensorError, "also stands there unpacked"),
    "FP8 beside it": (lambda t: t.update({"model.norm.weight": np.ones(64, E4M3)}), QuantizedSourceError, "FP8"),
    "NaN scale": (_change("_scale", lambda s: np.full_like(s, np.nan)), TensorError, f"{UP} holds NaN"),
}


@pytest.mark.parametrize("case", BROKEN_INT4)
def test_broken_int4_is_refused(case: str, tmp_path: Path) -> None:
    damage, error, message = BROKEN_INT4[case]
    source = w4a16("text", tmp_path / "source")
    edit_tensors(source, damage)

    with pytest.raises(error) as caught:
        hf_to_mlx(source, tmp_path / "out")

    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


BROKEN_FP8: dict[str, tuple[Callable[[Tensors], object], type[G4ConvertError], str]] = {
    "no scale": (_pop(f"{UP}_scale_inv"), MissingTensorError, f"{UP} is packed, and {UP}_scale is missing"),
    "two scales": (_put(_scale=np.ones(1, np.float32)), TensorError, "has two scales"),
    "scale of another shape": (
        _change("_scale_inv", lambda s: np.repeat(s, 3, 0)), TensorShapeError, "for weights [64, 64]",
    ),
    "scale of integers": (_change("_scale_inv", lambda s: s.astype(np.int8)), TensorShapeError, "has the dtype I8"),
    "FP8 of another kind": (_change("", lambda w: w.view(np.uint8).view("float8_e5m2")), QuantizedSourceError, "FP8"),
    "a vector": (
        lambda t: t.update({NORM: np.ones(64, E4M3), f"{NORM}_scale": np.ones(1, np.float32)}),
        TensorShapeError, "that of a matrix",
    ),
    "a scale without codes": (lambda t: t.update({UP: t[UP].astype(BF16)}), QuantizedSourceError, "FP8"),
    "NVFP4": (_put(_scale_2=np.ones(1, np.float32)), QuantizedSourceError, "NVFP4"),
    "int4 under FP8's name": (_put(_packed=np.zeros((64, 8), np.int32)), QuantizedSourceError, "compressed-tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_FP8)
def test_broken_fp8_is_refused(case: str, tmp_path: Path) -> None:
    damage, error, message = BROKEN_FP8[case]
    source = float8("text", tmp_path / "source", "blocks")
    edit_tensors(source, damage)

    with pytest.raises(error) as caught:
        open_source(source)

    assert message in str(caught.value)


def _with(config: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {**config, **keys}


def _two_groups(form: str) -> dict[str, Any]:
    config = compressed()
    config["config_groups"]["group_1"] = {**config["config_groups"]["group_0"], "format": form}
    return config


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "GPTQ": ({"quant_method": "gptq", "bits": 4}, "gptq"),
    "AWQ": ({"quant_method": "awq"}, "awq"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "ModelOpt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt NVFP4"),
    "FBGEMM": ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
    "NVFP4": (compressed("nvfp4-pack-quantized"), "compressed-tensors nvfp4-pack-quantized"),
    "int8": (compressed("int-quantized"), "compressed-tensors int-quantized"),
    "mixed": (compressed("mixed-precision"), "compressed-tensors mixed-precision"),
    "marlin": (compressed("marlin-24"), "compressed-tensors marlin-24"),
    "no format": ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    "8 bits": (compressed(num_bits=8), "pack-quantized with num_bits 8, what can be read is 4"),
    "groups of 128": (compressed(group_size=128), "with group_size 128, what can be read is 32"),
    "channels": (compressed(strategy="channel", group_size=None), "with strategy channel"),
    "asymmetric": (compressed(symmetric=False), "with symmetric False"),
    "activation order": (compressed(actorder="group"), "with actorder group"),
    "floats": (compressed(type="float"), "with type float"),
    "rotated": (_with(compressed(), transform_config={"config_groups": {"u": {}}}), "rotated"),
    "sparse": (_with(compressed(), sparsity_config={"format": "sparse-24-bitmask"}), "sparse"),
    "another group": (_two_groups("nvfp4-pack-quantized"), "nvfp4-pack-quantized"),
    "nothing of weights": (_with(compressed(), config_groups={"group_0": {}}), "does not say how"),
    "no groups": (_with(compressed(), config_groups={}), "does not say how"),
    "groups are a list": (_with(compressed(), config_groups=[1]), "does not say how"),
    "FP8 in groups": (compressed("float-quantized", **FLOAT8, strategy="group"), "with strategy group"),
    "FP8 in odd blocks": (_with(FP8, weight_block_size=[128]), "with blocks of [128]"),
    "FP8 in blocks of nothing": (_with(FP8, weight_block_size=[0, 128]), "with blocks of [0, 128]"),
    "FP8 of another kind": (_with(FP8, fmt="e5m2"), "fp8 e5m2"),
    "an unhashable format": ({"quant_method": "compressed-tensors", "format": ["x"]}, "compressed-tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_formats_are_refused_by_name(case: str, tmp_path: Path) -> None:
    config, message = REFUSED[case]
    source = copy_of("text", tmp_path / "source")
    declare(source, config)

    with pytest.raises(QuantizedSourceError) as caught:
        open_source(source)

    assert f"config.json: the source is already quantized: {config['quant_method']}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("form", ["int4", "FP8"])
def test_packed_weights_that_nothing_declares_are_refused(form: str, tmp_path: Path) -> None:
    source = w4a16("text", tmp_path / "source") if form == "int4" else float8("text", tmp_path / "source", "blocks")
    declare(source, None)

    with pytest.raises(QuantizedSourceError, match=r"compressed-tensors|FP8"):
        open_source(source)


def test_a_copy_that_is_packed_like_its_original_is_one(tmp_path: Path) -> None:
    """The output head of a tied model, packed with the embeddings; a changed scale makes it another."""
    source = packed_source(
        "text", tmp_path / "source", int4_entries, compressed(), lambda name, _: name == "model.embed_tokens.weight"
    )

    def tie(tensors: Tensors) -> None:
        copies = {f"lm_head.weight{end}": tensors[f"model.embed_tokens.weight{end}"] for end in ENDINGS}
        tensors.update(copies)

    edit_tensors(source, tie)
    hf_to_mlx(source, tmp_path / "out")
    dropped = read_json(tmp_path / "out" / "conversion.json")["dropped"]
    assert {f"lm_head.weight{end}" for end in ENDINGS} <= dropped.keys()

    edit_tensors(
        source, lambda tensors: tensors.update({"lm_head.weight_scale": tensors["lm_head.weight_scale"] * BF16(2)})
    )
    with pytest.raises(TensorError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        hf_to_mlx(source, tmp_path / "other")


ENDINGS = ("_packed", "_scale", "_shape")


def test_levels_of_samples_are_rich(tmp_path: Path) -> None:
    """The cases that make exactness hard are there: groups whose levels share a divisor, groups of zeros."""
    tensors = read_tensors(CHECKPOINTS / "text")
    levels, _ = levels_of(tensors[UP])
    divisors = {int(np.gcd.reduce(group)) for group in levels.reshape(-1, 32).astype(np.int64)}

    assert {0, 1, 3, 5, 6, 7, 8} <= divisors
