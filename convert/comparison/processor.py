"""`processor_config.json`: every key that differs, and whether media are prepared otherwise for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from ...loaders.config import UNIFIED
from ...loaders.consistency import PART_TYPES
from ...loaders.media import MediaSettings
from ...schemas import validate
from ...schemas.defaults import ALIASES, filled
from ...schemas.errors import ConfigError
from ..source import PROCESSOR, SCHEMAS
from ..verification.listing import Path, differences
from .documents import document_differences, refusal
from .meanings import SPELLED
from .outcome import Difference
from .side import Side, read_object

PICTURES, CLIPS, SOUNDS = PART_TYPES
NEEDS = {PICTURES: "vision", CLIPS: "vision", SOUNDS: "audio"}
"""The part of the config without which what a part of the file prepares is not taken."""
# What programs take where the file says nothing, beside the defaults of transformers' classes that are known.
LEFT_OUT = ((SOUNDS, "fft_overdrive", False), (CLIPS, "default_fps", 2.0))
NOT_TAKEN = "neither model takes what it prepares"


def processor_differences(a: Side, b: Side) -> Iterator[Difference]:
    """Compare the files, where both sides have one."""
    if PROCESSOR not in a.files or PROCESSOR not in b.files:
        return
    one, other = _Processor.of(a), _Processor.of(b)
    idle = {part for part, needs in NEEDS.items() if getattr(a.config, needs) is getattr(b.config, needs) is None}
    yield from refusal(PROCESSOR, one.fault, other.fault)
    yield from document_differences(PROCESSOR, one.document, other.document, partial(_harmless, one, other, idle))


@dataclass(frozen=True)
class _Processor:
    """A file, why it is refused, and what programs take from it: what it says, and defaults for what it leaves out."""

    document: Mapping[str, Any]
    fault: str | None
    fields: Mapping[Path, Any]

    @classmethod
    def of(cls, side: Side) -> Self:
        document = read_object(side.files[PROCESSOR])
        family = "Gemma4Unified" if side.config.family == UNIFIED else "Gemma4"
        return cls(document, _fault(document), dict(_fields(document, family)))


def _fault(document: Mapping[str, Any]) -> str | None:
    try:
        validate(document, SCHEMAS[PROCESSOR], where=PROCESSOR)
        MediaSettings.from_dict(document)
    except ConfigError as error:
        return error.what
    return None


def _fields(document: Mapping[str, Any], family: str) -> Iterator[tuple[Path, Any]]:
    """Every key with the value that counts; where pictures are prepared, clips are too."""
    yield from (((key,), value) for key, value in filled(document, f"{family}Processor").items())
    for part, (_, kind) in PART_TYPES.items():
        said = document.get(part)
        if said is None and part == CLIPS and document.get(PICTURES) is not None:
            said = {}
        fields = filled(said, family + kind) if isinstance(said, Mapping) else {}
        yield (part,), fields or said
        yield from (((part, key), value) for key, value in fields.items())
        said = said if isinstance(said, Mapping) else {}
        yield from (((part, key), said.get(key, left_out)) for of, key, left_out in LEFT_OUT if of == part)


def _harmless(one: _Processor, other: _Processor, idle: set[str], path: Path) -> str | None:
    """Why media are prepared alike."""
    if path[0] in idle:
        return NOT_TAKEN
    field = tuple(ALIASES.get(key, key) if isinstance(key, str) else key for key in path[:2])
    if field not in one.fields or field not in other.fields:
        return None
    return None if any(differences(one.fields[field], other.fields[field])) else SPELLED
