"""A question or a conversation -> what the network takes, as the checkpoint's own files say.

Those are the tokenizer, the chat template, the stop tokens, and how media are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..schemas import read_json, validate
from ..schemas.errors import ConfigError, MediaError, UsageError
from .checkpoint import CONFIG_FILE, find, within
from .config import ModelConfig, token_ids
from .consistency import GENERATION_CONFIG, PROCESSOR, TOKENS, check_generation, check_processor, check_rows
from .media import Audio, Image, Kind, MediaOptions, MediaSettings, Medium, Video, read_medium
from .messages import Attachment, Conversation, Message, conversation, question
from .placeholders import Marks, expand, expansion
from .template import TEMPLATE_FILE, TOKENIZER_CONFIG, find_template, render, special_tokens
from .tokenizer import TOKENIZER_FILE, open_tokenizer

# The ids in `config.json` of what frames a medium and stands for it.
MARKS: Mapping[Kind, tuple[str, str, str]] = {
    "image": ("boi_token_id", "image_token_id", "eoi_token_id"),
    "audio": ("boa_token_id", "audio_token_id", "eoa_token_id"),
    "video": ("boi_token_id", "video_token_id", "eoi_token_id"),
}


@dataclass(frozen=True)
class Prompt:
    """What the network takes.

    Attributes:
        ids: the tokens, one placeholder for each soft token of a medium.
        images, sounds, videos: the media, in the order of their placeholders.
    """

    ids: tuple[int, ...]
    images: tuple[Image, ...] = ()
    sounds: tuple[Audio, ...] = ()
    videos: tuple[Video, ...] = ()


@dataclass(frozen=True)
class PromptFormat:
    """How a checkpoint is spoken to.

    Attributes:
        config: what `config.json` says.
        tokenizer: text to ids and back.
        template: the chat template's source; None for a base checkpoint.
        special_tokens: names as templates use them (`bos_token`) to their text.
        stop_ids: the tokens that end an answer.
        suppressed_ids: the tokens that an answer never contains.
        marks: how media stand in the text, by kind; the kinds are those that the model takes.
        processor: `processor_config.json`, empty where there is none.
        top_k, top_p: what `generation_config.json` recommends when sampling; None where it says nothing.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    template: str | None
    special_tokens: Mapping[str, str]
    stop_ids: frozenset[int]
    suppressed_ids: tuple[int, ...]
    marks: Mapping[Kind, Marks]
    processor: Mapping[str, Any]
    top_k: int | None = None
    top_p: float | None = None

    @classmethod
    def open(cls, folder: Path, config: ModelConfig, *, strict: bool = True) -> PromptFormat:
        """Read the tokenizer, the template, the generation config and the processor config of a checkpoint.

        Args:
            folder: of the checkpoint.
            config: what its `config.json` says.
            strict: whether the tokenizer and the processor must agree with the config, see `consistency`.

        Raises:
            ConfigError: one of the files is missing, cannot be read, or names a token that the model lacks.
            UnsafeFileError: one of them is a link that leads out of the checkpoint.
        """
        document = read_json(within(folder, folder / CONFIG_FILE))
        tokenizer_config = _read_optional(folder, TOKENIZER_CONFIG, "tokenizer_config")
        generation = _read_optional(folder, GENERATION_CONFIG, "generation_config")
        processor = _read_optional(folder, PROCESSOR, "processor_config")
        tokenizer = open_tokenizer(_tokenizer_file(folder), document if strict else None)
        if strict and processor:
            check_processor(config, processor)
        check_generation(config, generation)
        return cls(
            config=config,
            tokenizer=tokenizer,
            template=find_template(find(folder, TEMPLATE_FILE), tokenizer_config),
            special_tokens=special_tokens(tokenizer_config),
            stop_ids=find_stop_ids(document, generation),
            suppressed_ids=token_ids(generation.get("suppress_tokens")),
            marks=_marks(config, tokenizer),
            processor=processor,
            top_k=generation.get("top_k"),
            top_p=generation.get("top_p"),
        )

    @property
    def takes(self) -> str:
        """What the model takes, in words: text, and kinds of media."""
        taken = ["text", *self.marks]
        return " and ".join(filter(None, [", ".join(taken[:-1]), taken[-1]]))

    def prepare(
        self,
        prompt: str | Sequence[Message],
        *,
        attachments: Sequence[Attachment] = (),
        options: MediaOptions | None = None,
    ) -> Prompt:
        """Read the media of a question or a conversation, and tokenize it.

        Args:
            prompt: one question or, for a base checkpoint, the text to continue; or messages.
            attachments: the media that stand before a question.
            options: how to read media.

        Raises:
            UsageError: messages for a checkpoint without a chat template, or with attachments beside them; a text
                names a placeholder; a link leads where it must not; an option is not what it may be.
            MediaError: the model does not take this kind of medium, or the medium cannot be read.
            ConfigError: the template fails, or the checkpoint does not say how media are read.
        """
        if not isinstance(prompt, str) and attachments:
            raise UsageError(
                "media stand in the messages or beside a question, not both",
                fix="put them into the messages, as image_url, input_audio and video_url",
            )
        options = options or MediaOptions()
        options.check()
        said = question(prompt, attachments) if isinstance(prompt, str) else conversation(prompt)
        self._check_texts(said)
        media = self._read(said.attachments, options)
        text = self._continued(prompt, said) if self.template is None else self.render(said.messages)
        _check_characters(text)
        return Prompt(
            ids=tuple(self.encode(self._expand(text, said.attachments, media))),
            images=tuple(medium for medium in media if isinstance(medium, Image)),
            sounds=tuple(clip for medium in media if isinstance(medium, tuple) for clip in medium),
            videos=tuple(medium for medium in media if isinstance(medium, Video)),
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with BOS in front exactly once.

        Raises:
            ConfigError: the tokenizer gives an id that the model lacks.
        """
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower
            raise ConfigError(f"the tokenizer fails: {error}", where=TOKENIZER_FILE) from None
        bos_id = self.config.text.bos_token_id
        check_rows([*ids, bos_id], self.config.text.vocab_size, TOKENIZER_FILE)
        while ids and ids[0] == bos_id:
            ids = ids[1:]
        return [bos_id, *ids]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text of a conversation.

        Args:
            messages: `role` and `content` each; content is text or a list of parts, see `Conversation`.
            add_generation_prompt: open the model's turn.
            variables: what else the template may ask for, such as `enable_thinking`.

        Raises:
            ConfigError: there is no template, or it fails, or it takes too much.
            UsageError: a message or a variable holds what JSON cannot.
        """
        if self.template is None:
            raise ConfigError("there is no chat template", where=TEMPLATE_FILE)
        given = {**self.special_tokens, **variables, "add_generation_prompt": add_generation_prompt}
        return render(self.template, {**given, "messages": messages})

    def _continued(self, prompt: str | Sequence[Message], said: Conversation) -> str:
        """What a base checkpoint continues: the media, then the text."""
        if not isinstance(prompt, str):
            raise UsageError("the model has no chat template, so it takes no messages", fix="give the text with -p")
        return "".join(self.marks[attachment.kind].placeholder for attachment in said.attachments) + prompt

    def _check_texts(self, said: Conversation) -> None:
        placeholders = [mark.placeholder for mark in self.marks.values()]
        for text in said.texts():
            _check_characters(text)
            if named := [placeholder for placeholder in placeholders if placeholder in text]:
                raise UsageError(f"the text contains {named[0]}, which stands for a medium", fix="leave it out")

    def _read(self, attachments: Sequence[Attachment], options: MediaOptions) -> list[Medium]:
        if not attachments:
            return []
        for attachment in attachments:
            self._check_kind(attachment.kind)
        if not self.processor:
            raise ConfigError("the file is missing", where=PROCESSOR, fix="take the file of the base model")
        check_processor(self.config, self.processor)
        settings = MediaSettings.from_dict(self.processor)
        return [_read_one(one, settings, options) for one in attachments]

    def _check_kind(self, kind: Kind) -> None:
        if kind not in self.marks:
            fix = "leave it out, or take another checkpoint"
            raise MediaError(f"the model takes no {kind}, only {self.takes}", fix=fix)

    def _expand(self, text: str, attachments: Sequence[Attachment], media: Sequence[Medium]) -> str:
        texts: dict[Kind, list[str]] = {kind: [] for kind in self.marks}
        for attachment, medium in zip(attachments, media, strict=True):
            texts[attachment.kind].append(expansion(medium, self.marks[attachment.kind]))
        return expand(text, self.marks, texts)


def _read_one(attachment: Attachment, settings: MediaSettings, options: MediaOptions) -> Medium:
    """Read a medium; what is wrong with it says where it stands, for there may be several."""
    try:
        return read_medium(attachment.kind, attachment.open(options.reach), settings, options)
    except (MediaError, UsageError) as error:
        if not attachment.place:
            raise
        where = ": ".join(filter(None, [attachment.place, error.where]))
        raise type(error)(error.what, where=where, fix=error.fix) from None


def _read_optional(folder: Path, name: str, schema: str) -> dict[str, Any]:
    """A JSON object, or an empty one where the file is missing.

    Raises:
        ConfigError: the file is not JSON, or breaks its schema.
        UnsafeFileError: it is a link that leads out of the checkpoint.
    """
    if (file := find(folder, name)) is None:
        return {}
    document: dict[str, Any] = read_json(file)
    validate(document, schema, where=name)
    return document


def _tokenizer_file(folder: Path) -> Path:
    if (file := find(folder, TOKENIZER_FILE)) is None:
        raise ConfigError("the file is missing", where=TOKENIZER_FILE, fix="copy it from the source checkpoint")
    return file


def find_stop_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> frozenset[int]:
    """The union of the three places: runtimes that use one of them alone run on, or stop too late."""
    places = (config, config.get("text_config") or {}, generation)
    return frozenset(token for place in places for token in token_ids(place.get("eos_token_id")))


def _check_characters(text: str) -> None:
    """Bytes of the command line that are not UTF-8 come as halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the prompt is not UTF-8 text") from None


def _marks(config: ModelConfig, tokenizer: Tokenizer) -> dict[Kind, Marks]:
    """By kind of medium, for those that the model has the modules and the tokens for.

    Raises:
        ConfigError: `config.json` gives a token an id that the tokenizer lacks.
    """
    modules = {"image": config.vision, "video": config.vision, "audio": config.audio}
    placeholders = {kind: getattr(config.media_tokens, keys[1]) for kind, keys in MARKS.items()}
    taken = [kind for kind in MARKS if modules[kind] is not None and placeholders[kind] is not None]
    return {kind: Marks(*(_mark(key, config, tokenizer) for key in MARKS[kind])) for kind in taken}


def _mark(key: str, config: ModelConfig, tokenizer: Tokenizer) -> str:
    """The text of a token; an id that the config leaves out is that of the text which Gemma 4 has for it."""
    token = getattr(config.media_tokens, key)
    text: str | None = TOKENS[key][0] if token is None else tokenizer.id_to_token(token)
    if text is None or tokenizer.token_to_id(text) is None:
        raise ConfigError(f"$.{key}: found {token}, which is no token of {TOKENIZER_FILE}", where="config.json")
    return text
