"""The first step: are the files whole, do they agree with each other, with the manifest, and with the source?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice

from ...loaders.checkpoint import CONFIG_FILE, INDEX_FILE, PICKLES
from ...schemas import read_json, validate
from . import conversation, origin, record, sidecars
from .checking import CheckFunction, Notes
from .listing import attempt, differences
from .outcome import Finding
from .reading import shard_header
from .subject import Subject

PROGRAMS = (*PICKLES, ".py", ".pyc", ".so", ".dylib")
BLOCKS = ("quantization", "quantization_config")


def index_and_shards(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """The shards are what the index says, to the byte, and no other shard lies beside them."""
    checkpoint, index = subject.checkpoint, subject.folder / INDEX_FILE
    names = {path.name for path in checkpoint.shards}
    for path in sorted(subject.folder.glob("*.safetensors")):
        if path.name not in names:
            yield Finding("the index does not name this shard, and some programs load it", path.name, "remove it")
    for path in checkpoint.shards:
        metadata = json.loads(shard_header(path)[8:]).get("__metadata__", {})
        if metadata.get("format") != "mlx":
            yield Finding("the header does not say format mlx, so some programs convert it again", path.name)
    total = sum(info.nbytes for info in checkpoint.tensors.values())
    if index.exists():
        metadata = read_json(index).get("metadata")
        said = metadata.get("total_size") if isinstance(metadata, dict) else None
        if said != total:
            yield Finding(f"$.metadata.total_size: found {said}, the tensors have {total} bytes", INDEX_FILE)
    else:
        yield Finding("the file is missing", INDEX_FILE, "convert again")
    notes.figures.update(shards=len(names), tensors=len(checkpoint.tensors), bytes=total)


def no_programs(subject: Subject, _: Notes) -> Iterator[Finding]:
    """Nothing in the folder runs when it is opened."""
    for path in sorted(subject.folder.rglob("*")):
        if path.suffix in PROGRAMS:
            yield Finding("the file can run code", path.relative_to(subject.folder).as_posix(), "remove it")


def config(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """`config.json` follows its schema, and says the same of the quantization in both places."""
    notes.figures["model_type"] = subject.config.model_type
    blocks = {key: subject.document.get(key) for key in BLOCKS}
    if all(block is None for block in blocks.values()):
        return
    for key, block in blocks.items():
        if block is None:
            yield Finding(f"$.{key}: found nothing, the block must stand in both {' and '.join(BLOCKS)}", CONFIG_FILE)
    one, other = blocks.values()
    if one is None or other is None:
        return
    yield from attempt(lambda: validate(one, "quantization", where=CONFIG_FILE, at=f"$.{BLOCKS[0]}"))
    for difference in islice(differences(other, one, BLOCKS[1:]), 1):
        yield difference.finding(CONFIG_FILE, f"{BLOCKS[0]} has")


CHECKS: Mapping[str, CheckFunction] = {
    "index and shards": index_and_shards,
    "no programs": no_programs,
    "config": config,
    "sidecars": sidecars.sidecars,
    "token ids": sidecars.token_ids,
    "stop tokens": conversation.stop_tokens,
    "chat template": conversation.chat_template,
    "recorded files": record.small_files,
    "recorded headers": record.headers,
    "recorded tensors": record.tensors,
    "files of the source": origin.files,
    "config of the source": origin.config,
}
