"""Every conversation that templates are tried with shows something that no other does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from g4convert.convert import diff
from g4convert.convert.comparison.outcome import Severity
from g4convert.convert.comparison.template import CONVERSATIONS
from g4convert.tests.convert.comparison.edits import TEMPLATE, TOKENIZER_CONFIG
from g4convert.tests.convert.verification.mutations import added, json_set, replaced
from g4convert.tests.convert.verification.workshop import Piece
from g4convert.tests.support import CHECKPOINTS

# A template that looks at everything that Gemma 4's look at.
WHOLE = """{{- bos_token -}}
{%- if enable_thinking -%}<|think|>{%- endif -%}
{%- for tool in tools or [] -%}<|tool>{{- tool.function.name -}}<tool|>{%- endfor -%}
{%- for message in messages -%}
<|turn>{{- message.role }}
{% if message.reasoning -%}<|channel>{{- message.reasoning -}}<channel|>{%- endif -%}
{%- for call in message.tool_calls or [] -%}<|tool_call>{{- call.function.name -}}<tool_call|>{%- endfor -%}
{%- if message.content is string -%}{{- message.content | trim -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'text' -%}{{- part.text | trim -}}{%- else -%}<|{{- part.type -}}|>{%- endif -%}
{%- endfor -%}
{%- endif -%}
<turn|>
{% endfor -%}
{%- if add_generation_prompt -%}<|turn>model
{% endif -%}
"""

# By the conversation that must show it: what is changed in the template.
CHANGES = {
    "one question": ("{{- bos_token -}}", ""),
    "several turns": ("<|turn>{{- message.role }}", "<|turn>{{- message.role if messages | length < 4 else 'x' }}"),
    "media": ("<|{{- part.type -}}|>", ""),
    "a closed turn": ("{%- if add_generation_prompt -%}", "{%- if true -%}"),
    "spaces": ("{{- part.text | trim -}}", "{{- part.text -}}"),
    "thinking": ("{%- if enable_thinking -%}", "{%- if false -%}"),
    "thoughts": ("{{- message.reasoning -}}", ""),
    "tools": ("<|tool>{{- tool.function.name -}}", "<|tool>"),
    "tool calls": ("<|tool_call>{{- call.function.name -}}", "<|tool_call>"),
}
ALONE = {"a closed turn", "spaces", "thinking", "tool calls"}


@pytest.fixture
def pair(tmp_path: Path) -> Callable[[str, str], tuple[Piece, Piece]]:
    """Two samples with the whole template, the second with a text in it replaced."""

    def make(old: str, new: str) -> tuple[Piece, Piece]:
        one, other = (Piece(CHECKPOINTS / "text", tmp_path / name) for name in ("one", "other"))
        for piece in (one, other):
            added(TEMPLATE, WHOLE.encode())(piece)
        replaced(TEMPLATE, old, new)(other)
        return one, other

    return make


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_shows_what_it_is_there_for(name: str, pair: Callable[[str, str], tuple[Piece, Piece]]) -> None:
    one, other = pair(*CHANGES[name])

    (difference,) = diff(one.folder, other.folder).differences

    assert difference.severity is Severity.ANSWERS
    assert name in difference.figures["otherwise"]
    if name in ALONE:
        assert difference.figures["otherwise"] == [name]


def test_no_conversation_is_refused_by_a_whole_template(pair: Callable[[str, str], tuple[Piece, Piece]]) -> None:
    one, other = pair("{{- bos_token -}}", "{{- bos_token -}}!")

    (difference,) = diff(one.folder, other.folder).differences

    assert difference.figures["otherwise"] == list(CONVERSATIONS)


def test_special_tokens_that_differ_are_not_told_of_the_template(
    pair: Callable[[str, str], tuple[Piece, Piece]],
) -> None:
    one, other = pair("{%- endfor -%}", "{%-   endfor   -%}")
    json_set(TOKENIZER_CONFIG, "bos_token", to="<s>")(other)

    token, template = diff(one.folder, other.folder).differences

    assert (token.where, token.severity) == ("$.bos_token", Severity.ANSWERS)
    assert template.severity is Severity.FORM
