"""Whole conversions of the samples: what is written, and that it is always the same."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from g4convert.convert import Options, hf_to_mlx, prepare, verify
from g4convert.convert.quantize import STORAGE, Packed, dequantize
from g4convert.convert.recipe import MIN_MAX, ROUNDINGS, SEARCH, Quantization
from g4convert.convert.verification.outcome import Status
from g4convert.loaders.checkpoint import Checkpoint
from g4convert.schemas import validate
from g4convert.schemas.errors import NonFiniteError, OutputError, TensorError
from g4convert.tests.support import (
    CHECKPOINTS,
    KINDS,
    copy_of,
    digests,
    edit_json,
    edit_tensors,
    read_json,
    read_tensors,
    rename_tensors,
    saved_form,
    weights_and_index,
    write_tensors,
)
from safetensors import safe_open

Convert = Callable[..., Path]
PLAIN = Options(quantize=False)
COMMAND = [sys.executable, "-c", "from g4convert.convert.cli import main; main()", "hf-to-mlx"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"recipe": "uniform"}, {"quantize": False}], ids=["balanced", "uniform", "plain"]
)
def test_the_output_is_what_was_planned(kind: str, options: dict[str, object], converted: Convert) -> None:
    output = converted(kind, **options)
    plan = prepare(CHECKPOINTS / kind, Options(**options)).plan  # type: ignore[arg-type]

    assert {path.name: path.stat().st_size for path in output.glob("*.safetensors")} == {
        shard.file: shard.nbytes for shard in plan.shards
    }
    opened = Checkpoint.open(output)
    assert {name: (info.dtype, info.shape) for name, info in opened.tensors.items()} == {
        out.name: (out.dtype, out.shape) for out in plan.outputs
    }
    index = read_json(output / "model.safetensors.index.json")
    assert set(index["weight_map"]) == set(opened.tensors)
    assert index["metadata"]["total_size"] == sum(info.nbytes for info in opened.tensors.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_reader_takes_the_shards(kind: str, converted: Convert) -> None:
    for shard in converted(kind).glob("*.safetensors"):
        with safe_open(shard, "np") as file:
            assert file.metadata() == {"format": "mlx"}
            assert len(list(file.keys())) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_an_unquantized_output_is_the_sources(kind: str, converted: Convert) -> None:
    source, output = read_tensors(CHECKPOINTS / kind), read_tensors(converted(kind, quantize=False))
    steps = prepare(CHECKPOINTS / kind, PLAIN).plan.steps

    for step in steps:
        original, made = source[step.source.name], output[step.name]
        if step.name.endswith(("gate_proj.weight", "up_proj.weight")) and "switch_glu" in step.name:
            half = original.shape[1] // 2
            original = original[:, :half] if "gate_proj" in step.name else original[:, half:]
        elif "conv.weight" in step.name or "depthwise" in step.name:
            original = np.moveaxis(original, 1, -1)
        assert made.dtype == original.dtype
        assert made.shape == original.shape
        assert made.tobytes() == original.tobytes()


def test_gate_rows_come_first(tmp_path: Path) -> None:
    source = copy_of("26b-a4b", tmp_path / "source")

    def mark(tensors: dict[str, np.ndarray]) -> None:
        for name, array in tensors.items():
            if name.endswith("gate_up_proj"):
                marked = np.ones(array.shape, ml_dtypes.bfloat16)
                marked[:, array.shape[1] // 2 :] = -1
                tensors[name] = marked

    edit_tensors(source, mark)
    hf_to_mlx(source, tmp_path / "out", options=PLAIN)

    out = read_tensors(tmp_path / "out")
    gates = [array for name, array in out.items() if "switch_glu.gate_proj" in name]
    ups = [array for name, array in out.items() if "switch_glu.up_proj" in name]
    assert gates
    assert all((gate == 1).all() for gate in gates)
    assert all((up == -1).all() for up in ups)


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_tensors_decode_close_to_their_source(kind: str, converted: Convert) -> None:
    output, plain = read_tensors(converted(kind)), read_tensors(converted(kind, quantize=False))
    quantized = prepare(CHECKPOINTS / kind, Options()).plan.quantized

    assert quantized
    for module, spec in quantized.items():
        decoded = decode(output, module, spec)
        original = plain[f"{module}.weight"].astype(np.float32)
        error = np.square(decoded - original).mean() / np.square(original).mean()
        assert error < {4: 0.03, 6: 0.003, 8: 2e-4}[spec.bits], module


def decode(tensors: dict[str, np.ndarray], module: str, spec: Quantization) -> np.ndarray:
    """A quantized module in float32, in the shape of its weight."""
    weight, scales, biases = (tensors[f"{module}.{part}"] for part in ("weight", "scales", "biases"))
    *rows, _ = weight.shape
    count = int(np.prod(rows))
    packed = Packed(
        np.ascontiguousarray(weight).view(np.uint8).reshape(count, -1),
        scales.reshape(count, -1),
        biases.reshape(count, -1),
    )
    return dequantize(packed, spec).reshape(*rows, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_sidecars_are_copied_byte_for_byte(kind: str, converted: Convert) -> None:
    output, source = digests(converted(kind)), digests(CHECKPOINTS / kind)
    sidecars = source.keys() - {"config.json", "model.safetensors"}

    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= sidecars
    assert all(output[name] == source[name] for name in sidecars)


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_keeps_every_source_key(kind: str, converted: Convert) -> None:
    source, output = read_json(CHECKPOINTS / kind / "config.json"), read_json(converted(kind) / "config.json")
    manifest = read_json(converted(kind) / "conversion.json")

    def compare(path: str, old: dict[str, object], new: dict[str, object]) -> None:
        for key, value in old.items():
            if f"{path}.{key}" in manifest["config_additions"]:
                assert value is None
            elif isinstance(value, dict):
                compare(f"{path}.{key}", value, new[key])  # type: ignore[arg-type]
            else:
                assert new[key] == value
        for key in new.keys() - old.keys() - {"quantization", "quantization_config"}:
            assert manifest["config_additions"][f"{path}.{key}"] == new[key]

    compare("$", source, output)
    assert output["quantization"] == output["quantization_config"]
    validate(output["quantization"], "quantization", where="config.json")


@pytest.mark.parametrize("kind", KINDS)
def test_every_module_is_written_down(kind: str, converted: Convert) -> None:
    output = converted(kind)
    block, tensors = read_json(output / "config.json")["quantization"], read_tensors(output)

    packed = {name.removesuffix(".scales") for name in tensors if name.endswith(".scales")}
    assert packed == {module for module, entry in block.items() if isinstance(entry, dict)}
    for module in packed:
        entry = block[module]
        columns = tensors[f"{module}.weight"].shape[-1] * 32 // entry["bits"]
        assert tensors[f"{module}.scales"].shape[-1] * entry["group_size"] == columns
    for module in (module for module, entry in block.items() if entry is False):
        assert f"{module}.weight" in tensors


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_accounts_for_everything(kind: str, converted: Convert) -> None:
    output = converted(kind)
    manifest = read_json(output / "conversion.json")
    validate(manifest, "conversion", where="conversion.json")
    source, opened = Checkpoint.open(CHECKPOINTS / kind), Checkpoint.open(output)

    used = {name for entry in manifest["tensors"].values() for name in entry["sources"]}
    assert used | manifest["dropped"].keys() == set(source.tensors)
    assert not used & manifest["dropped"].keys()
    assert manifest["tensors"].keys() == opened.tensors.keys()
    for name, info in opened.tensors.items():
        data = info.file.read_bytes()[info.offset : info.offset + info.nbytes]
        assert hashlib.sha256(data).hexdigest() == manifest["tensors"][name]["sha256"]
    text = (output / "conversion.json").read_text()
    assert str(output.parent) not in text
    assert str(CHECKPOINTS) not in text


# -- the same bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_workers_chunks_and_runs_do_not_change_a_byte(
    kind: str, converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digests(converted(kind))

    for number, (workers, chunk) in enumerate([(1, 1 << 22), (2, 1 << 12), (4, 700)]):
        monkeypatch.setattr("g4convert.convert.shards.chunk_limit", lambda *_, chunk=chunk: chunk)
        output = tmp_path / str(number)
        hf_to_mlx(CHECKPOINTS / kind, output, workers=workers)
        assert digests(output) == expected


@pytest.mark.parametrize("bound", ["400MB", "1GB"])
def test_a_memory_bound_does_not_change_a_byte(bound: str, converted: Convert, tmp_path: Path) -> None:
    command = [*COMMAND, str(CHECKPOINTS / "e2b"), str(tmp_path / "out"), "--max-memory", bound]

    subprocess.run(command, check=True, capture_output=True)

    assert digests(tmp_path / "out") == digests(converted("e2b"))


@pytest.mark.parametrize("kind", ["e2b", "e4b"])
@pytest.mark.parametrize("options", [Options(), PLAIN], ids=["4-bit", "plain"])
def test_both_forms_of_a_config_give_the_same_weights(kind: str, options: Options, tmp_path: Path) -> None:
    shipped, saved = copy_of(kind, tmp_path / "shipped"), copy_of(kind, tmp_path / "saved")
    saved_form(saved)

    for folder in (shipped, saved):
        hf_to_mlx(folder, tmp_path / f"{folder.name}-mlx", options=options)

    one, other = tmp_path / "shipped-mlx", tmp_path / "saved-mlx"
    assert weights_and_index(one) == weights_and_index(other)
    different = {name for name, digest in digests(one).items() if digests(other)[name] != digest}
    assert different == {"README.md", "config.json", "conversion.json"}  # the card tells the source's size
    manifests = [read_json(folder / "conversion.json") for folder in (one, other)]
    assert [len(manifest.pop("dropped")) for manifest in manifests] == [6 if kind == "e2b" else 9, 0]
    additions = [manifest.pop("config_additions") for manifest in manifests]
    assert additions[0] != additions[1]
    written = [manifest["written"].pop("config.json") for manifest in manifests]
    assert written[0] != written[1]
    assert manifests[0] == manifests[1]
    for key in ("global_head_dim", "num_global_key_value_heads"):
        texts = [read_json(folder / "config.json")["text_config"] for folder in (one, other)]
        assert texts[0].get(key) == texts[1].get(key)


@pytest.mark.parametrize("kind", KINDS)
def test_converting_an_unquantized_output_again_changes_nothing(kind: str, converted: Convert, tmp_path: Path) -> None:
    once = converted(kind, quantize=False)

    hf_to_mlx(once, tmp_path / "twice", options=PLAIN)
    hf_to_mlx(once, tmp_path / "packed")

    assert weights_and_index(tmp_path / "twice") == weights_and_index(once)
    assert digests(tmp_path / "twice")["config.json"] == digests(once)["config.json"]
    assert weights_and_index(tmp_path / "packed") == weights_and_index(converted(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_half_converted_layouts_give_the_same_output(kind: str, converted: Convert, tmp_path: Path) -> None:
    """Every other tensor of the source is already in MLX's name and layout."""
    plain = read_tensors(converted(kind, quantize=False))
    steps = prepare(CHECKPOINTS / kind, PLAIN).plan.steps
    mixed = copy_of(kind, tmp_path / "mixed")
    swapped = {step.source.name for step in steps[::2]}

    def swap(tensors: dict[str, np.ndarray]) -> None:
        for step in steps:
            if step.source.name in swapped:
                tensors.pop(step.source.name, None)
                tensors[step.name] = plain[step.name]

    edit_tensors(mixed, swap)
    hf_to_mlx(mixed, tmp_path / "out")

    assert weights_and_index(tmp_path / "out") == weights_and_index(converted(kind))


