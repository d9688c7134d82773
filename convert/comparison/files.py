"""The files beside config and weights: which are there, and what is different in those that nothing else looks into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...loaders.consistency import GENERATION_CONFIG
from ...loaders.template import TEMPLATE_FILE
from ...schemas import read_json
from ...schemas.errors import ConfigError
from ..verification.listing import GONE, differences
from ..verification.reading import same_files
from ..wording import count
from .config import SAME_STOPS, is_stop, same_stops
from .documents import document_differences
from .meanings import ROWS, WHOLE_FILES, row_of
from .outcome import Difference
from .side import Side, is_downloaded

# What is looked into key by key, and the template, which may be kept elsewhere.
KNOWN = {*ROWS, TEMPLATE_FILE}


def file_names(a: Side, b: Side) -> tuple[list[str], list[str]]:
    """The files that are compared: those that both have, and those that only one has."""
    names = a.files.keys() | b.files.keys()
    if not (a.is_whole and b.is_whole):
        names = {name for name in names if is_downloaded(name)}
    both = a.files.keys() & b.files.keys()
    return sorted(names & both), sorted(names - both)


def file_differences(a: Side, b: Side) -> Iterator[Difference]:
    """Files that one side lacks, and those with other bytes; JSON is compared as JSON."""
    both, one_has = file_names(a, b)
    for name in one_has:
        if name != TEMPLATE_FILE:
            yield _difference(name, *(side.files.get(name) for side in (a, b)))
    for name in both:
        if name not in KNOWN and not _is_same(a.files[name], b.files[name]):
            yield _difference(name, a.files[name], b.files[name])


def generation_differences(a: Side, b: Side) -> Iterator[Difference]:
    """Compare `generation_config.json`, where both sides have one."""
    if GENERATION_CONFIG in a.files and GENERATION_CONFIG in b.files:
        stops = SAME_STOPS if same_stops(a, b) else None
        yield from document_differences(
            GENERATION_CONFIG, a.generation, b.generation, lambda path: stops if is_stop(path) else None
        )


def _is_same(one: Path, other: Path) -> bool:
    if same_files(one, other):
        return True
    try:
        return one.suffix == ".json" and not any(differences(read_json(one), read_json(other)))
    except (ConfigError, RecursionError):  # not JSON, whatever its name, or nested too deep
        return False


def _difference(name: str, one: Path | None, other: Path | None) -> Difference:
    row = row_of(WHOLE_FILES, name)
    a, b = (GONE if path is None else count(path.stat().st_size, "byte") for path in (one, other))
    return Difference(name, "", a, b, row.meaning, row.severity)
