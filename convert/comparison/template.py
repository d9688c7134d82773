"""The chat template in effect, wherever it is kept: another text, and do conversations come out otherwise?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ...loaders.messages import Message
from ...loaders.template import TEMPLATE_FILE, TOKENIZER_CONFIG, find_template, render, special_tokens
from ...schemas.errors import ConfigError
from ..verification.conversation import turns
from ..verification.listing import GONE
from .documents import SIDES
from .outcome import TEMPLATE, Difference, Severity
from .side import Side

KINDS = ("image", "audio", "video")
OTHERWISE = "conversations come out otherwise"
ALIKE = "another text, and every conversation that was tried comes out the same"
ELSEWHERE = "the same text, kept in another place; a program that looks in one place only may not find it"
STALE = "a copy is another text, and not in effect; a program that looks there first goes by it"
ONLY = "only {} has one, and takes conversations"

_QUESTION: Message = {"role": "user", "content": "What is the weather in Oslo?"}
_CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name."}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
_CALLED: Message = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_ANSWERED: Message = {"role": "tool", "name": "weather", "content": "Rain."}
_LOOKED = "I looked."
_THOUGHT: Message = {"role": "assistant", "content": "Rain.", "reasoning": _LOOKED, "reasoning_content": _LOOKED}
_SPACES: Message = {"role": "user", "content": [{"type": "text", "text": text} for text in ("  ", "And\n then? ")]}
_RULES: Message = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}

# Variables by the name of the conversation.
CONVERSATIONS: Mapping[str, Mapping[str, Any]] = {
    "one question": {"messages": [_QUESTION], "add_generation_prompt": True},
    "several turns": {"messages": turns(()), "add_generation_prompt": True},
    "media": {"messages": turns(KINDS), "add_generation_prompt": True},
    "a closed turn": {"messages": turns(KINDS), "add_generation_prompt": False},
    "spaces": {"messages": [_RULES, _SPACES], "add_generation_prompt": True},
    "thinking": {"messages": [_RULES, _QUESTION], "add_generation_prompt": True, "enable_thinking": True},
    "thoughts": {"messages": [_QUESTION, _THOUGHT, _QUESTION], "add_generation_prompt": True},
    "tools": {"messages": [_RULES, _QUESTION], "add_generation_prompt": True, "tools": [_TOOL]},
    "tool calls": {
        "messages": [_QUESTION, _CALLED, _ANSWERED, _THOUGHT, _QUESTION],
        "add_generation_prompt": True,
        "tools": [_TOOL],
    },
}


def template_differences(a: Side, b: Side) -> Iterator[Difference]:
    """One difference at most, whatever is kept in which file."""
    one, other = _copies(a), _copies(b)
    if one == other:
        return
    found = partial(Difference, TEMPLATE, "", _labels(one), _labels(other))
    text_a, text_b = (find_template(side.files.get(TEMPLATE_FILE), side.tokenizer_config) for side in (a, b))
    if text_a == text_b:
        yield found(STALE if {*one.values()} ^ {*other.values()} else ELSEWHERE, Severity.FORM)
    elif text_a is None or text_b is None:
        has = SIDES[1] if text_a is None else SIDES[0]
        yield found(ONLY.format(has), Severity.ANSWERS)
    else:
        otherwise = _otherwise(text_a, text_b, tokens=_tokens(a, b))
        figures = {"tried": len(CONVERSATIONS), "otherwise": otherwise}
        judged = (OTHERWISE, Severity.ANSWERS) if otherwise else (ALIKE, Severity.FORM)
        yield found(*judged, figures)


def _copies(side: Side) -> dict[str, str]:
    """Every template of a checkpoint, by the file that holds it."""
    kept = {TEMPLATE_FILE: find_template(side.files[TEMPLATE_FILE], {})} if TEMPLATE_FILE in side.files else {}
    saved = side.tokenizer_config.get("chat_template")
    if saved is not None:
        kept[TOKENIZER_CONFIG] = saved if isinstance(saved, str) else json.dumps(saved, sort_keys=True)
    return {file: text for file, text in kept.items() if text is not None}


def _labels(copies: Mapping[str, str]) -> Any:
    return {file: _label(text) for file, text in copies.items()} or GONE


def _label(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return f"{len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}"


def _tokens(a: Side, b: Side) -> dict[str, str]:
    """A text for every special token: which ones the checkpoints have is told of their files."""
    names = {*special_tokens(a.tokenizer_config), *special_tokens(b.tokenizer_config)}
    return {name: f"<{name}>" for name in sorted(names)}


def _otherwise(one: str, other: str, *, tokens: Mapping[str, str]) -> list[str]:
    """The conversations that come out otherwise, by name."""
    return [
        name
        for name, variables in CONVERSATIONS.items()
        if _rendered(one, {**tokens, **variables}) != _rendered(other, {**tokens, **variables})
    ]


def _rendered(template: str, variables: Mapping[str, Any]) -> str | None:
    """The text of a conversation; None where the template refuses it."""
    try:
        return render(template, variables)
    except ConfigError:
        return None