PREFIXES = {
    "transformers": ("model.language_model.", "model.language_model."),
    "mlx": ("model.language_model.", "language_model.model."),
    "none before text": ("model.language_model.", ""),
    "text only": ("model.language_model.", "model."),
    "no model": ("model.", ""),
    "peft": ("model.", "base_model.model.model."),
    "compiled": ("model.", "_orig_mod.model."),
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_known_prefix_gives_the_same_output(prefix: str, converted: Convert, tmp_path: Path) -> None:
    old, new = PREFIXES[prefix]
    source = copy_of("e4b", tmp_path / "source")
    rename_tensors(source, lambda name: new + name.removeprefix(old) if name.startswith(old) else name)

    hf_to_mlx(source, tmp_path / "out")

    assert weights_and_index(tmp_path / "out") == weights_and_index(converted("e4b"))


# -- shards, dtypes, modalities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [50_000, 400_000])
def test_small_shards_hold_whole_modules(limit: int, converted: Convert, tmp_path: Path) -> None:
    hf_to_mlx(CHECKPOINTS / "e4b", tmp_path / "out", options=Options(max_shard_size=limit))

    opened = Checkpoint.open(tmp_path / "out")
    assert len(opened.shards) > 2
    for name, info in opened.tensors.items():
        module = name.removesuffix(".scales")
        if module != name:
            assert opened.tensors[f"{module}.weight"].file == info.file
    whole = read_tensors(converted("e4b"))
    parts = read_tensors(tmp_path / "out")
    assert whole.keys() == parts.keys()
    assert all(whole[name].tobytes() == parts[name].tobytes() for name in whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_is_that_of_everything_but_clip_bounds(dtype: str, converted: Convert) -> None:
    opened = Checkpoint.open(converted("e4b", dtype=dtype))
    code = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype]

    bounds = {info.dtype for name, info in opened.tensors.items() if name.endswith(("put_min", "put_max"))}
    others = {info.dtype for name, info in opened.tensors.items() if not name.endswith(("put_min", "put_max"))}
    assert bounds == {"BF16"}
    assert others == {code, "U32"}


@pytest.mark.parametrize("narrow", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)])
@pytest.mark.parametrize("kind", ["e2b", "26b-a4b"])
def test_sources_of_any_float_dtype(kind: str, narrow: np.dtype[Any], tmp_path: Path) -> None:
    """Float32 holds the same values as either narrow dtype, so the output is the same but for the clip bounds."""
    outputs = []
    for dtype in (narrow, np.dtype(np.float32)):
        source = copy_of(kind, tmp_path / f"from {dtype}")
        rounded = {name: array.astype(narrow) for name, array in read_tensors(source).items()}
        widened = {name: array.astype(dtype) for name, array in rounded.items()}
        write_tensors(source, widened)
        hf_to_mlx(source, tmp_path / f"{dtype}", options=Options(dtype="bfloat16"))
        hf_to_mlx(source, tmp_path / f"plain {dtype}", options=PLAIN)
        assert {array.dtype for array in read_tensors(tmp_path / f"plain {dtype}").values()} == {dtype}
        outputs.append(read_tensors(tmp_path / f"{dtype}"))

    one, other = ({name: array.tobytes() for name, array in output.items()} for output in outputs)
    different = {name for name in one if one[name] != other[name]}
    assert different == {name for name in one if name.endswith(("put_min", "put_max"))}


