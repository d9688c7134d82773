"""Headers of safetensors files that are not what the format allows, or say more than a file can hold."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from g4convert.schemas.errors import HeaderError, MissingTensorError, ShardError, UnknownTensorError
from g4convert.tests.support import WEIGHTS

from .breaks import UP, Break, Breaks, Damage, Header, Refusal, end, first, header, in_order, named, raw_header, weights

# Safetensors' own bound.
HUNDRED_MB = 100_000_000

NO_PARAMETER = Refusal(UnknownTensorError, "the model has no such parameter")


def entry(**changes: Any) -> Damage:
    """Change the entry of the first tensor."""
    return header(lambda content: first(content).update(changes))


def without(key: str) -> Damage:
    return header(lambda content: first(content).pop(key))


def replaced(value: Any) -> Damage:
    """Put something else where the entry of a tensor belongs."""
    return header(lambda content: content.update({named(content, UP): value}))


def spelled(number: str) -> Damage:
    """Write a number of a shape as JSON may spell it, or not."""
    return both_ways(lambda content: first(content).update(shape=["NUMBER"]), b'"NUMBER"', number.encode())


def renamed(spelling: str) -> Damage:
    """Write a tensor's name in raw JSON."""
    return both_ways(
        lambda content: content.update(NAME=content.pop(named(content, UP))), b'"NAME"', f'"{spelling}"'.encode()
    )


def both_ways(edit: Callable[[Header], object], mark: bytes, text: bytes) -> Damage:
    def apply(raw: bytes) -> bytes:
        content = json.loads(raw)
        edit(content)
        return json.dumps(content).encode().replace(mark, text)

    return raw_header(apply)


def shift(by: int) -> Damage:
    """Move every tensor but the first."""

    def edit(content: Header) -> None:
        for moved in in_order(content)[1:]:
            moved["data_offsets"] = [offset + by for offset in moved["data_offsets"]]

    return header(edit)


def stray(name: str, **changes: Any) -> Damage:
    """Add a tensor without bytes."""

    def edit(content: Header) -> None:
        content[name] = {"dtype": "F32", "shape": [0], "data_offsets": [end(content)] * 2, **changes}

    return header(edit)


def twins(content: Header) -> None:
    """Two tensors at one place."""
    one, other = in_order(content)[:2]
    other["data_offsets"] = one["data_offsets"]


def swapped(content: Header) -> None:
    one = first(content)
    one["data_offsets"] = one["data_offsets"][::-1]


def said_length(length: int) -> Damage:
    return weights(lambda data: struct.pack("<Q", length) + data[8:])


