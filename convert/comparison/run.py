"""Compare two checkpoints, file by file, the tensors last."""

from __future__ import annotations

from pathlib import Path

from ..manifest import package_version
from ..memory import peak_resident
from ..verification.checking import Progress, silent
from .config import block_differences, config_differences
from .files import file_differences, file_names, generation_differences
from .outcome import Comparison, Difference
from .processor import processor_differences
from .side import open_sides
from .template import template_differences
from .tensors import tensor_differences
from .tokenizer import tokenizer_config_differences, tokenizer_differences

FILES = {
    "processor": processor_differences,
    "tokenizer": tokenizer_differences,
    "tokenizer config": tokenizer_config_differences,
    "chat template": template_differences,
    "generation config": generation_differences,
    "files": file_differences,
}


def diff(a: str | Path, b: str | Path, *, progress: Progress | None = None) -> Comparison:
    """Compare two checkpoints, each a source or a conversion; what differs is a difference, never an error.

    Not compared are the model card, `conversion.json`, the index of the shards and how tensors are spread over them,
    files whose names begin with a dot, and how JSON files are laid out.

    Args:
        a: a folder, `org/name`, or `org/name@revision`.
        b: another one.
        progress: called with a step, and with what is being looked at in it.

    Raises:
        G4ConvertError: a checkpoint is not there, or cannot be read at all: it is damaged, of another architecture, or
            packed in a format that is not decoded.
    """
    say = progress or silent
    say("opening", f"{a}, {b}")
    sides = open_sides(a, b)
    config = list(config_differences(*sides))
    files: list[Difference] = []
    for name, compare in FILES.items():
        say("files", name)
        files += compare(*sides)
    tensors = tensor_differences(*sides, lambda name: say("tensors", name))
    blocks = () if tensors.repacked else block_differences(*sides)
    one, other = (side.summary for side in sides)
    return Comparison(
        a=one,
        b=other,
        differences=(*config, *blocks, *files, *tensors.differences),
        weights=tensors.weights,
        files=len(file_names(*sides)[0]),
        peak_memory=peak_resident(),
        version=package_version(),
    )
