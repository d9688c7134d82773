"""The body of a request -> what it asks for. Everything that can be wrong with it without a look at its media is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...schemas import load_schema, parse_file, violation
from ...schemas.errors import ConfigError
from ...schemas.explain import json_path
from ..generation import Sampling
from ..messages import PARTS, Message, fault, media_parts
from ..prompt import PromptFormat
from .refusals import RequestError

SCHEMA = "chat_request"
# OpenAI's, and what Gemma 4's `generation_config.json` recommends.
TEMPERATURE = 1.0
# Every published template has it for `system`; none has `developer` after the first message.
ROLES = {"developer": "system"}
SEEDS = 1 << 64
# A picture of a few bytes can take megabytes when it is read.
MOST_MEDIA = 64
LONGEST_NAME = 80
MEDIA_OPTIONS = ("image_tokens", "fps", "max_frames")
LIMITS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True)
class ChatRequest:
    """What a request asks for.

    Attributes:
        messages: the conversation.
        sampling: how to choose tokens.
        model: whose answer is wanted; None for whatever is served.
        max_tokens: the most tokens of the answer; None for as many as may be.
        stop: strings that end it.
        stream: whether it comes in pieces.
        include_usage: whether their last one counts tokens.
        media: what it says about how media are read, as fields of `MediaOptions`.
    """

    messages: Sequence[Message]
    sampling: Sampling
    model: str | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    media: Mapping[str, Any] = field(default_factory=dict)


def read_request(body: bytes) -> ChatRequest:
    """Parse and check the body of a request.

    Raises:
        RequestError: names the place, what was found, and what is allowed.
    """
    try:
        document = parse_file(body, where="the request's body")
    except ConfigError as error:
        raise RequestError(400, str(error)) from None
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if value is not None}
        _check_names(document)
    _check(violation(document, SCHEMA))
    _check(fault(document["messages"]), "messages")
    _check_media(document["messages"])
    stop = document.get("stop", ())
    return ChatRequest(
        messages=[{**message, "role": ROLES.get(message["role"], message["role"])} for message in document["messages"]],
        sampling=_sampling(document),
        model=document.get("model"),
        max_tokens=_max_tokens(document),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stream=document.get("stream", False),
        include_usage=_include_usage(document),
        media={name: document[name] for name in MEDIA_OPTIONS if name in document},
    )


def check_kinds(messages: Sequence[Message], prompt: PromptFormat) -> None:
    """Refuse a part that the model cannot take.

    Raises:
        RequestError: names it, and its kind.
    """
    for path, part in media_parts(messages):
        kind, _ = PARTS[part["type"]]
        if kind not in prompt.marks:
            place = json_path(path, "messages")
            raise RequestError(400, f"{place}: the model takes no {kind}, only {prompt.takes}", param=place)


def _check(found: tuple[Sequence[str | int], str] | None, inside: str = "") -> None:
    if found is not None:
        path, what = found
        place = json_path(path, inside).removeprefix(".")
        raise RequestError(400, f"{place or 'the body'}: {what}", param=place or None)


def _check_names(document: Mapping[str, Any]) -> None:
    """The schema would tell all names that there are."""
    known = load_schema(SCHEMA)["properties"]
    if unknown := [name[:LONGEST_NAME] for name in document if name not in known]:
        raise RequestError(400, f"{unknown[0]}: there is no such parameter", param=unknown[0])


def _check_media(messages: Sequence[Message]) -> None:
    if (count := sum(1 for _ in media_parts(messages))) > MOST_MEDIA:
        raise RequestError(400, f"messages: found {count} media, allowed are {MOST_MEDIA}", param="messages")


def _sampling(document: Mapping[str, Any]) -> Sampling:
    seed = document.get("seed")
    return Sampling(
        temperature=float(document.get("temperature", TEMPERATURE)),
        top_k=document.get("top_k"),
        top_p=document.get("top_p"),
        seed=None if seed is None else seed % SEEDS,
    )


def _max_tokens(document: Mapping[str, Any]) -> int | None:
    given = [name for name in LIMITS if name in document]
    if len(given) > 1:
        what = "max_tokens: it is the old name of max_completion_tokens; give one of them"
        raise RequestError(400, what, param="max_tokens")
    return document[given[0]] if given else None


def _include_usage(document: Mapping[str, Any]) -> bool:
    if "stream_options" in document and not document.get("stream", False):
        raise RequestError(400, "stream_options: allowed only when stream is true", param="stream_options")
    return bool(document.get("stream_options", {}).get("include_usage", False))
