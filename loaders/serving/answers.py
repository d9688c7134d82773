"""OpenAI's objects: a completion, its chunks, and an entry of the list of models."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..generation import Generation

OWNER = "g4convert"
DONE = b"data: [DONE]\n\n"
CHUNK = "chat.completion.chunk"


@dataclass(frozen=True)
class Completion:
    """An answer on its way.

    Attributes:
        model: whose it is.
        counted: whether its last chunk counts tokens.
        id: of the answer.
        created: in seconds since 1970.
    """

    model: str
    counted: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The answer in one piece."""
        message = {"role": "assistant", "content": generation.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": generation.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(generation)}

    def chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """A piece of the answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head(CHUNK), "choices": [choice], **({"usage": None} if self.counted else {})}

    def last(self, generation: Generation) -> dict[str, Any]:
        """The piece that counts tokens."""
        return {**self._head(CHUNK), "choices": [], "usage": usage(generation)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "system_fingerprint": None}


def usage(generation: Generation) -> dict[str, int]:
    """Tokens of the prompt, with all that stand for parts of media, and of the answer, with its stop token."""
    prompt, completion = generation.stats.prompt_tokens, len(generation.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def model_entry(name: str, created: int) -> dict[str, Any]:
    """What is served, as the list of models has it."""
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}


def server_sent(document: Mapping[str, Any]) -> bytes:
    """An event of a stream."""
    return b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
