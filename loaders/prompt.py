"""Messages or text -> token ids, as the checkpoint's own files say: tokenizer, chat template, stop tokens.

A chat template is a program from a checkpoint. It runs in jinja's sandbox, with the few helpers that the published ones
call and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from ..schemas import read_json, validate
from ..schemas.errors import ConfigError, UnsupportedError, UsageError
from .config import ModelConfig, token_ids

if TYPE_CHECKING:
    from jinja2.parser import Parser

TEMPLATE_FILE, TOKENIZER_FILE = "chat_template.jinja", "tokenizer.json"
TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"

Message = Mapping[str, Any]


@dataclass(frozen=True)
class PromptFormat:
    """How a checkpoint is spoken to.

    Attributes:
        tokenizer: text to ids and back.
        template: the chat template's source; None for a base checkpoint.
        special_tokens: names as templates use them (`bos_token`) to their text.
        rows: rows of the embedding table; every id is below.
        bos_id: the token that begins every prompt.
        stop_ids: the tokens that end an answer.
        suppressed_ids: the tokens that an answer never contains.
        placeholders: ids that stand for a picture, clip or sound, to their text.
        top_k, top_p: what `generation_config.json` recommends when sampling; None where it says nothing.
    """

    tokenizer: Tokenizer
    template: str | None
    special_tokens: Mapping[str, str]
    rows: int
    bos_id: int
    stop_ids: frozenset[int]
    suppressed_ids: tuple[int, ...]
    placeholders: Mapping[int, str]
    top_k: int | None = None
    top_p: float | None = None

    @classmethod
    def open(cls, folder: Path, config: ModelConfig) -> PromptFormat:
        """Read the tokenizer, the template and the generation config of a checkpoint.

        Raises:
            ConfigError: one of the files is missing, cannot be read, or names a token that the model lacks.
        """
        tokenizer_config = _read_optional(folder / TOKENIZER_CONFIG, "tokenizer_config")
        generation = _read_optional(folder / GENERATION_CONFIG, "generation_config")
        tokenizer = _read_tokenizer(folder / TOKENIZER_FILE)
        suppressed = token_ids(generation.get("suppress_tokens"))
        _check_rows(suppressed, config.text.vocab_size, GENERATION_CONFIG)
        return cls(
            tokenizer=tokenizer,
            template=_read_template(folder / TEMPLATE_FILE, tokenizer_config),
            special_tokens=_special_tokens(tokenizer_config),
            rows=config.text.vocab_size,
            bos_id=config.text.bos_token_id,
            stop_ids=_stop_ids(read_json(folder / "config.json"), generation),
            suppressed_ids=suppressed,
            placeholders=_placeholders(config, tokenizer),
            top_k=generation.get("top_k"),
            top_p=generation.get("top_p"),
        )

    def encode_prompt(self, prompt: str | Sequence[Message]) -> list[int]:
        """Ids of a conversation, or of one question; a base checkpoint gets BOS and the text.

        Raises:
            UsageError: messages for a checkpoint without a chat template; the text names a placeholder.
            UnsupportedError: a message holds something other than text.
            ConfigError: the template fails.
        """
        if self.template is not None:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            return self.encode(self.render(messages))
        if isinstance(prompt, str):
            return self.encode(prompt)
        raise UsageError("the model has no chat template, so it takes no messages", fix="give the text with -p")

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with BOS in front exactly once.

        Raises:
            UsageError: the text names the placeholder of a medium.
            ConfigError: the tokenizer gives an id that the model lacks.
        """
        _check_characters(text)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        _check_rows([*ids, self.bos_id], self.rows, TOKENIZER_FILE)
        if named := [self.placeholders[token] for token in ids if token in self.placeholders]:
            raise UsageError(f"the text contains {named[0]}, which stands for a medium", fix="leave it out")
        while ids and ids[0] == self.bos_id:
            ids = ids[1:]
        return [self.bos_id, *ids]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text of a conversation.

        Args:
            messages: `role` and `content` each; content is text or a list of parts.
            add_generation_prompt: open the model's turn.
            variables: what else the template may ask for, such as `enable_thinking`.

        Raises:
            ConfigError: there is no template, or it fails.
            UnsupportedError: a message holds something other than text.
        """
        if self.template is None:
            raise ConfigError("there is no chat template", where=TEMPLATE_FILE)
        check_text_only(messages)
        given = {**self.special_tokens, **variables, "add_generation_prompt": add_generation_prompt}
        try:
            return _environment().from_string(self.template).render(messages=messages, **given)
        except Exception as error:  # the template is a program: any error may come out of it
            raise ConfigError(f"the chat template fails: {error}", where=TEMPLATE_FILE) from None


def read_messages(file: Path) -> list[dict[str, Any]]:
    """The messages of a JSON file: a list of objects with `role` and `content`.

    Raises:
        ConfigError: the file is missing or is something else.
    """
    document = read_json(file)
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list) or not messages:
        raise ConfigError("found no list of messages", where=file.name)
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ConfigError(f"message {index} lacks role or content", where=file.name)
        if not isinstance(message["role"], str):
            raise ConfigError(f"the role of message {index} is no text", where=file.name)
        if not _is_content(message["content"]):
            raise ConfigError(f"the content of message {index} is neither text nor a list of parts", where=file.name)
    return messages


def _is_content(content: Any) -> bool:
    """Text, or parts that each have a type; a part of type text has its text."""
    if isinstance(content, str):
        return True
    parts = content if isinstance(content, list) else [None]
    return all(isinstance(part, dict) and isinstance(part.get("type"), str) and _has_text(part) for part in parts)


def _has_text(part: Mapping[str, Any]) -> bool:
    return part["type"] != "text" or isinstance(part.get("text"), str)


def check_text_only(messages: Sequence[Message]) -> None:
    """Refuse what the loader cannot read yet.

    Raises:
        UnsupportedError: a part of a message is not text.
    """
    parts = [part for message in messages for part in _parts(message.get("content"))]
    kinds = [part.get("type") for part in parts if isinstance(part, Mapping)]
    if others := [kind for kind in kinds if kind != "text"]:
        raise UnsupportedError(f"a message contains a part of type {others[0]}", fix="give text only for now")


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


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


def _read_optional(file: Path, schema: str) -> dict[str, Any]:
    """A JSON object, or an empty one where the file is missing.

    Raises:
        ConfigError: the file is not JSON, or breaks its schema.
    """
    if not file.exists():
        return {}
    document: dict[str, Any] = read_json(file)
    validate(document, schema, where=file.name)
    return document


def _read_tokenizer(file: Path) -> Tokenizer:
    if not file.exists():
        raise ConfigError("the file is missing", where=file.name, fix="copy it from the source checkpoint")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"not a tokenizer: {error}", where=file.name) from None


def _read_template(file: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The file decides; older checkpoints keep the template, or several by name, in the tokenizer's config."""
    try:
        if file.exists():
            return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=file.name) from None
    saved = tokenizer_config.get("chat_template")
    if isinstance(saved, list):
        named = {entry.get("name"): entry.get("template") for entry in saved if isinstance(entry, dict)}
        saved = named.get("default")
    if not isinstance(saved, str | None):
        raise ConfigError("chat_template is neither text nor a list of templates", where=TOKENIZER_CONFIG)
    return saved


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like; some savers write each as an object with `content`."""
    tokens = {name: value for name, value in tokenizer_config.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _stop_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> frozenset[int]:
    """The union of the three places: runtimes that use one of them alone run on, or stop too late."""
    places = (config, config.get("text_config") or {}, generation)
    return frozenset(token for place in places for token in token_ids(place.get("eos_token_id")))


def _check_characters(text: str) -> None:
    """Bytes of the command line that are not UTF-8 come as halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the prompt is not UTF-8 text") from None


def _check_rows(ids: Sequence[int], rows: int, where: str) -> None:
    """Reading behind the last row of a table is no error in mlx, and gives whatever lies there."""
    if strays := [token for token in ids if token >= rows]:
        raise ConfigError(f"names the token {strays[0]}, the model has {rows}", where=where)


def _placeholders(config: ModelConfig, tokenizer: Tokenizer) -> dict[int, str]:
    tokens = config.media_tokens
    ids = (tokens.image_token_id, tokens.video_token_id, tokens.audio_token_id)
    return {token: tokenizer.id_to_token(token) or str(token) for token in ids if token is not None}
