"""Open a checkpoint's folder: every header and offset is validated before any tensor is read.

The format is https://github.com/huggingface/safetensors: eight bytes of header length, a JSON header, then the tensors
without gaps. `mx.load` takes overlapping tensors, holes and trailing bytes; this reader does not.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..schemas import parse_json, read_json, validate
from ..schemas.errors import CheckpointError, ConfigError, HeaderError, ShardError, SourceNotFoundError, UnsafeFileError
from ..schemas.files import open_regular
from .config import ModelConfig, check_model_type

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5")

# Bytes of a header, a config and an index. The format allows 100 MB to a header, which become gigabytes when they are
# parsed; the largest of Gemma 4 has 0.4.
LARGEST_HEADER = 5_000_000
LARGEST_CONFIG = LARGEST_INDEX = 1_000_000
DEEPEST = 50
# Gemma 4's tensors have four at most; the product of a million of them would take minutes.
MOST_DIMENSIONS = 8
# Read at once; a multiple of every element's size. Larger blocks leave the cache and gain nothing.
BLOCK = 1 << 20

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

Read = Callable[[int, int, int], bytes | memoryview]


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `nbytes` at `offset` from the start of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """The entries of the headers that hold it."""
        return (self,)

    @property
    def kept_as(self) -> str:
        """The dtype in which it is stored where it stays as it is."""
        return self.dtype


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose safetensors files have been opened and found sound."""

    folder: Path
    tensors: Mapping[str, TensorInfo]
    shards: tuple[Path, ...]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the headers of a sharded or single-file checkpoint.

        Raises:
            SourceNotFoundError: `folder` is not a folder.
            UnsafeFileError: the weights are pickles, or the index names a file outside the folder.
            ShardError: a shard is missing, or index and shards contradict each other.
            HeaderError: a shard's header is malformed.
        """
        if not folder.is_dir():
            raise SourceNotFoundError("there is no such folder", where=folder)
        if (index := find(folder, INDEX_FILE)) is not None:
            return cls._open_index(folder, _read_weight_map(index))
        if (single := find(folder, SINGLE_FILE)) is not None:
            return cls(folder, read_header(single), (single,))
        raise _without_weights(folder)

    @classmethod
    def _open_index(cls, folder: Path, weight_map: Mapping[str, str]) -> Checkpoint:
        shards = tuple(_shard_path(folder, name) for name in sorted(set(weight_map.values())))
        tensors: dict[str, TensorInfo] = {}
        for shard in shards:
            header = read_header(shard)
            if twice := tensors.keys() & header.keys():
                raise ShardError(f"the tensor {min(twice)} also stands in another shard", where=shard.name)
            if surplus := header.keys() - weight_map.keys():
                raise ShardError(f"{min(surplus)} is in {shard.name}, but not in the index", where=INDEX_FILE)
            tensors.update(header)
        _check_index(weight_map, tensors)
        return cls(folder, tensors, shards)


def read_config(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """The config of a checkpoint, as parsed and typed.

    Raises:
        ConfigError: it is missing, breaks its schema, or contradicts itself.
        UnsupportedModelError: the architecture is not ours.
        UnsafeFileError: it is a link that leads out of the folder.
    """
    document = read_json(within(folder, folder / CONFIG_FILE), largest=LARGEST_CONFIG)
    if not isinstance(document, dict):
        raise ConfigError("$: the document is not an object", where=CONFIG_FILE)
    if is_deep(document):
        raise ConfigError(f"$: it is nested deeper than {DEEPEST} levels", where=CONFIG_FILE)
    check_model_type(document)
    validate(document, "config", where=CONFIG_FILE)
    return document, ModelConfig.from_dict(document)


def is_deep(document: Any) -> bool:
    """Whether there is something below `DEEPEST` levels, where functions that call themselves come to an end."""
    level = [document]
    for _ in range(DEEPEST):
        level = [child for value in level for child in _children(value)]
    return bool(level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, in the order of their offsets.

    Raises:
        ShardError: the file is missing or shorter than its header says.
        HeaderError: the header is not what the format allows.
    """
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            (length,) = struct.unpack("<Q", _exactly(stream.read(8), 8, file))
            if length > size - 8:
                raise HeaderError(f"the header is said to be {length:,} bytes, the file has {size:,}", where=file.name)
            if length > LARGEST_HEADER:
                raise HeaderError(f"the header has {length:,} bytes, {LARGEST_HEADER:,} at most", where=file.name)
            text = _exactly(stream.read(length), length, file)
    except OSError as error:
        raise ShardError(f"cannot be read: {error.strerror}", where=file.name) from None
    entries = _parse_header(text, file)
    start = 8 + length
    infos = [_tensor_info(name, entry, start, file) for name, entry in entries.items()]
    infos.sort(key=lambda info: (info.offset, info.nbytes))
    _check_offsets(infos, start, size, file)
    return {info.name: info for info in infos}


def _exactly(data: bytes, count: int, file: Path) -> bytes:
    if len(data) != count:
        raise ShardError("the file is truncated within its header", where=file.name, fix="download it again")
    return data


