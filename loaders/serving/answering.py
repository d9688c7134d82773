"""What the worker does with a request: the same steps as `g4convert run`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx

from ...schemas.errors import G4ConvertError
from ..generation import Piece, stream
from ..loading import LoadedModel
from ..media import MediaOptions
from .refusals import RequestError
from .request import ChatRequest

# How the error of a medium begins.
PLACE = re.compile(r"messages\[\d+\]\.content\[\d+\](?=:|$)")


@dataclass(frozen=True)
class Started:
    """The request is sound, its media are read, and the answer will begin.

    Attributes:
        prompt_tokens: what the network is given; each token that stands for a part of a medium counts.
    """

    prompt_tokens: int


Event = Started | Piece


def answer(
    model: LoadedModel,
    asked: ChatRequest,
    media: MediaOptions,
    most: int,
    say: Callable[[Event], None],
    check: Callable[[], None],
) -> None:
    """Answer a request.

    Args:
        model: that answers.
        asked: what is asked for.
        media: how media are read where the request does not say.
        most: tokens of an answer.
        say: is told when the answer begins, and its pieces.
        check: called between two steps; what it raises ends the work.

    Raises:
        RequestError: the request cannot be answered, for a reason that lies in it.
    """
    check()
    try:
        prompt = model.prompt.prepare(asked.messages, options=replace(media, **asked.media))
        room = _room(model, len(prompt.ids))
        count = min(asked.max_tokens or most, room)
        pieces = stream(model, prompt, max_tokens=count, sampling=asked.sampling, stop=asked.stop, between=check)
        say(Started(len(prompt.ids)))
        for piece in pieces:
            say(piece)
    except G4ConvertError as error:
        place = PLACE.match(error.where or "")
        raise RequestError(400, str(error), param=place and place[0]) from None
    finally:
        mx.clear_cache()


def _room(model: LoadedModel, prompt_tokens: int) -> int:
    """How many tokens may follow a prompt.

    Raises:
        RequestError: none.
    """
    context = model.config.text.max_position_embeddings
    if prompt_tokens >= context:
        what = f"messages: they have {prompt_tokens} tokens, and the model takes less than {context}"
        raise RequestError(400, what, param="messages", code="context_length_exceeded")
    return context - prompt_tokens
