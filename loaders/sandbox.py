"""The process in which chat templates run, apart from ours: a template is a program, and a process can be killed.

Run by its path as `python -I -S sandbox.py LIMITS FOLDER...`: the limits as JSON, and the folders that hold jinja2 and
what it needs. It says that it is ready with an empty object on a line. Then every line of its standard input is a
request, `{"template": TEXT, "variables": {...}, "seconds": N}`, and has one line for an answer: `{"text": TEXT}`, or
`{"fault": KIND, "what": TEXT}`; see `renderer.Fault`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.path.extend(sys.argv[2:])

import json
import resource
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from jinja2.parser import Parser

# What jinja2 and markupsafe import when a template first needs it.
LATE_IMPORTS = ("encodings.unicode_escape", "html", "jinja2.constants", "jinja2.debug", "pprint", "textwrap")
LONGEST_REASON = 10_000


class RaisedError(TemplateError):
    """What a template refuses itself, through `raise_exception`."""


class LengthError(Exception):
    """A template that makes too much text."""


KINDS: tuple[tuple[type[Exception], str], ...] = (
    (RaisedError, "raised"),
    (TemplateSyntaxError, "syntax"),
    (SyntaxError, "syntax"),
    (SecurityError, "sandbox"),
    (MemoryError, "memory"),
    (LengthError, "length"),
    (OverflowError, "size"),
    (RecursionError, "size"),
)


def main() -> None:
    """Answer requests until there are no more."""
    limits = json.loads(sys.argv[1])
    confine(limits["memory"])
    serve(sys.stdin.buffer, sys.stdout.buffer, limits["characters"])


def confine(memory: int) -> None:
    """Give up, for good, what a template does not need: memory, and files and sockets, should the sandbox have a hole.

    Args:
        memory: bytes of data; macOS honours no such limit, so the parent watches, too.
    """
    for module in LATE_IMPORTS:
        import_module(module)
    _strftime_now("")  # reads the time zone's file
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_NOFILE, 0)
    _bound(resource.RLIMIT_DATA, memory)
    _bound(resource.RLIMIT_AS, 2 * memory)  # counts the files that are mapped, too


def _bound(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):  # not every platform takes every limit
        resource.setrlimit(kind, (most, most))


def serve(requests: BinaryIO, answers: BinaryIO, characters: int) -> None:
    """Answer every line.

    Args:
        requests: see the module.
        answers: likewise.
        characters: of the longest text.
    """
    answers.write(b"{}\n")
    answers.flush()
    for line in requests:
        answers.write(answer(line, characters) + b"\n")
        answers.flush()


def answer(line: bytes, characters: int) -> bytes:
    """The answer to one request."""
    try:
        request = json.loads(line.decode("utf-8", "surrogatepass"))
        _bound_cpu(request["seconds"])
        return _encode({"text": _text(request["template"], request["variables"], characters)})
    except Exception as error:  # the template is a program: any error may come out of it
        fault = {"fault": _kind(error), "what": str(error)[:LONGEST_REASON]}
    # Out here, what the template held is free again.
    return _encode(fault)


def _bound_cpu(seconds: float) -> None:
    """The parent counts the seconds, and kills; this stops a template whose parent died."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (until if hard == resource.RLIM_INFINITY else min(until, hard), hard))


def _encode(document: Mapping[str, str]) -> bytes:
    # Halves of characters pass as they are; escaped, two of them would come back as one character.
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _kind(error: Exception) -> str:
    return next((kind for cause, kind in KINDS if isinstance(error, cause)), "failed")


def _text(template: str, variables: Mapping[str, Any], characters: int) -> str:
    return "".join(_up_to(characters, _compile(template).generate(variables)))


def _up_to(characters: int, pieces: Iterator[str]) -> Iterator[str]:
    for piece in pieces:
        characters -= len(piece)
        if characters < 0:
            raise LengthError
        yield piece


@lru_cache(maxsize=1)
def _compile(template: str) -> Template:
    return _environment().from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, with transformers' settings and helpers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


class GenerationBlock(Extension):
    """`{% generation %}` marks the model's turns for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The block's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes for HTML, which a tokenizer would see."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise RaisedError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


if __name__ == "__main__":
    main()
