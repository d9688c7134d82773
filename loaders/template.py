"""A chat template: a program from a checkpoint, run in a sandbox, with the helpers that the published ones call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..schemas.errors import ConfigError

if TYPE_CHECKING:
    from jinja2.parser import Parser

TEMPLATE_FILE = "chat_template.jinja"


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The text that a template makes of its variables.

    Raises:
        ConfigError: the template fails.
    """
    try:
        return _environment().from_string(template).render(variables)
    except Exception as error:  # the template is a program: any error may come out of it
        raise ConfigError(f"the chat template fails: {error}", where=TEMPLATE_FILE) from None


def _environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, with transformers' settings and helpers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}` marks the model's turns for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Jinja's own `tojson` escapes for HTML, which a tokenizer would see."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
