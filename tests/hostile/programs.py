"""Files that run code, or are no weights, where weights belong."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

from g4convert.schemas.errors import HeaderError, ShardError, UnsafeFileError
from g4convert.tests.support import WEIGHTS

from .breaks import Break, Breaks, Damage, both, remove, text

PICKLES = (
    "pytorch_model.bin", "model.pt", "model.pth", "weights.pkl", "weights.pickle", "last.ckpt", "flax_model.msgpack",
    "tf_model.h5", "pytorch_model-00001-of-00002.bin",
)  # fmt: skip


class Trap:
    """An object that leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def trapped(name: str) -> Damage:
    """Write a pickle that leaves `trace` beside the checkpoint when it is opened."""
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Trap(folder.parent / "trace")))


def program(name: str) -> Damage:
    """Write a program that leaves `trace` beside the checkpoint when it runs."""
    return lambda folder: (folder / name).write_text(
        f"import pathlib\npathlib.Path({str(folder.parent / 'trace')!r}).touch()\n"
    )


def only(*damages: Damage) -> Damage:
    """In place of the weights."""
    return both(remove(WEIGHTS), *damages)


def archive() -> bytes:
    """What `torch.save` writes: a pickle in a zip file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"weight": 1}))
    return stream.getvalue()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 10246621918\n"
DISGUISES: dict[str, str | bytes] = {
    "a pickle": pickle.dumps({"weight": 1}),
    "a zip file": archive(),
    "a GGUF": b"GGUF\x03\0\0\0" + bytes(24),
    "an HTML page": "<!DOCTYPE html><html><title>401</title></html>",
    "a pointer of git-lfs": POINTER,
    "a program": "#!/bin/sh\nrm -rf /\n",
    "compressed": b"\x1f\x8b\x08\0" + bytes(28),
    "zeros": bytes(1 << 16),
}

BREAKS: Breaks = {
    **{f"only {name}": Break(only(trapped(name)), UnsafeFileError, f"{name}: the weights are pickles") for name in PICKLES},
    **{f"weights are {name}": Break(text(WEIGHTS, content), HeaderError, "the header is|the header has") for name, content in DISGUISES.items()},
    "a pickle and a program": Break(only(trapped("pytorch_model.bin"), program("modeling.py")), UnsafeFileError, "pytorch_model.bin: the weights are pickles"),
    "only a program": Break(only(program("modeling.py")), ShardError, "neither model.safetensors nor"),
    "only GGUF": Break(only(text("model.gguf", b"GGUF")), ShardError, "neither model.safetensors nor"),
    "only weights of another name": Break(lambda folder: (folder / WEIGHTS).rename(folder / "weights.safetensors"), ShardError, "neither model.safetensors nor"),
    "no weights": Break(remove(WEIGHTS), ShardError, "neither model.safetensors nor"),
    "a shard without an index": Break(lambda folder: (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors"), ShardError, "neither model.safetensors nor"),
}  # fmt: skip
