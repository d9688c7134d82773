"""JSON Schemas of every file that g4convert reads or writes, and the one function that validates against them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .explain import clearest, explain, json_path
from .files import read_whole

__all__ = ["load_schema", "parse_file", "parse_json", "read_json", "validate", "violation"]

# Bytes of a JSON file; the manifest of the largest Gemma 4 has about one million.
LARGEST_DOCUMENT = 10_000_000

# The keywords that look into a list or an object, and the one that bounds how much there may be.
BOUNDS = {"items": "maxItems", "patternProperties": "maxProperties", "additionalProperties": "maxProperties"}
Keyword = Callable[[Any, Any, Any, Mapping[str, Any]], Iterable[Any] | None]

# How JSON escapes half of a character beyond the basic plane.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The JSON Schema `name`.schema.json of this folder."""
    text = resources.files(__name__).joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def read_json(path: Path, *, largest: int | None = LARGEST_DOCUMENT) -> Any:
    """Parse a JSON file.

    Args:
        path: the file.
        largest: how many bytes it may have; None for any number.

    Raises:
        ConfigError: the file is missing, too large, not UTF-8, or not JSON; a key stands twice in one object.
    """
    return parse_file(read_whole(path, largest), where=path.name)


def parse_file(data: bytes, *, where: str) -> Any:
    """Parse the bytes of a JSON file.

    Raises:
        ConfigError: it is not UTF-8, or not JSON; a key stands twice in one object.
    """
    try:
        return parse_json(data.decode("utf-8"))
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot be read: {error}", where=where) from None
    except ValueError as error:
        raise ConfigError(f"not valid JSON: {error}", where=where) from None


def parse_json(text: str) -> Any:
    """Parse JSON as the standard has it: finite numbers, whole characters, and no key twice in one object.

    Raises:
        ValueError: the text is something else.
        RecursionError: it is nested too deep.
    """
    document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    if SURROGATE.search(text):
        json.dumps(document, ensure_ascii=False).encode()  # fails on half a character
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key!r} stands twice")
        document[key] = value
    return document


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def validate(document: Any, schema: str, *, where: str, at: str = "$") -> None:
    """Check `document` against a schema of this folder.

    Args:
        document: parsed JSON or TOML.
        schema: a schema's name, without `.schema.json`.
        where: the file that the document came from, for the message.
        at: the JSON path of `document` in that file, for the message.

    Raises:
        ConfigError: names the file, the JSON path, what was found, and what is allowed.
    """
    if (found := violation(document, schema)) is not None:
        path, what = found
        raise ConfigError(f"{json_path(path, at)}: {what}", where=where)


def violation(document: Any, schema: str) -> tuple[Sequence[str | int], str] | None:
    """Where `document` breaks a schema of this folder, and how: what was found, and what is allowed.

    Args:
        document: parsed JSON or TOML.
        schema: a schema's name, without `.schema.json`.

    Returns:
        The keys and numbers that lead to the place, and the words; None where nothing is wrong.
    """
    try:
        error = clearest(_validator(schema).iter_errors(document))
    except RecursionError:
        return (), "it is nested too deep"
    return None if error is None else explain(error, load_schema(schema))


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator, validators  # slow to import, and `--help` must be fast
    from referencing import Registry

    # jsonschema takes 16.0 for an integer; `range(16.0)` does not.
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    keywords = {name: _within(bound, Draft202012Validator.VALIDATORS[name]) for name, bound in BOUNDS.items()}
    strict: Any = validators.extend  # untyped in its stubs
    # An empty registry fetches nothing, whatever a reference says.
    return strict(Draft202012Validator, keywords, type_checker=types)(load_schema(schema), registry=Registry())


def _within(bound: str, check: Keyword) -> Keyword:
    """What is longer than `bound` allows is told once, and not looked into: a million items are a million messages."""

    def guarded(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        if not isinstance(instance, list | dict) or len(instance) <= schema.get(bound, len(instance)):
            yield from check(validator, value, instance, schema) or ()

    return guarded
