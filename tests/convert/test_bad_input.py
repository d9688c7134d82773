"""Bad input: exit status 2, one line that says what and where, no traceback, nothing at the output path."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from g4convert.convert.cli import main
from g4convert.tests.support import WEIGHTS, Tensors, copy_of, edit_json, edit_tensors, only_error_line, read_tensors
from safetensors.numpy import save_file

Break = Callable[[Path], object]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The command line in this process; its exit status."""
    monkeypatch.setattr("sys.argv", ["g4convert", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def tensors(edit: Callable[[Tensors], Any]) -> Break:
    return lambda folder: edit_tensors(folder, edit)


def document(name: str, edit: Callable[[Any], Any]) -> Break:
    return lambda folder: edit_json(folder / name, edit)


def header(edit: Callable[[dict[str, Any], int], Any]) -> Break:
    """Change the header of the weights, which stay as they are; `edit` gets it and the size of the data."""

    def apply(folder: Path) -> None:
        path = folder / WEIGHTS
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        content = json.loads(data[8 : 8 + length])
        edit(content, len(data) - 8 - length)
        text = json.dumps(content).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return apply


def weights(edit: Callable[[bytes], bytes]) -> Break:
    def apply(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(edit((folder / WEIGHTS).read_bytes()))

    return apply


def poison(value: float, name: str) -> Break:
    def edit(content: Tensors) -> None:
        content[name] = content[name].copy()
        content[name].reshape(-1)[-1] = value

    return tensors(edit)


def index(**weight_map: str) -> Break:
    def apply(folder: Path) -> None:
        names = dict.fromkeys(read_tensors(folder), WEIGHTS)
        document = {"metadata": {}, "weight_map": {**names, **weight_map}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(document))

    return apply


def two_shards(folder: Path) -> None:
    content = read_tensors(folder)
    names = sorted(content)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: content[name] for name in part}, folder / shard)
    (folder / WEIGHTS).unlink()
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def without_a_shard(folder: Path) -> None:
    two_shards(folder)
    (folder / "b.safetensors").unlink()


def doubled(folder: Path) -> None:
    two_shards(folder)
    content = read_tensors(folder)
    save_file(content, folder / "b.safetensors")


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": 1}))


def linked(target: str) -> Break:
    def apply(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.write_bytes((folder / target).read_bytes())
        (folder / target).unlink()
        (folder / target).symlink_to(outside)

    return apply


def first(content: dict[str, Any]) -> Any:
    return next(entry for name, entry in content.items() if name != "__metadata__")


def shift(content: dict[str, Any], by: int) -> None:
    entries = sorted(
        (entry for name, entry in content.items() if name != "__metadata__"), key=lambda e: e["data_offsets"]
    )
    for entry in entries[1:]:
        entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]


NORM = "model.language_model.norm.weight"
UP = "model.language_model.layers.0.mlp.up_proj.weight"
BOUND = "model.vision_tower.encoder.layers.0.mlp.up_proj.input_max"


def packed_like(leaf: str, dtype: type) -> Break:
    name = f"model.language_model.layers.0.mlp.up_proj.{leaf}"
    return tensors(lambda content: content.update({name: np.zeros((4, 4), dtype)}))


CASES: dict[str, tuple[Break, str]] = {
    "unknown tensor": (tensors(lambda t: t.update({"model.language_model.extra": t[NORM]})), "model.language_model.extra is not"),
    "missing tensor": (tensors(lambda t: t.pop(UP)), "calls for language_model.model.layers.0.mlp.up_proj.weight"),
    "wrong shape": (tensors(lambda t: t.update({UP: t[UP].T.copy()[:, :5]})), "config calls for [128, 128]"),
    "NaN in a quantized weight": (poison(float("nan"), UP), f"{WEIGHTS}: {UP} holds NaN"),
    "infinity in a quantized weight": (poison(float("inf"), UP), f"{WEIGHTS}: {UP} holds NaN"),
    "NaN in a norm": (poison(float("nan"), NORM), f"{NORM} holds NaN"),
    "infinite clip bound": (poison(float("inf"), BOUND), f"{BOUND} holds NaN"),
    "integer weight": (tensors(lambda t: t.update({UP: t[UP].astype(np.int32)})), "has the dtype I32"),
    "double weight": (tensors(lambda t: t.update({UP: t[UP].astype(np.float64)})), "has the dtype F64"),
    "truncated shard": (weights(lambda data: data[:-100]), "the file is truncated"),
    "truncated header": (weights(lambda data: data[:200]), "header"),
    "empty file": (weights(lambda _: b""), "truncated within its header"),
    "trailing bytes": (weights(lambda data: data + b"PK"), "2 bytes follow the last tensor"),
    "huge header": (weights(lambda data: struct.pack("<Q", 1 << 40) + data[8:]), "the header is said to be"),
    "header is no JSON": (weights(lambda data: data[:8] + b"x" + data[9:]), "not valid JSON"),
    "header is no UTF-8": (weights(lambda data: data[:8] + b"\xff" + data[9:]), "not valid JSON"),
    "overlap": (header(lambda h, _: shift(h, -2)), "overlaps"),
    "hole": (header(lambda h, _: shift(h, 2)), "leaves a hole"),
    "out of bounds": (header(lambda h, n: first(h).update(data_offsets=[n, n + 2], shape=[1])), "out of bounds|leaves a hole|truncated"),
    "negative shape": (header(lambda h, _: first(h).update(shape=[-1, 2])), "not a natural number"),
    "overflowing shape": (header(lambda h, _: first(h).update(shape=[1 << 62, 1 << 62])), "its offsets span"),
    "fractional shape": (header(lambda h, _: first(h).update(shape=[1.5])), "not a natural number"),
    "unknown dtype": (header(lambda h, _: first(h).update(dtype="F7")), "unknown dtype F7"),
    "offsets contradict the shape": (header(lambda h, _: first(h).update(shape=[3])), "its offsets span"),
    "entry without a dtype": (header(lambda h, _: first(h).pop("dtype")), "lacks dtype, shape or data_offsets"),
    "missing shard": (without_a_shard, "b.safetensors: the shard is missing"),
    "tensor in two shards": (doubled, "also stands in another shard"),
    "index leaves the folder": (index(**{NORM: "../other/model.safetensors"}), "weight_map names '../other/model.safetensors'"),
    "index with an absolute path": (index(**{NORM: "/etc/passwd"}), "weight_map names '/etc/passwd'"),
    "index promises more": (index(ghost=WEIGHTS), "promises ghost"),
    "weights link out of the folder": (linked(WEIGHTS), "a link that leads out"),
    "sidecar links out of the folder": (linked("chat_template.jinja"), "a link that leads out"),
    "pickle": (pickled, "pytorch_model.bin: the weights are pickles"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "neither model.safetensors nor"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: the file is missing"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json: not valid JSON"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "not an object"),
    "duplicate key": (lambda folder: (folder / "config.json").write_text('{"a": 1, "a": 2}'), "the key 'a' stands twice"),
    "unknown model_type": (document("config.json", lambda c: c.update(model_type="gemma5")), "model_type is 'gemma5'"),
    "drafter": (document("config.json", lambda c: c.update(model_type="gemma4_assistant")), "is a drafter"),
    "layer_types too short": (document("config.json", lambda c: c["text_config"]["layer_types"].pop()), "layer_types"),
    "no layer to share with": (document("config.json", lambda c: c["text_config"].update(num_kv_shared_layers=5)), "no layer before the tail"),
    "heads do not divide": (document("config.json", lambda c: c["text_config"].update(num_key_value_heads=3)), "key-value heads"),
    "hidden size is a string": (document("config.json", lambda c: c["text_config"].update(hidden_size="big")), "$.text_config.hidden_size"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: the file is missing"),
    "no processor config": (lambda folder: (folder / "processor_config.json").unlink(), "processor_config.json: the file is missing"),
    "processor config is invalid": (document("processor_config.json", lambda c: c["image_processor"].update(patch_size=-1)), "processor_config.json: $.image_processor.patch_size"),
    "generation config is invalid": (document("generation_config.json", lambda c: c.update(eos_token_id="x")), "generation_config.json: $.eos_token_id"),
    "image token is another": (document("config.json", lambda c: c.update(image_token_id=7)), "image_token_id"),
    "GPTQ by name": (packed_like("qweight", np.int32), "already quantized: GPTQ"),
    "AWQ by config": (document("config.json", lambda c: c.update(quantization_config={"quant_method": "awq"})), "already quantized: awq"),
    "bitsandbytes": (packed_like("absmax", np.float32), "already quantized: bitsandbytes"),
    "compressed-tensors": (packed_like("weight_packed", np.int32), "already quantized: compressed-tensors"),
    "FP8": (tensors(lambda t: t.update({UP: t[UP].astype(ml_dtypes.float8_e4m3fn)})), "already quantized: FP8"),
    "MLX by name": (packed_like("scales", np.float32), "already quantized: MLX"),
    "MLX by config": (document("config.json", lambda c: c.update(quantization={"bits": 4, "group_size": 64})), "already quantized: MLX 4-bit"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_source(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = CASES[case]
    source = copy_of("e2b", tmp_path / "source")
    damage(source)
    before = sorted(tmp_path.iterdir())

    status = run(monkeypatch, "hf-to-mlx", source, tmp_path / "out")

    captured = capsys.readouterr()
    line = only_error_line(captured.err)
    assert status == 2
    assert captured.out == ""
    assert any(part in line for part in message.split("|")), line
    assert str(source) not in line.replace(f"{source}:", "")
    assert sorted(tmp_path.iterdir()) == before


def test_the_undamaged_source_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "hf-to-mlx", copy_of("e2b", tmp_path / "source"), tmp_path / "out") == 0


def test_metadata_without_a_method_is_no_quantization(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = copy_of("e2b", tmp_path / "source")
    edit_json(source / "config.json", lambda c: c.update(quantization_config={"modules_to_not_convert": ["lm_head"]}))

    assert run(monkeypatch, "hf-to-mlx", source, tmp_path / "out") == 0
    assert run(monkeypatch, "hf-to-mlx", source, tmp_path / "plain", "--no-quantize") == 0
    plain = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization_config" not in plain


def test_sharded_sources_and_code_beside_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = copy_of("e2b", tmp_path / "source")
    two_shards(source)
    (source / "modeling.py").write_text("import os")
    (source / ".git").mkdir()

    assert run(monkeypatch, "hf-to-mlx", source, tmp_path / "out") == 0
    assert run(monkeypatch, "hf-to-mlx", copy_of("e2b", tmp_path / "single"), tmp_path / "expected") == 0
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "expected" / WEIGHTS).read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in (tmp_path / "expected").iterdir()
    )


CALLS: dict[str, tuple[list[str], str]] = {
    "no such folder": (["nowhere/at/all", "out"], "nowhere/at/all: there is no such folder"),
    "a relative path that is none": (["./nowhere", "out"], "./nowhere: there is no such folder"),
    "a file": (["SOURCE/config.json", "out"], "the source is a file"),
    "the output exists": (["SOURCE", "there"], "the output exists; choose another folder, or say --overwrite"),
    "the output is the source": (["SOURCE", "SOURCE"], "overlap"),
    "the output is in the source": (["SOURCE", "SOURCE/out"], "overlap"),
    "no output": (["SOURCE"], "OUTPUT: the folder to write is missing"),
    "seven bits": (["SOURCE", "out", "--bits", "7"], "--bits: 7 bits do not exist"),
    "bits that are no number": (["SOURCE", "out", "--bits", "four"], "'four' is not a valid int"),
    "group of the mode": (["SOURCE", "out", "--mode", "mxfp4", "--group-size", "64"], "--group-size: mxfp4 has 32 only"),
    "unknown mode": (["SOURCE", "out", "--mode", "q4_k"], "--mode: 'q4_k' is not a mode"),
    "unknown recipe": (["SOURCE", "out", "--recipe", "best"], "--recipe: there is no recipe 'best'"),
    "unknown dtype": (["SOURCE", "out", "--dtype", "int8"], "--dtype: 'int8' is not a dtype"),
    "unknown modality": (["SOURCE", "out", "--modalities", "smell"], "--modalities: 'smell' is not a modality"),
    "rounding for nothing": (["SOURCE", "out", "--no-quantize", "--rounding", "min-max"], "--no-quantize: it leaves nothing to --bits"),
    "no such rounding": (["SOURCE", "out", "--rounding", "up"], "--rounding: 'up' is not a rule; choose of search, min-max"),
    "bits for nothing": (["SOURCE", "out", "--no-quantize", "--bits", "4"], "--no-quantize: it leaves nothing to --bits"),
    "too little memory": (["SOURCE", "out", "--max-memory", "50MB"], "--max-memory: 50,000,000 bytes are too few"),
    "memory that is no size": (["SOURCE", "out", "--max-memory", "lots"], "--max-memory: 'lots' is not a size"),
    "no workers": (["SOURCE", "out", "--workers", "0"], "--workers: at least one"),
    "revision of a folder": (["SOURCE", "out", "--revision", "main"], "--revision: a folder has no revisions"),
    "typo": (["SOURCE", "out", "--bit", "4"], "No such option '--bit'"),
    "shards of nothing": (["SOURCE", "out", "--max-shard-size", "0"], "--max-shard-size: a shard holds"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_bad_call(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = CALLS[case]
    source = copy_of("e2b", tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.rglob("*"))

    status = run(monkeypatch, "hf-to-mlx", *(argument.replace("SOURCE", str(source)) for argument in arguments))

    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert message in only_error_line(captured.err)
    assert sorted(tmp_path.rglob("*")) == before