def test_a_value_too_large_for_float16_is_an_error(tmp_path: Path) -> None:
    source = copy_of("31b", tmp_path / "source")
    norm = "model.language_model.norm.weight"
    edit_tensors(source, lambda tensors: tensors.update({norm: tensors[norm] * 1e6}))

    with pytest.raises(NonFiniteError, match=r"norm\.weight holds a value too large for F16; choose --dtype bfloat16"):
        hf_to_mlx(source, tmp_path / "out", options=Options(dtype="float16"))
    assert not (tmp_path / "out").exists()


def test_the_rounding_is_recorded_and_verified(converted: Convert, tmp_path: Path) -> None:
    hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=Options(rounding=MIN_MAX))

    manifest, searched = (read_json(folder / "conversion.json") for folder in (tmp_path / "out", converted("text")))
    found = verify(tmp_path / "out", source=CHECKPOINTS / "text", steps=("files", "tensors"))

    assert (manifest["generator"]["rule"], searched["generator"]["rule"]) == (ROUNDINGS[MIN_MAX], ROUNDINGS[SEARCH])
    assert manifest["tensors"].keys() == searched["tensors"].keys()
    assert manifest["tensors"] != searched["tensors"]
    assert found.status is Status.PASS
    assert "--rounding min-max" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_other_modes_have_byte_scales_and_no_biases(mode: str, converted: Convert) -> None:
    output = converted("e4b", mode=mode, recipe="uniform")
    block, opened = read_json(output / "config.json")["quantization"], Checkpoint.open(output)

    assert block["mode"] == mode
    packed = [module for module, entry in block.items() if isinstance(entry, dict)]
    assert packed
    for module in packed:
        assert opened.tensors[f"{module}.scales"].dtype == "U8"
        assert f"{module}.biases" not in opened.tensors


