"""What a bad checkpoint is, as data, and the tools to make one.

The corpus is spread over modules by kind. Each has a table `BREAKS`, from a name to a `Break`; `corpus` lists them. A
break damages a copy of a sample in place. It must do so in either form, as Hugging Face saves it and as MLX does: the
same damage is shown to the converter and to the loader. Tensors are therefore named by how their names end.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g4convert.schemas.errors import G4ConvertError
from g4convert.tests.support import WEIGHTS, Tensors, edit_json, edit_tensors, read_tensors
from safetensors.numpy import save_file

INDEX = "model.safetensors.index.json"

# How names of text and tower tensors end in both forms.
NORM = "model.norm.weight"
UP = "layers.0.mlp.up_proj.weight"
EMBEDDING = "embed_tokens.weight"
PLE = "embed_tokens_per_layer.weight"
BOUND = "vision_tower.encoder.layers.0.mlp.up_proj.input_max"
TOWER = "audio_tower.layers.1.norm_out.weight"

Damage = Callable[[Path], object]
Header = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """What a program must say: a class of error, and words of its line, `|` between alternatives."""

    error: type[G4ConvertError]
    says: str

    def fits(self, line: str) -> bool:
        """Whether a line has the words."""
        return any(words in line for words in self.says.split("|"))


@dataclass(frozen=True)
class Break:
    """One way to break a checkpoint, and what must be said of it.

    Attributes:
        damage: what happens to the folder of a sample.
        error, says: how the converter refuses it; see `Refusal`.
        loading: how the loader does: True is as the converter, None is not at all, for it does not read that.
        kind: the sample.
    """

    damage: Damage
    error: type[G4ConvertError]
    says: str
    loading: Refusal | bool = True
    kind: str = "e2b"

    @property
    def refusal(self) -> Refusal:
        """What the converter must say."""
        return Refusal(self.error, self.says)

    @property
    def loader_refusal(self) -> Refusal | None:
        """What the loader must say; None where it does not read what is broken."""
        if isinstance(self.loading, Refusal):
            return self.loading
        return self.refusal if self.loading else None


Breaks = dict[str, Break]


# -- any file ----------------------------------------------------------------------------------------------------------


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str | bytes) -> Damage:
    """Replace a file, or add one."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def document(name: str, edit: Callable[[Any], object]) -> Damage:
    """Change a JSON file."""
    return lambda folder: edit_json(folder / name, edit)


def both(*damages: Damage) -> Damage:
    """One damage after the other."""

    def apply(folder: Path) -> None:
        for damage in damages:
            damage(folder)

    return apply


# -- weights -----------------------------------------------------------------------------------------------------------


def tensors(edit: Callable[[Tensors], object]) -> Damage:
    return lambda folder: edit_tensors(folder, edit)


def named(content: Mapping[str, Any], ending: str) -> str:
    """The one name that ends so."""
    (name,) = (name for name in content if name.endswith(ending))
    return name


def changed(ending: str, edit: Callable[[Any], Any]) -> Damage:
    """Replace one tensor by what `edit` makes of it."""
    return tensors(lambda content: content.update({(name := named(content, ending)): edit(content[name])}))


def dropped(ending: str) -> Damage:
    return tensors(lambda content: content.pop(named(content, ending)))


def beside(ending: str, leaf: str, array: Any) -> Damage:
    """Add a tensor whose name differs from another's in the last part only."""
    return tensors(lambda content: content.update({f"{named(content, ending).rpartition('.')[0]}.{leaf}": array}))


def weights(edit: Callable[[bytes], bytes]) -> Damage:
    """Change the file of the weights."""
    return lambda folder: (folder / WEIGHTS).write_bytes(edit((folder / WEIGHTS).read_bytes()))


def raw_header(edit: Callable[[bytes], bytes]) -> Damage:
    """Change the header's text; its length is made to fit, the data stay."""

    def apply(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = edit(data[8 : 8 + length])
        return struct.pack("<Q", len(header)) + header + data[8 + length :]

    return weights(apply)


def header(edit: Callable[[Header], object]) -> Damage:
    """Change the header as a document."""

    def apply(raw: bytes) -> bytes:
        content = json.loads(raw)
        edit(content)
        return json.dumps(content).encode()

    return raw_header(apply)


def first(content: Header) -> Header:
    """The entry of the tensor that comes first in the file."""
    return in_order(content)[0]


def in_order(content: Header) -> list[Header]:
    """The entries of a header by their offsets."""
    entries = [entry for name, entry in content.items() if name != "__metadata__"]
    return sorted(entries, key=lambda entry: list(entry["data_offsets"]))


def end(content: Header) -> int:
    """Where the last tensor ends."""
    last: int = in_order(content)[-1]["data_offsets"][1]
    return last


# -- several files -----------------------------------------------------------------------------------------------------


def two_shards(folder: Path) -> None:
    """Spread the weights over two files with an index."""
    names = sorted(read_tensors(folder))
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    spread(folder, halves)


def spread(folder: Path, shards: Mapping[str, list[str]]) -> None:
    """Spread the weights over files, and write the index that belongs to them."""
    content = read_tensors(folder)
    (folder / WEIGHTS).unlink()
    for shard, names in shards.items():
        save_file({name: content[name] for name in names}, folder / shard)
    write_index(folder, {name: shard for shard, names in shards.items() for name in names})


def write_index(folder: Path, weight_map: Mapping[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def index(edit: Callable[[dict[str, Any]], object]) -> Damage:
    """Give the single file an index, and change the index's map."""

    def apply(folder: Path) -> None:
        weight_map: dict[str, Any] = dict.fromkeys(read_tensors(folder), WEIGHTS)
        edit(weight_map)
        write_index(folder, weight_map)

    return apply
