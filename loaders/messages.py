"""A conversation: messages as OpenAI and transformers have them -> messages for the chat template, and their media."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image

from ..schemas import read_json, violation
from ..schemas.errors import ConfigError, UsageError
from ..schemas.explain import json_path
from .media import Kind, Reach, Source
from .media.links import base64_or_link, resolve

Message = Mapping[str, Any]

# The kind of medium that a type of part brings, and the keys that may hold it.
PARTS: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "image_url": ("image", ("image_url",)),
    "input_audio": ("audio", ("input_audio",)),
    "audio_url": ("audio", ("audio_url",)),
    "video_url": ("video", ("video_url",)),
    "image": ("image", ("image", "url", "path")),
    "audio": ("audio", ("audio", "url", "path")),
    "video": ("video", ("video", "url", "path")),
}


@dataclass(frozen=True)
class Attachment:
    """A picture, sound or clip of a conversation.

    Attributes:
        kind: what it is.
        link: where it is: a path, a URL, the bytes of a file, an open picture, or OpenAI's object with `data` or `url`.
        place: its part of a conversation, as `messages[0].content[1]`; empty beside a question.

    Raises:
        UsageError: the link is something else.
    """

    kind: Kind
    link: Any
    place: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not _is_link(self.kind, self.link):
            found = type(self.link).__name__
            raise UsageError(f"a medium ({self.kind}) cannot be a value of type {found}", fix="give a path or a URL")

    def open(self, reach: Reach) -> Source | PIL.Image.Image:
        """What to read.

        Raises:
            UsageError: the link leads where it must not.
            MediaError: it leads nowhere.
        """
        link = self.link
        if isinstance(link, Mapping) and "data" in link:
            return base64_or_link(link["data"], reach)
        if isinstance(link, Mapping):
            link = link["url"]
        if isinstance(link, Path):
            return reach.folder / link
        return resolve(link, reach) if isinstance(link, str) else link


@dataclass(frozen=True)
class Conversation:
    """What is said, and what is shown.

    Attributes:
        messages: as chat templates take them; a medium is a part that has a type and nothing else.
        attachments: the media, in the order of their parts.
    """

    messages: tuple[Message, ...]
    attachments: tuple[Attachment, ...] = ()

    def texts(self) -> list[str]:
        """Every text that is said."""
        contents = [message.get("content") for message in self.messages]
        return [text for content in contents for text in _texts(content)]


def attachments(
    *, images: Sequence[Any] = (), sounds: Sequence[Any] = (), videos: Sequence[Any] = ()
) -> tuple[Attachment, ...]:
    """Media by kind, each a path, a URL, the bytes of a file or, for pictures, an open one.

    Raises:
        UsageError: one of them is no list, or holds something else.
    """
    kinds: tuple[tuple[Kind, Sequence[Any]], ...] = (("image", images), ("audio", sounds), ("video", videos))
    if single := [links for _, links in kinds if isinstance(links, str | bytes)]:
        raise UsageError(f"media come as a list, not as {type(single[0]).__name__}", fix="put it into brackets")
    return tuple(Attachment(kind, link) for kind, links in kinds for link in links)


def read_messages(file: Path) -> list[Message]:
    """The messages of a JSON file: a list of them, or an object that has such a list as `messages`.

    Raises:
        ConfigError: the file is missing or is something else.
    """
    document = read_json(file, largest=None)
    nested = isinstance(document, dict) and "messages" in document
    messages: list[Message] = document["messages"] if nested else document
    _check(messages, where=file.name, at="$.messages" if nested else "$")
    return messages


def conversation(messages: Sequence[Message]) -> Conversation:
    """Take the media out of messages.

    Raises:
        UsageError: the messages break their schema, or a part holds no medium.
    """
    try:
        _check(list(messages), where="messages", at="$")
    except ConfigError as error:
        raise UsageError(error.what, where=error.where) from None
    attachments = [_attachment(path, part) for path, part in media_parts(messages)]
    return Conversation(tuple(map(_without_media, messages)), tuple(attachments))


def question(text: str, attachments: Sequence[Attachment] = ()) -> Conversation:
    """One turn: the media, then the text."""
    parts = [{"type": attachment.kind} for attachment in attachments]
    content = [*parts, {"type": "text", "text": text}] if parts else text
    return Conversation(({"role": "user", "content": content},), tuple(attachments))


def _check(messages: Sequence[Message], *, where: str, at: str) -> None:
    """See `fault`.

    Raises:
        ConfigError: names the file, the JSON path, what was found, and what is allowed.
    """
    if (found := fault(messages)) is not None:
        path, what = found
        raise ConfigError(f"{json_path(path, at)}: {what}", where=where)


def fault(messages: Sequence[Message]) -> tuple[Sequence[str | int], str] | None:
    """The path to what is wrong with messages, and what it is; None where nothing is.

    That is what the schema says, and that every medium can be looked for: a schema knows no open pictures.
    """
    if (found := violation(messages, "messages")) is not None:
        return found
    for path, part in media_parts(messages):
        kind, keys = PARTS[part["type"]]
        key, link = _held(part)
        if not _is_link(kind, link):
            what = f"no key {' or '.join(keys)}" if key is None else f"a value of type {type(link).__name__}"
            return path if key is None else [*path, key], f"found {what}, allowed is a path or a URL"
    return None


def media_parts(messages: Sequence[Message]) -> Iterator[tuple[list[str | int], Mapping[str, Any]]]:
    """Every part that is a medium, and the path to it."""
    for number, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part["type"] in PARTS:
                yield [number, "content", place], part


def _held(part: Mapping[str, Any]) -> tuple[str | None, Any]:
    """The key that holds the medium, and what it holds; tables of messages fill the other keys with null."""
    _, keys = PARTS[part["type"]]
    return next(((key, part[key]) for key in keys if part.get(key) is not None), (None, None))


def _attachment(path: Sequence[str | int], part: Mapping[str, Any]) -> Attachment:
    kind, _ = PARTS[part["type"]]
    _, link = _held(part)
    return Attachment(kind, link, json_path(path, "messages"))


def _is_link(kind: Kind, link: object) -> bool:
    if isinstance(link, Mapping):
        return isinstance(link.get("data", link.get("url")), str)
    return isinstance(link, str | Path | bytes) or (kind == "image" and isinstance(link, PIL.Image.Image))


def _without_media(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [_bare(part) for part in content]} if isinstance(content, list) else message


def _bare(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": PARTS[part["type"]][0]} if part["type"] in PARTS else part


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if part["type"] == "text"]
