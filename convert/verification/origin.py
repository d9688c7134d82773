"""Are the small files those of the source, and does the config say what the source's says?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...loaders.checkpoint import CONFIG_FILE, INDEX_FILE
from ...loaders.config import ModelConfig
from ...loaders.prompt import PromptFormat
from ...schemas import read_json
from ..manifest import index
from ..source import SCHEMAS, TEMPLATES, Source
from .checking import Notes, SkipError
from .listing import GONE, Difference, differences
from .outcome import Finding
from .reading import same_files
from .subject import Subject

# Keys of a config that change no computation, or that a conversion changes on purpose. Where an answer stops is the
# union of several files, so it is compared apart.
FREE = frozenset(
    {"quantization", "quantization_config", "transformers_version", "dtype", "torch_dtype", "eos_token_id"}
)
DERIVED = "derived from the source is"


def source_of(subject: Subject) -> Source:
    """The source, or no check."""
    if subject.source is None:
        raise SkipError("no source was given")
    return subject.source


def files(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Every small file of the source is there, byte for byte; the model card is another one."""
    source, found = source_of(subject), subject.sidecars
    for name, path in source.sidecars.items():
        if name not in found:
            yield Finding("the file is missing; the source has it", name, "convert again")
        elif not same_files(found[name], path):
            yield Finding(f"the file is not the source's: {_first_difference(name, found[name], path)}", name)
    for name in sorted(found.keys() - source.sidecars.keys()):
        # We add no file; of what another tool adds, only that matters which programs go by.
        if subject.manifest is not None or name in SCHEMAS.keys() | TEMPLATES:
            yield Finding("the source has no such file", name, "remove it, or convert again")
    notes.figures["files"] = len(source.sidecars)


def _first_difference(name: str, found: Path, expected: Path) -> str:
    if not name.endswith(".json"):
        return f"{found.stat().st_size} bytes, the source's has {expected.stat().st_size}"
    first = next(differences(read_json(found), read_json(expected)), None)
    return "other bytes of the same meaning" if first is None else first.what("the source has")


def config(subject: Subject, _: Notes) -> Iterator[Finding]:
    """The config is the one that is derived from the source's or, of another tool, one that means the same."""
    source, derived = source_of(subject), subject.derived
    document = read_json(subject.folder / CONFIG_FILE)  # whatever it is: a broken one is compared, too
    if derived is not None:
        for difference in differences(document, derived.config.document):
            yield difference.finding(CONFIG_FILE, DERIVED)
        for difference in differences(_metadata(subject.folder), index(derived.plan)["metadata"], ("metadata",)):
            yield difference.finding(INDEX_FILE, DERIVED)
        return
    for difference in _of_another_tool(document, subject, source):
        yield difference.finding(CONFIG_FILE, "the source has")
    yield from _stops(subject, source)


def _metadata(folder: Path) -> Any:
    file = folder / INDEX_FILE
    return read_json(file).get("metadata") if file.exists() else None


def _of_another_tool(document: Any, subject: Subject, source: Source) -> Iterator[Difference]:
    """Keys that both have must be equal; of the others, what a network is built from."""
    told = set()
    for difference in differences(document, source.document):
        if not FREE & set(difference.path) and GONE not in (difference.found, difference.expected):
            told.add(difference.path[-1])
            yield difference
    for difference in differences(meaning(subject.config), meaning(source.config)):
        if not told & set(difference.path):
            yield difference


def meaning(config: ModelConfig) -> Mapping[str, Any]:
    """What a config says, however it spells it."""
    said = {f"{name}_config": value for name, value in asdict(config).items() if name in ("text", "vision", "audio")}
    return {**said, **asdict(config.media_tokens), "model_type": config.model_type}


def _stops(subject: Subject, source: Source) -> Iterator[Finding]:
    found, wanted = subject.prompt.stop_ids, PromptFormat.open(source.checkpoint.folder, source.config).stop_ids
    if found != wanted:
        yield Finding(f"answers stop at {sorted(found)}, those of the source at {sorted(wanted)}", "eos_token_id")
