"""Messages and text to ids: one BOS, a template in its sandbox, stop tokens from all three places."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders.config import ModelConfig
from g4convert.loaders.messages import Message, read_messages
from g4convert.loaders.prompt import PromptFormat
from g4convert.schemas.errors import ConfigError, UsageError
from g4convert.tests.loaders.samples import (
    BOS,
    END_OF_TURN,
    EOS,
    TEMPLATE,
    TOOL,
    TURN,
    byte_ids,
    multimodal,
    text_only,
    write_companions,
)

Open = Callable[..., PromptFormat]
QUESTION = [{"role": "user", "content": "hi"}]


@pytest.fixture
def prompt(tmp_path: Path) -> Open:
    """Open a checkpoint's prompt files, some of them replaced (text, JSON, or None to remove)."""

    def make(document: Mapping[str, Any] | None = None, **files: Any) -> PromptFormat:
        document = document or multimodal()
        write_companions(tmp_path, document)
        for name, content in files.items():
            replace(tmp_path / name.replace("__", "."), content)
        return PromptFormat.open(tmp_path, ModelConfig.from_dict(document))

    return make


def replace(file: Path, content: Any) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_question_becomes_a_turn(prompt: Open) -> None:
    ids = list(prompt().prepare("hi").ids)

    newline, user, model = byte_ids("\n"), byte_ids("user\nhi"), byte_ids("model")
    assert ids == [BOS, TURN, *user, END_OF_TURN, *newline, TURN, *model, *newline]


def test_messages_become_turns(prompt: Open) -> None:
    messages: list[Message] = [*QUESTION, {"role": "model", "content": [{"type": "text", "text": "ho"}]}]

    text = prompt().render(messages, add_generation_prompt=False)

    assert text == "<bos><|turn>user\nhi<turn|>\n<|turn>model\nho<turn|>\n"


@pytest.mark.parametrize("text", ["hi", "<bos>hi", "<bos><bos>hi"])
def test_a_base_checkpoint_gets_one_bos_and_the_text(prompt: Open, text: str) -> None:
    base = prompt(chat_template__jinja=None)

    assert list(base.prepare(text).ids) == [BOS, *byte_ids("hi")]


def test_a_template_without_bos_gets_one_too(prompt: Open) -> None:
    ids = prompt(chat_template__jinja=TEMPLATE.replace("{{ bos_token }}", "")).prepare("hi").ids

    assert ids[:2] == (BOS, TURN)


def test_messages_need_a_template(prompt: Open) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        prompt(chat_template__jinja=None).prepare(QUESTION)


@pytest.mark.parametrize("saved", ["from the config", [{"name": "default", "template": "from the config"}]])
def test_older_checkpoints_keep_the_template_in_the_tokenizer_config(prompt: Open, saved: object) -> None:
    config = {"bos_token": "<bos>", "chat_template": saved}

    assert prompt(tokenizer_config__json=config, chat_template__jinja=None).render(QUESTION) == "from the config"
    assert prompt(tokenizer_config__json=config).render(QUESTION).startswith("<bos>")


def test_special_tokens_may_be_objects(prompt: Open) -> None:
    config = {"bos_token": {"content": "<bos>", "special": True}, "eos_token": None}

    assert prompt(tokenizer_config__json=config).render(QUESTION).startswith("<bos><|turn>user")


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{{ '<ü>' | tojson }}", '"<ü>"'),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "01"),
        ("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}", "2"),
        ("  {% if true %}\nx\n  {% endif %}", "x\n"),
        ("{{ enable_thinking is defined }}{{ add_generation_prompt }}", "FalseTrue"),
    ],
)
def test_templates_find_what_transformers_gives_them(prompt: Open, template: str, rendered: str) -> None:
    assert prompt(chat_template__jinja=template).render(QUESTION) == rendered


def test_templates_can_ask_for_the_date_and_for_more_variables(prompt: Open) -> None:
    made = prompt(chat_template__jinja="{{ strftime_now('%Y') }} {{ enable_thinking }}")

    assert made.render(QUESTION, enable_thinking=True) == f"{datetime.now().astimezone():%Y} True"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 1}) }}",
        "{% include '/etc/passwd' %}",
        "{{ range(10**9) | list }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_one_line(prompt: Open, template: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prompt(chat_template__jinja=template).prepare("hi")

    assert str(caught.value).startswith("chat_template.jinja: the chat template fails")
    assert "\n" not in str(caught.value)


def test_stop_tokens_are_the_union_of_three_places(prompt: Open) -> None:
    assert prompt().stop_ids == {EOS, END_OF_TURN, TOOL}
    assert prompt(generation_config__json=None).stop_ids == {EOS, END_OF_TURN}
    assert prompt(multimodal(eos_token_id=None)).stop_ids == {EOS, TOOL}
    assert prompt(text_only(eos_token_id=None), generation_config__json={"eos_token_id": 7}).stop_ids == {7}


def test_the_generation_config_says_what_to_suppress_and_how_to_sample(prompt: Open) -> None:
    made = prompt(generation_config__json={"suppress_tokens": [5, 6], "top_k": 3, "top_p": 0.5})

    assert (made.suppressed_ids, made.top_k, made.top_p) == ((5, 6), 3, 0.5)
    assert prompt(generation_config__json={}).suppressed_ids == ()


def test_a_token_that_the_model_lacks_is_an_error(prompt: Open) -> None:
    with pytest.raises(ConfigError, match="names the token 999"):
        prompt(generation_config__json={"suppress_tokens": [999]})
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        prompt(text_only(vocab_size=50)).encode("hi")


def test_a_text_that_names_a_placeholder_is_refused(prompt: Open) -> None:
    for said in ("look: <|image|>", [{"role": "user", "content": [{"type": "text", "text": "<|audio|>"}]}]):
        with pytest.raises(UsageError, match=r"<\|(image|audio)\|>"):
            prompt().prepare(said)
    assert prompt(text_only()).prepare("look: <|image|>").ids


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "not JSON"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"chat_template": 3}'),
        ("generation_config.json", '{"eos_token_id": "stop"}'),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(prompt: Open, name: str, content: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prompt(**{name.replace(".", "__"): content})

    assert caught.value.where == name


def test_messages_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    accepted: list[Any] = [QUESTION, {"messages": QUESTION}]
    refused: list[Any] = [[], {}, "hi", ["hi"], [{"role": "user"}]]
    for content in accepted:
        file.write_text(json.dumps(content))
        assert read_messages(file) == QUESTION
    for content in refused:
        file.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=r"messages\.json"):
            read_messages(file)


@pytest.mark.parametrize(
    "message",
    [
        {"role": 7, "content": "x"},
        {"role": None, "content": "x"},
        {"role": "user", "content": None},
        {"role": "user", "content": 7},
        {"role": "user", "content": {"type": "image"}},
        {"role": "user", "content": ["a", "b"]},
        {"role": "user", "content": [[{"type": "image"}]]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "text", "text": 7}]},
        {"role": "user", "content": [{"text": "x"}]},
    ],
)
def test_a_message_that_a_template_would_swallow_is_refused(message: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([message]))

    with pytest.raises(ConfigError, match=r"messages\.json: \$\[0\].*: found .*, allowed is "):
        read_messages(file)
