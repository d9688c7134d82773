"""A checkpoint's `tokenizer.json`, checked before the library reads it, which crashes on some that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..schemas import parse_file, validate
from ..schemas.errors import ConfigError
from ..schemas.files import read_whole
from .consistency import check_token_ids

TOKENIZER_FILE = "tokenizer.json"

# Gemma 4's has 32 MB and two million values. The library takes a hundred times the bytes of a value.
LARGEST_TOKENIZER = 64_000_000
MOST_VALUES = 3_000_000

Json = Mapping[str, Any]


def open_tokenizer(file: Path, config: Json | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint; it neither truncates nor pads, whatever the file says.

    Args:
        file: `tokenizer.json`.
        config: the parsed `config.json`, whose token ids must be the tokenizer's; None leaves that open.

    Raises:
        ConfigError: the file is missing, cannot be read, or is not one of Gemma 4's kind; see `check_token_ids`.
    """
    data = _read(file)
    document = _parse(data, file)
    if config is not None:
        check_token_ids(config, document)
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"not a tokenizer: {error}", where=file.name) from None
    _check_added(tokenizer, document, file.name)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_tokenizer(file: Path) -> Json:
    """The parsed file.

    Raises:
        ConfigError: as `open_tokenizer`.
    """
    return _parse(_read(file), file)


def _read(file: Path) -> bytes:
    data = read_whole(file, LARGEST_TOKENIZER)
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ConfigError(f"it holds more than {MOST_VALUES:,} values", where=file.name)
    return data


def _parse(data: bytes, file: Path) -> Json:
    document: Json = parse_file(data, where=file.name)
    validate(document, "tokenizer", where=file.name)
    _check_merges(document["model"], file.name)
    return document


def _check_merges(model: Json, where: str) -> None:
    """Every merge makes a token: others may be longer than a buffer that the library has for them."""
    tokens = model["vocab"]
    for merge in model["merges"]:
        try:
            made = merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)
        except TypeError:
            made = None
        if made not in tokens:
            raise ConfigError(f"the merge {merge!r} makes no token of the vocabulary", where=where)


def _check_added(tokenizer: Tokenizer, document: Json, where: str) -> None:
    """The library gives an added token another id where its own is taken; other runtimes do not."""
    for entry in document.get("added_tokens") or ():
        if tokenizer.token_to_id(entry["content"]) != entry["id"]:
            raise ConfigError(f"the id {entry['id']} of {entry['content']!r} is another token's", where=where)
