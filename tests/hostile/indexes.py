"""Indexes of shards that lead elsewhere, contradict the shards, or are no index."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from g4convert.schemas.errors import ConfigError, ShardError, UnsafeFileError
from g4convert.tests.support import WEIGHTS, read_json, read_tensors
from safetensors.numpy import save_file

from .breaks import INDEX, NORM, Break, Breaks, Damage, index, named, spread, two_shards, write_index


def sends(shard: str) -> Damage:
    """The index says that one tensor is in `shard`."""
    return index(lambda weight_map: weight_map.update({named(weight_map, NORM): shard}))


def maps(weight_map: Any) -> Damage:
    return lambda folder: write_index(folder, weight_map)


def whole(text: str | bytes) -> Damage:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / INDEX).write_bytes(data)


def sharded(edit: Callable[[Path], object]) -> Damage:
    """Spread the weights over two shards, and change them."""

    def apply(folder: Path) -> None:
        two_shards(folder)
        edit(folder)

    return apply


def doubled(folder: Path) -> None:
    """One shard holds what the other does, too."""
    content = read_tensors(folder)
    save_file(content, folder / "b.safetensors")


def swapped(folder: Path) -> None:
    (folder / "a.safetensors").rename(folder / "c.safetensors")
    (folder / "b.safetensors").rename(folder / "a.safetensors")
    (folder / "c.safetensors").rename(folder / "b.safetensors")


def climbing(folder: Path) -> None:
    """The weights lie beside the checkpoint, and the index knows where."""
    outside = folder.parent / "outside.safetensors"
    names = list(read_tensors(folder))
    (folder / WEIGHTS).rename(outside)
    write_index(folder, dict.fromkeys(names, "../outside.safetensors"))


def below(folder: Path) -> None:
    """The weights lie in a folder of the checkpoint."""
    (folder / "shards").mkdir()
    names = list(read_tensors(folder))
    (folder / WEIGHTS).rename(folder / "shards" / WEIGHTS)
    write_index(folder, dict.fromkeys(names, f"shards/{WEIGHTS}"))


def blocked(make: Callable[[Path], object]) -> Damage:
    """Something else than a file stands where a shard belongs."""

    def apply(folder: Path) -> None:
        two_shards(folder)
        (folder / "b.safetensors").unlink()
        make(folder / "b.safetensors")

    return apply


def stale(folder: Path) -> None:
    """A shard holds a tensor that the index leaves out."""
    document = read_json(folder / INDEX)
    del document["weight_map"][named(document["weight_map"], NORM)]
    write_index(folder, document["weight_map"])


def crumbs(folder: Path) -> None:
    """Hundreds of shards, of which the last is missing."""
    names = sorted(read_tensors(folder))
    spread(folder, {"zz.safetensors": names})
    shards = {f"s{number:04d}.safetensors": f"t{number}" for number in range(300)}
    for shard, name in shards.items():
        save_file({name: np.zeros(1, np.float32)}, folder / shard)
    (folder / "zz.safetensors").unlink()
    write_index(folder, {**{name: shard for shard, name in shards.items()}, **dict.fromkeys(names, "zz.safetensors")})


BREAKS: Breaks = {
    "climbs out of the folder": Break(climbing, UnsafeFileError, "weight_map names '../outside.safetensors'"),
    "names another folder's weights": Break(sends("../other/model.safetensors"), UnsafeFileError, "weight_map names '../other/model.safetensors'"),
    "absolute path": Break(sends("/etc/passwd"), UnsafeFileError, "weight_map names '/etc/passwd'"),
    "absolute path of safetensors": Break(sends("/tmp/model.safetensors"), UnsafeFileError, "weight_map names '/tmp/model.safetensors'"),
    "folder below": Break(below, UnsafeFileError, f"weight_map names 'shards/{WEIGHTS}'"),
    "this folder": Break(sends("."), UnsafeFileError, "weight_map names '.'"),
    "the folder above": Break(sends(".."), UnsafeFileError, "weight_map names '..'"),
    "dots before the name": Break(sends(f"./{WEIGHTS}"), UnsafeFileError, "weight_map names './model"),
    "slash behind the name": Break(sends(f"{WEIGHTS}/"), UnsafeFileError, "weight_map names 'model.safetensors/'"),
    "empty name": Break(sends(""), UnsafeFileError, "weight_map names ''"),
    "a pickle": Break(sends("pytorch_model.bin"), UnsafeFileError, "weight_map names 'pytorch_model.bin'"),
    "a program": Break(sends("modeling.py"), UnsafeFileError, "weight_map names 'modeling.py'"),
    "backslashes": Break(sends("..\\model.safetensors"), ShardError, "the shard is missing"),
    "a home": Break(sends("~root.safetensors"), ShardError, "the shard is missing"),
    "NUL in a name": Break(sends("a\0.safetensors"), ShardError, "the shard is missing"),
    "name that clears the screen": Break(sends("\x1b[2J.safetensors"), ShardError, "[2J.safetensors: the shard is missing"),
    "name too long for a disk": Break(sends("x" * 5000 + ".safetensors"), ShardError, "the shard is missing"),
    "name in other letters": Break(sends("MODEL.safetensors"), ShardError, "MODEL.safetensors: the shard is missing"),
    "missing shard": Break(sharded(lambda folder: (folder / "b.safetensors").unlink()), ShardError, "b.safetensors: the shard is missing"),
    "empty shard": Break(sharded(lambda folder: (folder / "b.safetensors").write_bytes(b"")), ShardError, "b.safetensors: the file is truncated"),
    "shard is a folder": Break(blocked(lambda path: path.mkdir()), ShardError, "b.safetensors: cannot be read"),
    "shard is a pipe": Break(blocked(os.mkfifo), ShardError, "b.safetensors: cannot be read: not a regular file"),
    "shard is a link to itself": Break(blocked(lambda path: path.symlink_to(path.name)), UnsafeFileError, "in a circle|out of the checkpoint"),
    "shard is a link to nothing": Break(blocked(lambda path: path.symlink_to("nothing")), ShardError, "b.safetensors: cannot be read: No such file"),
    "shards in the other's place": Break(sharded(swapped), ShardError, "the index says"),
    "tensor in two shards": Break(sharded(doubled), ShardError, "also stands in another shard"),
    "promises more": Break(index(lambda m: m.update(ghost=WEIGHTS)), ShardError, "the index promises ghost"),
    "leaves a tensor out": Break(sharded(stale), ShardError, "but not in the index"),
    "300 shards, one missing": Break(crumbs, ShardError, "zz.safetensors: the shard is missing"),
    "a number for a file": Break(index(lambda m: m.update({named(m, NORM): 1})), ShardError, "weight_map is not a map"),
    "null for a file": Break(index(lambda m: m.update({named(m, NORM): None})), ShardError, "weight_map is not a map"),
    "a list of files": Break(index(lambda m: m.update({named(m, NORM): [WEIGHTS]})), ShardError, "weight_map is not a map"),
    "map is empty": Break(maps({}), ShardError, "weight_map is empty"),
    "map is null": Break(maps(None), ShardError, "weight_map is not a map"),
    "map is a list": Break(maps([]), ShardError, "weight_map is not a map"),
    "no map": Break(whole("{}"), ShardError, "weight_map is not a map"),
    "a list": Break(whole("[]"), ShardError, "weight_map is not a map"),
    "a string": Break(whole('"weight_map"'), ShardError, "weight_map is not a map"),
    "empty file": Break(whole(""), ConfigError, f"{INDEX}: not valid JSON"),
    "no JSON": Break(whole("weights"), ConfigError, f"{INDEX}: not valid JSON"),
    "no UTF-8": Break(whole(b'{"weight_map": {"\xff": "a"}}'), ConfigError, f"{INDEX}: cannot be read"),
    "half a character": Break(whole('{"weight_map": {"\\ud800": "a.safetensors"}}'), ConfigError, f"{INDEX}: not valid JSON"),
    "a key twice": Break(whole('{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}'), ConfigError, "the key 'a' stands twice"),
    "two maps": Break(whole('{"weight_map": {}, "weight_map": {}}'), ConfigError, "the key 'weight_map' stands twice"),
    "nested 100,000 deep": Break(whole('{"weight_map":' * 100_000), ConfigError, f"{INDEX}: "),
    "a hundred megabytes": Break(lambda folder: os.truncate(os.open(folder / INDEX, os.O_CREAT | os.O_RDWR), 100_000_000), ConfigError, "more than 1,000,000 bytes"),
    "as many shards as an index can name": Break(maps({f"{i:x}": f"{i:x}.safetensors" for i in range(30_000)}), ShardError, "0.safetensors: the shard is missing"),
}  # fmt: skip
