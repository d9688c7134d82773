"""Small things that many tests need: checkpoints to break, and ways to look at what came out."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from g4convert.convert.cli import main
from g4convert.convert.inventory import catalogue
from g4convert.loaders.checkpoint import TensorInfo
from g4convert.loaders.config import ModelConfig
from numpy.typing import NDArray
from safetensors import deserialize
from safetensors.numpy import save_file

TESTS = Path(__file__).parent
CHECKPOINTS = TESTS / "checkpoints"
CONFIGS = TESTS / "schemas" / "documents" / "config"
KINDS = ("e2b", "e4b", "26b-a4b", "31b", "12b", "text", "e2b-qat")
WEIGHTS = "model.safetensors"

Tensors = dict[str, NDArray[Any]]
DTYPES = {
    "BOOL": bool, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "I32": np.int32, "U32": np.uint32,
    "I64": np.int64, "U64": np.uint64, "F64": np.float64, "F32": np.float32, "F16": np.float16,
    "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}  # fmt: skip


def config_of(name: str) -> ModelConfig:
    """A published config, typed; `name` is a file of tests/schemas/documents/config."""
    return ModelConfig.from_dict(json.loads((CONFIGS / f"{name}.json").read_text()))


def headers(config: ModelConfig, dtype: str = "BF16") -> list[TensorInfo]:
    """The tensors that a Hugging Face checkpoint of this config holds, under the tables' names."""
    infos = []
    for name, targets in catalogue(config).targets.items():
        if "switch_glu" not in name:  # transformers fuses the experts
            shape = targets[-1].source_shape
            infos.append(TensorInfo(name, dtype, shape, Path(WEIGHTS), 0, 2 * math.prod(shape)))
    return infos


def e2b_header() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes of all 2011 tensors of the published E2B-it, from its header."""
    with (TESTS / "facts" / "e2b-it.tensors.tsv").open() as stream:
        return dict(_expand(csv.DictReader(stream, delimiter="\t")))


def _expand(rows: csv.DictReader[str]) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    for row in rows:
        shape = tuple(json.loads(row["shape"]))
        for number in _numbers(row["layers"]):
            yield row["pattern"].replace(".N.", f".{number}."), (row["dtype"], shape)


def _numbers(text: str | None) -> list[str]:
    if not text:
        return [""]
    numbers = []
    for span in text.split(","):
        first, _, last = span.partition("-")
        numbers += [str(number) for number in range(int(first), int(last or first) + 1)]
    return numbers


def sparse_e2b(folder: Path) -> Path:
    """A checkpoint with the published E2B-it's header: 10.2 GB of zeros that take no room on the disk."""
    return sparse_checkpoint(folder, "E2B-published", e2b_header())


def sparse_checkpoint(folder: Path, document: str, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A checkpoint of true size, all zeros that take no room on the disk.

    Config and processor are published ones; the tokenizer, and so the ids of its tokens, are the sample's.

    Args:
        folder: to make.
        document: a file of tests/schemas/documents/config.
        tensors: dtype, of two bytes, and shape, by name.
    """
    folder.mkdir()
    with (folder / WEIGHTS).open("wb") as stream:
        header, size = _header(tensors)
        stream.write(header)
        stream.truncate(len(header) + size)
    config = read_json(CONFIGS / f"{document}.json")
    sample = read_json(CHECKPOINTS / "e2b" / "config.json")
    config.update({key: sample[key] for key in config if key.endswith(("token_id", "token_index"))})
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(TESTS / "schemas/documents/processor_config/published.json", folder / "processor_config.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(CHECKPOINTS / "e2b" / name, folder)
    return folder


def _header(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, int]:
    entries, position = {}, 0
    for name, (dtype, shape) in sorted(tensors.items()):
        end = position + 2 * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text, position


def copy_of(kind: str, to: Path) -> Path:
    """A sample checkpoint of one's own, to break."""
    return Path(shutil.copytree(CHECKPOINTS / kind, to))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def edit_json(path: Path, edit: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    document = read_json(path)
    edit(document)
    path.write_text(json.dumps(document))


def read_tensors(folder: Path) -> Tensors:
    """Every tensor of a checkpoint's shards."""
    tensors: Tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        for name, entry in deserialize(shard.read_bytes()):  # type: ignore[no-untyped-call]
            tensors[name] = np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def edit_tensors(folder: Path, edit: Callable[[Tensors], object]) -> None:
    """Change the tensors of a single-file checkpoint."""
    tensors = read_tensors(folder)
    edit(tensors)
    write_tensors(folder, tensors)


def write_tensors(folder: Path, tensors: Tensors) -> None:
    """Replace the weights of a single-file checkpoint."""
    save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, folder / WEIGHTS)


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    """Give the tensors of a single-file checkpoint other names."""

    def edit(tensors: Tensors) -> None:
        renamed = {rename(name): array for name, array in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    edit_tensors(folder, edit)


def saved_form(folder: Path) -> None:
    """Turn a checkpoint as Google ships it into what transformers' `save_pretrained` writes."""
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    text = config.text

    def edit(document: Any) -> None:
        block = document["text_config"]
        head_dim, heads = block.pop("global_head_dim"), block.pop("num_global_key_value_heads", None)
        override = {"head_dim": head_dim, **({"num_key_value_heads": heads} if text.attention_k_eq_v else {})}
        full = [layer.index for layer in text.layers if not layer.is_sliding]
        block["per_layer_config"] = {f"{index:02d}": override for index in full}
        document.pop("eoa_token_id", None)

    edit_json(folder / "config.json", edit)
    shared = tuple(f".{layer.index}.self_attn.{leaf}" for layer in text.layers for leaf in KV_LEAVES if layer.shares_kv)
    edit_tensors(folder, lambda tensors: _remove(tensors, shared))


KV_LEAVES = ("k_proj.weight", "v_proj.weight", "k_norm.weight")


def _remove(tensors: Tensors, endings: tuple[str, ...]) -> None:
    for name in [name for name in tensors if "language_model" in name and name.endswith(endings)]:
        del tensors[name]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def weights_and_index(folder: Path) -> dict[str, str]:
    """SHA-256 of the shards and the index."""
    return {name: digest for name, digest in digests(folder).items() if ".safetensors" in name}


def command(*arguments: str | Path) -> tuple[int, BaseException | None]:
    """The command line in this process: its exit status, and the error that it turned into a line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["g4convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
    return int(caught.value.code or 0), caught.value.__context__


def only_error_line(text: str) -> str:
    """The one line that a failed command may print."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("g4convert: "), text
    return lines[0]
