"""A chat template: a program from a checkpoint, run in a sandbox, in a process of its own, within limits."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..schemas.errors import ConfigError
from ..schemas.files import read_whole
from .renderer import Fault, Renderer

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Bytes of a template; the longest that is published for Gemma 4 has 17,466.
LARGEST_TEMPLATE = 1_000_000

PLAIN_TURN = ({"role": "user", "content": "What is the capital of France?"},)
# A template may refuse a plain turn, or want what is not given here; what has one of the other faults never works.
MAY_WORK = frozenset({"raised", "failed"})
OTHER_TEMPLATE = "take the template of the base model"

_renderer = Renderer()
atexit.register(_renderer.close)
os.register_at_fork(after_in_child=_renderer.disown)


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The text that a template makes of its variables.

    Args:
        template: its source.
        variables: what JSON can hold.

    Raises:
        ConfigError: the template fails, or takes too much time or memory, or makes too much text.
        UsageError: the variables hold something else.
    """
    made = _renderer.render(template, variables)
    if isinstance(made, Fault):
        raise _failure(made, TEMPLATE_FILE)
    return made


def check_template(file: Path | None, tokenizer_config: Mapping[str, Any]) -> None:
    """Refuse a template that no conversation gets through, before anything is made of its checkpoint.

    Args:
        file: `chat_template.jinja`; None where there is none.
        tokenizer_config: `tokenizer_config.json`, which may hold it instead.

    Raises:
        ConfigError: it cannot be read or parsed, or on one turn of plain text it reaches out of its sandbox or breaks a
            limit.
    """
    template = find_template(file, tokenizer_config)
    if template is None:
        return
    variables = {**special_tokens(tokenizer_config), "messages": PLAIN_TURN, "add_generation_prompt": True}
    made = _renderer.render(template, variables)
    if isinstance(made, Fault) and made.kind not in MAY_WORK:
        raise _failure(made, TOKENIZER_CONFIG if file is None else file.name)


def find_template(file: Path | None, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The file decides; older checkpoints keep the template, or several by name, in the tokenizer's config.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    if file is not None:
        return _read(file)
    saved = tokenizer_config.get("chat_template")
    if isinstance(saved, list):
        named = {entry.get("name"): entry.get("template") for entry in saved if isinstance(entry, dict)}
        saved = named.get("default")
    if not isinstance(saved, str | None):
        raise ConfigError("chat_template is neither text nor a list of templates", where=TOKENIZER_CONFIG)
    return saved


def special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like; some savers write each as an object with `content`."""
    tokens = {name: value for name, value in tokenizer_config.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read(file: Path) -> str:
    try:
        return read_whole(file, LARGEST_TEMPLATE).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=file.name) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8: {error.reason} at byte {error.start}", where=file.name) from None


def _failure(fault: Fault, where: str) -> ConfigError:
    fix = None if fault.kind in MAY_WORK else OTHER_TEMPLATE
    return ConfigError(f"the chat template fails: {fault.what}", where=where, fix=fix)