def _parse_header(text: bytes, file: Path) -> dict[str, Any]:
    try:
        header = parse_json(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the header is not valid JSON: {error}", where=file.name) from None
    if not isinstance(header, dict):
        raise HeaderError("the header is not a JSON object", where=file.name)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError("__metadata__ is not a map of strings", where=file.name)
    return header


def _tensor_info(name: str, entry: Any, start: int, file: Path) -> TensorInfo:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if len(entry) == 3:
            numbers = [*shape, begin, end]
        case _:
            raise HeaderError(f"the entry of {name} lacks dtype, shape or data_offsets", where=file.name)
    if len(shape) > MOST_DIMENSIONS:
        raise HeaderError(f"{name} has {len(shape):,} dimensions, at most {MOST_DIMENSIONS} are read", where=file.name)
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise HeaderError(f"{name} has a shape or offset that is not a natural number", where=file.name)
    if dtype not in DTYPE_BYTES:
        raise HeaderError(f"{name} has the unknown dtype {dtype}", where=file.name)
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != nbytes:
        raise HeaderError(
            f"{name} is {dtype} {shape}, {nbytes} bytes, but its offsets span {end - begin}", where=file.name
        )
    # Others multiply in 64 bits from the left, and may come to a zero too late.
    if math.prod(filter(None, shape)) * DTYPE_BYTES[dtype] >= 1 << 63:
        raise HeaderError(f"{name} is {dtype} {shape}, which no file holds", where=file.name)
    return TensorInfo(name, dtype, tuple(shape), file, start + begin, nbytes)


def _check_offsets(infos: Iterable[TensorInfo], start: int, size: int, file: Path) -> None:
    """Tensors follow each other without gap or overlap, and the file ends with the last one."""
    position, before = start, "the header"
    for info in infos:
        if info.offset != position:
            fault = "overlaps" if info.offset < position else "leaves a hole after"
            raise HeaderError(f"{info.name} {fault} {before}", where=file.name)
        position, before = position + info.nbytes, info.name
    if position > size:
        raise ShardError(
            f"the file is truncated: {size} bytes where the header calls for {position}",
            where=file.name,
            fix="download it again",
        )
    if position < size:
        raise HeaderError(f"{size - position} bytes follow the last tensor", where=file.name)


def _read_weight_map(index: Path) -> dict[str, str]:
    document = read_json(index, largest=LARGEST_INDEX)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ShardError("weight_map is not a map from tensor names to files", where=index.name)
    if not weight_map:
        raise ShardError("weight_map is empty", where=index.name)
    return weight_map


def _shard_path(folder: Path, name: str) -> Path:
    """A shard beside its index."""
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise UnsafeFileError(f"weight_map names {name!r}, which is not a safetensors file here", where=INDEX_FILE)
    path = find(folder, name)
    if path is None:
        raise ShardError("the shard is missing", where=name, fix="download it again")
    return path


def find(folder: Path, name: str) -> Path | None:
    """A file of the checkpoint; None where there is none. A link that leads nowhere is a file that cannot be read.

    Raises:
        UnsafeFileError: it is a link that leads out of the checkpoint.
    """
    path = folder / name
    return within(folder, path) if os.path.lexists(path) else None


def within(folder: Path, path: Path) -> Path:
    """`path` itself, if it leads to a file of the checkpoint; the Hub's cache links into its own `blobs/`.

    Raises:
        UnsafeFileError: it is a link that leads elsewhere.
    """
    home = folder.resolve()
    try:
        real = path.resolve()
    except RuntimeError:  # Python 3.11 and 3.12 say so of links in a circle
        raise UnsafeFileError("its links lead in a circle", where=path.name) from None
    blobs = home.parent.parent / "blobs"
    if home.parent.name == "snapshots" and blobs in real.parents:
        return path
    if home not in real.parents:
        raise UnsafeFileError("the file is a link that leads out of the checkpoint", where=path.name)
    return path


def _check_index(weight_map: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> None:
    for name, shard in weight_map.items():
        if name not in tensors:
            raise ShardError(f"the index promises {name}, which is not there", where=shard)
        if tensors[name].file.name != shard:
            raise ShardError(f"{name} is in {tensors[name].file.name}, the index says {shard}", where=INDEX_FILE)


def _without_weights(folder: Path) -> CheckpointError:
    names = sorted(path.name for path in folder.iterdir())
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return UnsafeFileError(
            "the weights are pickles, which run code when they are opened",
            where=pickles[0],
            fix="save the checkpoint as safetensors",
        )
    return ShardError(
        f"neither {SINGLE_FILE} nor {INDEX_FILE} is in the folder", where=folder.name, fix="give the model's own folder"
    )


def blocks(info: TensorInfo, descriptor: int) -> Iterator[bytes | memoryview]:
    """The bytes of a tensor, in blocks of whole elements.

    Args:
        info: the tensor.
        descriptor: of its open file.

    Raises:
        ShardError: as `pread_exactly`.
    """
    for start in range(0, info.nbytes, BLOCK):
        count = min(BLOCK, info.nbytes - start)
        yield pread_exactly(descriptor, count, info.offset + start, info.file.name)


def pread_exactly(descriptor: int, count: int, offset: int, where: str, read: Read = os.pread) -> bytes | memoryview:
    """Read `count` bytes at `offset`; a short read means that the file changed under us.

    Args:
        descriptor: of the open file.
        count: bytes to read.
        offset: from the start of the file.
        where: how an error calls the file.
        read: what reads, `os.pread` or the like.

    Raises:
        ShardError: the file ends early, or the disk reports an error.
    """
    pieces = []
    while count:
        try:
            piece = read(descriptor, count, offset)
        except OSError as error:
            raise ShardError(f"cannot be read at byte {offset}: {error.strerror}", where=where) from None
        if not piece:
            raise ShardError(f"the file ends at byte {offset}: it was changed while it was read", where=where)
        pieces.append(piece)
        count, offset = count - len(piece), offset + len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