@pytest.mark.parametrize(
    ("modalities", "parts", "sections"),
    [
        (("text",), {"language_model"}, set()),
        (("text", "image"), {"language_model", "vision_tower", "embed_vision"}, {"vision_config"}),
        (("audio",), {"language_model", "audio_tower", "embed_audio"}, {"audio_config"}),
    ],
)
def test_a_modality_left_out_is_gone_as_a_whole(
    modalities: tuple[str, ...], parts: set[str], sections: set[str], converted: Convert
) -> None:
    output = converted("e4b", modalities=modalities)
    document, source = read_json(output / "config.json"), read_json(CHECKPOINTS / "e4b" / "config.json")

    assert {name.partition(".")[0] for name in Checkpoint.open(output).tensors} == parts
    assert {key for key in ("vision_config", "audio_config") if document.get(key)} == sections
    assert document["image_token_id"] == source["image_token_id"]
    assert (output / "processor_config.json").exists()
    manifest = read_json(output / "conversion.json")
    assert "modality not requested" in manifest["dropped"].values()
    removed = {"$.vision_config", "$.audio_config"} - {f"$.{section}" for section in sections}
    assert manifest["config_removals"] == dict.fromkeys(removed, "modality not requested")


def test_a_copied_head_is_dropped_and_another_is_refused(converted: Convert, tmp_path: Path) -> None:
    source = copy_of("e4b", tmp_path / "source")
    embedding = "model.language_model.embed_tokens.weight"
    edit_tensors(source, lambda tensors: tensors.update({"lm_head.weight": tensors[embedding].copy()}))
    hf_to_mlx(source, tmp_path / "out")
    assert weights_and_index(tmp_path / "out") == weights_and_index(converted("e4b"))

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"].reshape(-1)[-1] += 1

    edit_tensors(source, change)
    with pytest.raises(TensorError, match=r"lm_head\.weight differs from .*embed_tokens\.weight"):
        hf_to_mlx(source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_untied_head_is_kept(tmp_path: Path) -> None:
    source = copy_of("e4b", tmp_path / "source")
    embedding = "model.language_model.embed_tokens.weight"
    edit_tensors(source, lambda tensors: tensors.update({"lm_head.weight": -tensors[embedding]}))

    def untie(document: dict[str, object]) -> None:
        document["tie_word_embeddings"] = False
        document["text_config"]["tie_word_embeddings"] = False  # type: ignore[index]

    edit_json(source / "config.json", untie)
    hf_to_mlx(source, tmp_path / "out", options=PLAIN)

    assert "language_model.lm_head.weight" in read_tensors(tmp_path / "out")


# -- what stands at the output -----------------------------------------------------------------------------------------


def test_overwrite_replaces_a_checkpoint_and_nothing_else(converted: Convert, tmp_path: Path) -> None:
    output = tmp_path / "out"
    hf_to_mlx(CHECKPOINTS / "31b", output)
    hf_to_mlx(CHECKPOINTS / "e4b", output, overwrite=True)
    assert digests(output) == digests(converted("e4b"))

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("dear")
    with pytest.raises(OutputError, match="replaces a checkpoint, and this is none"):
        hf_to_mlx(CHECKPOINTS / "e4b", other, overwrite=True)
    assert (other / "chapter.txt").read_text() == "dear"


def test_storage_dtypes_are_those_of_safetensors() -> None:
    assert set(STORAGE) == {"BF16", "F16", "F32"}
