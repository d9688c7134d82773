"""Of every key that is published, it is known what it decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert.comparison.config import BLOCKS, TOP
from g4convert.convert.comparison.documents import keys
from g4convert.convert.comparison.meanings import ROWS, UNKNOWN, WHOLE_FILES, Row, row_of
from g4convert.loaders.config import TEXT_TYPES
from g4convert.tests.support import CHECKPOINTS, KINDS, TESTS, read_json

DOCUMENTS = TESTS / "schemas" / "documents"
FOLDERS = {
    "config.json": "config",
    "processor_config.json": "processor_config",
    "tokenizer_config.json": "tokenizer_config",
    "generation_config.json": "generation_config",
}
# What `tokenizer.json` holds that is compared by its entries, and the template that is compared by what it makes.
APART = {"model.vocab", "model.merges", "added_tokens", "chat_template"}


def published(file: str) -> Iterator[Any]:
    """Every document of this kind that the tests have."""
    for kind in KINDS:
        if (path := CHECKPOINTS / kind / file).exists():
            yield read_json(path)
    for path in sorted((DOCUMENTS / FOLDERS[file]).glob("*.json")) if file in FOLDERS else ():
        yield read_json(path)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every path of a document, those of objects included."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield (*path, key)
            yield from paths(inner, (*path, key))


def looked_up(file: str, document: Any) -> set[str]:
    """The keys of a document as they are looked up."""
    if file == "config.json" and document["model_type"] in TEXT_TYPES:
        document = {"text_config": {key: value for key, value in document.items() if key not in TOP}}
    found = {path for path in paths(document) if not any(path[: len(block)] == block for block in BLOCKS)}
    return {keys(path) for path in found} - APART - {"model"}


@pytest.mark.parametrize("file", ROWS)
def test_every_published_key_is_known(file: str) -> None:
    documents = list(published(file))
    assert documents

    unknown = {
        key
        for document in documents
        for key in looked_up(file, document)
        if row_of(ROWS[file], key) is UNKNOWN and not key.startswith(tuple(APART))
    }

    assert unknown == set()


@pytest.mark.parametrize("file", [*ROWS, "whole files"])
def test_every_row_can_be_the_first_that_matches(file: str) -> None:
    rows = ROWS.get(file, WHOLE_FILES)

    assert [row.pattern for row in rows if row_of(rows, example(row)) is not row] == []


def example(row: Row) -> str:
    """A key that a pattern matches."""
    key = row.pattern.replace("*", "x").replace("?", "i")
    assert fnmatchcase(key, row.pattern)
    return key


def test_meanings_are_clauses() -> None:
    rows = [row for table in (*ROWS.values(), WHOLE_FILES) for row in table]
    texts = [text for row in rows for text in (row.meaning, row.lost) if text is not None]

    assert [text for text in texts if text.endswith(".") or "\n" in text or len(text) > 100] == []


def test_the_package_of_documents_is_there() -> None:
    assert {path.name for path in Path(DOCUMENTS).iterdir()} >= set(FOLDERS.values())
