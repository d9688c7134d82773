"""JSON Schemas of every file that g4convert reads or writes, and the one function that validates against them."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .explain import clearest, explain, json_path

__all__ = ["load_schema", "parse_json", "read_json", "validate"]


# How JSON escapes half of a character beyond the basic plane.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The JSON Schema `name`.schema.json of this folder."""
    text = files(__name__).joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ConfigError: the file is missing, is not UTF-8, or is not JSON; a key stands twice in one object.
    """
    if path.exists() and not path.is_file():
        raise ConfigError("not a regular file", where=path.name)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("the file is missing", where=path.name) from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path.name) from None
    except ValueError as error:
        raise ConfigError(f"not valid JSON: {error}", where=path.name) from None


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
    error = clearest(_validator(schema).iter_errors(document))
    if error is not None:
        path, what = explain(error, load_schema(schema))
        raise ConfigError(f"{json_path(path, at)}: {what}", where=where)


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator, validators  # slow to import, and `--help` must be fast
    from referencing import Registry

    # jsonschema takes 16.0 for an integer; `range(16.0)` does not.
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict: Any = validators.extend  # untyped in its stubs
    # An empty registry fetches nothing, whatever a reference says.
    return strict(Draft202012Validator, type_checker=types)(load_schema(schema), registry=Registry())
