"""What a schema's violation is, in words: what was found, and what is allowed.

The words come from the schema itself. Two annotations matter: `$comment` names the condition under which a subschema
holds ("with mode mxfp4"), and the `description` of a string with a `pattern` says what the pattern takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

__all__ = ["clearest", "explain", "json_path"]

LONGEST_VALUE = 60
MOST_KEYS = 4
LONGEST_KEY = 120
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{,60}")
# The order in which violations of one value are told; others come after these.
FIRST = ("type", "required", "anyOf", "additionalProperties")
# An alternative that breaks one of these at its root is not the one that was meant.
KINDS = frozenset({"type", "const", "enum"})

Schema = Mapping[str, Any]
# A jsonschema.ValidationError; to import that here would cost every start of the program a tenth of a second.
Violation = Any


def clearest(errors: Iterable[Violation]) -> Violation | None:
    """The violation to report: the outermost, then the first by path."""
    return min(errors, key=_rank, default=None)


def _rank(error: Violation) -> tuple[int, list[str], int, bool]:
    path = [str(step) for step in error.absolute_path]
    keyword = str(error.validator)
    order = FIRST.index(keyword) if keyword in FIRST else len(FIRST)
    # A comment names the condition under which less is allowed than elsewhere.
    return len(path), path, order, "$comment" not in error.schema


def json_path(steps: Iterable[str | int], start: str = "$") -> str:
    """A path such as `$.text_config.layer_types[3]`; keys that are no plain words stand in quotes."""
    return start + "".join(map(_step, steps))


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if PLAIN_KEY.fullmatch(step) else f"[{_json(step[:LONGEST_KEY])}]"


def explain(error: Violation, root: Schema) -> tuple[Sequence[str | int], str]:
    """Where a violation is and what it is; of a choice, the alternative that was meant."""
    path = list(error.absolute_path)
    match error.validator:
        case "required":
            return path, _missing(error, root)
        case "additionalProperties":
            return path, _unknown(error)
        case "anyOf" if all(set(choice) == {"required"} for choice in error.validator_value):
            keys = [choice["required"][0] for choice in error.validator_value]
            return path, f"found no key {_or(keys)}, allowed is one or more of them"
        case "anyOf" if meant := _meant(error):
            return explain(meant, root)
        case _:
            return path, f"found {_found(error.instance)}, allowed is {_allowed(error.schema, root)}"


def _missing(error: Violation, root: Schema) -> str:
    name = next(key for key in error.validator_value if key not in error.instance)
    wanted = _property(root, error.absolute_schema_path, name)
    return f"found no key {name!r}, allowed is {_allowed(wanted, root) or 'any value'}"


def _property(root: Schema, steps: Iterable[str | int], name: str) -> Schema:
    """The schema of the property `name`, from the innermost schema on the way that has one."""
    here: Any = root
    wanted: Schema = {}
    for step in steps:
        # References are not steps of their own in jsonschema's paths.
        here = _resolve(here, root)
        wanted = _own_property(here, name) or wanted
        here = here[step]
    return wanted


def _own_property(schema: Any, name: str) -> Schema | None:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    found: Schema | None = properties.get(name) if isinstance(properties, Mapping) else None
    return found


def _unknown(error: Violation) -> str:
    schema: Any = error.schema
    names = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    name = next(
        key for key in error.instance if key not in names and not any(re.search(pattern, key) for pattern in patterns)
    )
    allowed = [*names, *(f"a key like {pattern}" for pattern in patterns)]
    return f"found the key {_found(name)}, allowed is {_or(allowed)}"


def _meant(error: Violation) -> Violation | None:
    """The violation inside the one alternative that is of the kind that was found."""
    choices = groupby(error.context or (), key=lambda inner: inner.relative_schema_path[0])
    of_kind = [inner for inner in (list(group) for _, group in choices) if not any(map(_is_other_kind, inner))]
    return clearest(of_kind[0]) if len(of_kind) == 1 else None


def _is_other_kind(error: Violation) -> bool:
    return not error.relative_path and error.validator in KINDS


def _found(value: Any) -> str:
    if isinstance(value, dict) and value:
        return f"an object of {len(value)} key{'s'[: len(value) > 1]}"
    if isinstance(value, list) and (len(value) > LONGEST_VALUE // 4 or any(isinstance(v, dict | list) for v in value)):
        return f"a list of {len(value)}"
    text = _json(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _json(value: Any) -> str:
    # TOML has dates, and JSON can have lone surrogates, which cannot be printed.
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode()


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else "nothing"


def _resolve(schema: Any, root: Schema) -> Any:
    """Follow a reference to `#/$defs/NAME`, the only kind that our schemas use."""
    while isinstance(schema, Mapping) and "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def _allowed(schema: Any, root: Schema) -> str:
    """What a schema takes, in words."""
    schema = _resolve(schema, root)
    return " ".join(filter(None, [_values(schema, root), schema.get("$comment", "")]))


def _values(schema: Schema, root: Schema) -> str:
    if "not" in schema:
        return "nothing"
    if "const" in schema:
        return _json(schema["const"])
    if "enum" in schema:
        return _or([_json(value) for value in schema["enum"]])
    if "anyOf" in schema and "type" not in schema:
        return _or([_allowed(choice, root) for choice in schema["anyOf"]])
    types = schema.get("type", [])
    return _or([_kind(kind, schema, root) for kind in ([types] if isinstance(types, str) else types)]) if types else ""


def _kind(kind: str, schema: Schema, root: Schema) -> str:
    match kind:
        case "integer" | "number":
            return " ".join(["an integer" if kind == "integer" else "a number", *_range(schema)])
        case "string":
            return schema["description"] if "pattern" in schema else " ".join(["a string", *_length(schema)])
        case "array":
            items = f", each {_allowed(schema['items'], root)}" if "items" in schema else ""
            return " ".join(["a list", *_size(schema)]) + items
        case "object":
            return " ".join(["an object", *_keys(schema)])
        case "boolean":
            return "true or false"
        case _:
            return kind


def _range(schema: Schema) -> Iterator[str]:
    if "exclusiveMinimum" in schema:
        yield f"above {schema['exclusiveMinimum']}"
    if "minimum" in schema:
        yield f"from {schema['minimum']}"
    if "maximum" in schema:
        yield f"{'and up to' if 'exclusiveMinimum' in schema else 'to'} {schema['maximum']}"
    if "multipleOf" in schema:
        yield f"in steps of {schema['multipleOf']}"


def _size(schema: Schema) -> Iterator[str]:
    low, high = schema.get("minItems", 0), schema.get("maxItems")
    if low == high:
        yield f"of {low}"
    elif high is not None:
        yield f"of {low} to {high}"
    elif low:
        yield f"of at least {low}"
    if schema.get("uniqueItems"):
        yield "without repeats"


def _length(schema: Schema) -> Iterator[str]:
    if "minLength" in schema:
        yield f"of at least {schema['minLength']} character"
    if "maxLength" in schema:
        yield f"of at most {schema['maxLength']} characters"


def _keys(schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    if 0 < len(required) <= MOST_KEYS:
        yield f"with {' and '.join(required)}"
    elif schema.get("minProperties"):
        yield f"with at least {schema['minProperties']} key"
    if "maxProperties" in schema:
        yield f"of at most {schema['maxProperties']} keys"