def brackets(folder: Path) -> None:
    """As long a header as the format allows, of nothing but brackets."""
    with (folder / WEIGHTS).open("wb") as stream:
        stream.write(struct.pack("<Q", HUNDRED_MB))
        for _ in range(HUNDRED_MB // 1_000_000):
            stream.write(b"[" * 1_000_000)


def crowd(count: int) -> Damage:
    """A sound header of many tensors."""

    def apply(_: bytes) -> bytes:
        entries = (f'"t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(count))
        text = f"{{{','.join(entries)}}}".encode()
        return struct.pack("<Q", len(text)) + text + bytes(count)

    return weights(apply)


def nested(count: int) -> Damage:
    return raw_header(lambda _: b'{"a":' * count + b"1" + b"}" * count)


BREAKS: Breaks = {
    "empty file": Break(weights(lambda _: b""), ShardError, "truncated within its header"),
    "seven bytes": Break(weights(lambda data: data[:7]), ShardError, "truncated within its header"),
    "nothing but a length": Break(weights(lambda data: data[:8]), HeaderError, "the header is said to be"),
    "truncated header": Break(weights(lambda data: data[:200]), HeaderError, "header"),
    "truncated data": Break(weights(lambda data: data[:-100]), ShardError, "the file is truncated"),
    "data are missing": Break(weights(lambda data: data[:8 + int.from_bytes(data[:8], "little")]), ShardError, "the file is truncated"),
    "trailing bytes": Break(weights(lambda data: data + b"PK"), HeaderError, "2 bytes follow the last tensor"),
    "length of a terabyte": Break(said_length(1 << 40), HeaderError, "the header is said to be"),
    "largest length": Break(said_length((1 << 64) - 1), HeaderError, "the header is said to be"),
    "length zero": Break(said_length(0), HeaderError, "not valid JSON"),
    "length one": Break(said_length(1), HeaderError, "not valid JSON"),
    "100 MB of brackets": Break(brackets, HeaderError, "the header has 100,000,000 bytes, 5,000,000 at most"),
    "a million tensors": Break(crowd(1_000_000), HeaderError, "5,000,000 at most"),
    "30,000 tensors": Break(crowd(30_000), UnknownTensorError, "the tensor t", Refusal(MissingTensorError, "lacks this tensor")),
    "nested 300,000 deep": Break(nested(300_000), HeaderError, "not valid JSON"),
    "nested 900 deep": Break(nested(900), HeaderError, "lacks dtype, shape or data_offsets|not valid JSON"),
    "no JSON": Break(weights(lambda data: data[:8] + b"x" + data[9:]), HeaderError, "not valid JSON"),
    "no UTF-8": Break(weights(lambda data: data[:8] + b"\xff" + data[9:]), HeaderError, "not valid JSON"),
    "UTF-16": Break(raw_header(lambda raw: raw.decode().encode("utf-16")), HeaderError, "not valid JSON"),
    "byte order mark": Break(raw_header(lambda raw: b"\xef\xbb\xbf" + raw), HeaderError, "not valid JSON"),
    "two documents": Break(raw_header(lambda raw: raw + raw), HeaderError, "not valid JSON"),
    "a list": Break(raw_header(lambda _: b"[]"), HeaderError, "not a JSON object"),
    "a string": Break(raw_header(lambda _: b'"model"'), HeaderError, "not a JSON object"),
    "null": Break(raw_header(lambda _: b"null"), HeaderError, "not a JSON object"),
    "no tensors, but data": Break(raw_header(lambda _: b"{}"), HeaderError, "bytes follow the last tensor"),
    "metadata is a list": Break(header(lambda h: h.update(__metadata__=[])), HeaderError, "__metadata__ is not a map of strings"),
    "metadata of numbers": Break(header(lambda h: h.update(__metadata__={"a": 1})), HeaderError, "__metadata__ is not a map of strings"),
    "metadata twice": Break(raw_header(lambda raw: b'{"__metadata__":{},"__metadata__":{},' + raw[1:]), HeaderError, "stands twice"),
    "a tensor twice": Break(raw_header(lambda raw: raw.rstrip()[:-1] + b"," + raw.strip()[1:]), HeaderError, "stands twice"),
    "a key twice": Break(raw_header(lambda raw: raw.replace(b'"dtype"', b'"dtype":"F32","dtype"', 1)), HeaderError, "stands twice"),
    "negative shape": Break(entry(shape=[-1, 2]), HeaderError, "not a natural number"),
    "two negative dimensions": Break(entry(shape=[-1, -2]), HeaderError, "not a natural number"),
    "overflowing shape": Break(entry(shape=[1 << 62, 1 << 62]), HeaderError, "which no file holds|its offsets span"),
    "shape that wraps to zero": Break(entry(shape=[1 << 32, 1 << 32]), HeaderError, "which no file holds|its offsets span"),
    "shape beyond 64 bits": Break(entry(shape=[1 << 64]), HeaderError, "not a natural number"),
    "shape of 5000 digits": Break(entry(shape=[1 << 62] * 300), HeaderError, "has 300 dimensions, at most 8"),
    "largest shape of eight": Break(entry(shape=[(1 << 63) - 1] * 8), HeaderError, "which no file holds|its offsets span"),
    "a number of 5000 digits": Break(spelled("9" * 5000), HeaderError, "not valid JSON"),
    "a million dimensions": Break(entry(shape=[1] * 1_000_000), HeaderError, "has 1,000,000 dimensions, at most 8"),
    "fractional shape": Break(entry(shape=[1.5]), HeaderError, "not a natural number"),
    "whole number as a float": Break(entry(shape=[2.0]), HeaderError, "not a natural number"),
    "boolean shape": Break(entry(shape=[True]), HeaderError, "not a natural number"),
    "shape in a string": Break(entry(shape=["2"]), HeaderError, "not a natural number"),
    "shape with null": Break(entry(shape=[None]), HeaderError, "not a natural number"),
    "nested shape": Break(entry(shape=[[2]]), HeaderError, "not a natural number"),
    "shape is no list": Break(entry(shape=2), HeaderError, "lacks dtype, shape or data_offsets"),
    "shape is NaN": Break(spelled("NaN"), HeaderError, "not valid JSON"),
    "shape is Infinity": Break(spelled("Infinity"), HeaderError, "not valid JSON"),
    "shape is 1e400": Break(spelled("1e400"), HeaderError, "not valid JSON"),
    "shape is hexadecimal": Break(spelled("0x10"), HeaderError, "not valid JSON"),
    "shape contradicts the offsets": Break(entry(shape=[3]), HeaderError, "its offsets span"),
    "shape of nothing": Break(entry(shape=[0]), HeaderError, "its offsets span"),
    "negative offsets": Break(entry(data_offsets=[-4, 0]), HeaderError, "not a natural number"),
    "reversed offsets": Break(header(swapped), HeaderError, "its offsets span"),
    "boolean offsets": Break(entry(data_offsets=[False, True]), HeaderError, "not a natural number"),
    "fractional offsets": Break(entry(data_offsets=[0.0, 2.0]), HeaderError, "not a natural number"),
    "three offsets": Break(entry(data_offsets=[0, 1, 2]), HeaderError, "lacks dtype, shape or data_offsets"),
    "offsets are an object": Break(entry(data_offsets={"0": 0, "1": 2}), HeaderError, "lacks dtype, shape or data_offsets"),
    "offsets beyond 64 bits": Break(entry(data_offsets=[1 << 70, (1 << 70) + 2]), HeaderError, "not a natural number"),
    "offsets beyond the file": Break(header(lambda h: first(h).update(data_offsets=[end(h), end(h) + 2], shape=[1])), HeaderError, "leaves a hole"),
    "overlap": Break(shift(-2), HeaderError, "overlaps"),
    "two tensors at one place": Break(header(twins), HeaderError, "its offsets span|overlaps"),
    "hole": Break(shift(2), HeaderError, "leaves a hole"),
    "hole before the first tensor": Break(header(lambda h: h.pop(next(name for name, entry in h.items() if entry is first(h)))), HeaderError, "leaves a hole after the header"),
    "unknown dtype": Break(entry(dtype="F7"), HeaderError, "unknown dtype F7"),
    "dtype in lower case": Break(entry(dtype="bf16"), HeaderError, "unknown dtype bf16"),
    "dtype of a megabyte": Break(entry(dtype="F" * 1_000_000), HeaderError, "unknown dtype FFF"),
    "dtype is null": Break(entry(dtype=None), HeaderError, "lacks dtype, shape or data_offsets"),
    "dtype is a number": Break(entry(dtype=16), HeaderError, "lacks dtype, shape or data_offsets"),
    "entry without a dtype": Break(without("dtype"), HeaderError, "lacks dtype, shape or data_offsets"),
    "entry without a shape": Break(without("shape"), HeaderError, "lacks dtype, shape or data_offsets"),
    "entry without offsets": Break(without("data_offsets"), HeaderError, "lacks dtype, shape or data_offsets"),
    "entry with a key too many": Break(entry(strides=[1]), HeaderError, "lacks dtype, shape or data_offsets"),
    "entry is null": Break(replaced(None), HeaderError, "lacks dtype, shape or data_offsets"),
    "entry is a list": Break(replaced([]), HeaderError, "lacks dtype, shape or data_offsets"),
    "name that climbs": Break(stray("../../../etc/passwd"), UnknownTensorError, "../../../etc/passwd is not", NO_PARAMETER),
    "absolute name": Break(stray("/etc/passwd"), UnknownTensorError, "/etc/passwd is not", NO_PARAMETER),
    "empty name": Break(stray(""), UnknownTensorError, "is not part of", NO_PARAMETER),
    "name with NUL": Break(stray("a\0b"), UnknownTensorError, "a\ufffdb is not", NO_PARAMETER),
    "name with newlines": Break(stray("a\n\r\vb\u2028c"), UnknownTensorError, "is not part of", NO_PARAMETER),
    "name that clears the screen": Break(stray("\x1b[2J\x1b]0;owned\x07"), UnknownTensorError, "[2J", NO_PARAMETER),
    "name that runs backwards": Break(stray("\u202egnp.\u2066"), UnknownTensorError, "is not part of", NO_PARAMETER),
    "name of a megabyte": Break(stray("x" * 1_000_000), UnknownTensorError, "is not part of", NO_PARAMETER),
    "name of nothing but prefixes": Break(stray("module." * 200_000), UnknownTensorError, "is not part of", NO_PARAMETER),
    "name of many parts": Break(stray("layers.1." * 100_000), UnknownTensorError, "is not part of", NO_PARAMETER),
    "name with half a character": Break(renamed("\\ud800"), HeaderError, "not valid JSON"),
    "name of a method": Break(stray("__class__"), UnknownTensorError, "__class__ is not", NO_PARAMETER),
    "name with a format": Break(stray("{0.__class__}%s%n"), UnknownTensorError, "{0.__class__}%s%n is not", NO_PARAMETER),
    "layer number of 5000 digits": Break(stray(f"language_model.model.layers.{'9' * 5000}.layer_scalar"), UnknownTensorError, "is not part of", NO_PARAMETER),
}  # fmt: skip
