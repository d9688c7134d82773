"""Greedy answers to several prompts at once: each layer of a streamed network is read once for a token of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ...loaders.cache import Cache, make_caches
from ...loaders.merge import Merged
from ...loaders.model import language_model
from ...loaders.prompt import Prompt, PromptFormat
from ...loaders.text import TextInputs, TextModel
from .tracing import Runner


@dataclass
class _Turn:
    """An answer as it grows.

    Attributes:
        prompt: what is answered.
        caches: the past.
        tokens: the answer so far.
    """

    prompt: Merged
    caches: Mapping[int, Cache]
    tokens: list[int] = field(default_factory=list)

    def inputs(self, text: TextModel) -> TextInputs:
        """What follows the past: the prompt, or else the last token."""
        if not self.tokens:
            return self.prompt.inputs(text, 0, len(self.prompt.ids))
        return text.embed(mx.array([self.tokens[-1:]]))


def answer(runner: Runner, form: PromptFormat, prompts: Sequence[Prompt], count: int) -> list[list[int]]:
    """The most likely answers, of at most `count` tokens each; a stop token ends an answer and is its last token."""
    caches = [make_caches(runner.config.text, slack=count) for _ in prompts]
    merged = [runner.merged(prompt, runner.features(prompt)) for prompt in prompts]
    turns = [_Turn(prompt, past) for prompt, past in zip(merged, caches, strict=True)]
    for _ in range(count):
        growing = [turn for turn in turns if not form.stop_ids.intersection(turn.tokens[-1:])]
        for turn, token in zip(growing, _next_tokens(runner, growing, form.suppressed_ids), strict=True):
            turn.tokens.append(token)
    return [turn.tokens for turn in turns]


def _next_tokens(runner: Runner, turns: Sequence[_Turn], suppressed: Sequence[int]) -> list[int]:
    if not turns:
        return []
    last = mx.concatenate([states[:, -1:] for states in _last_layer(runner, turns)], axis=1)
    logits = np.concatenate([piece for _, piece in runner.logits(runner.norm(last))], axis=-1)
    logits[:, list(suppressed)] = -np.inf
    return [int(token) for token in logits.argmax(-1)]


def _last_layer(runner: Runner, turns: Sequence[_Turn]) -> tuple[mx.array, ...]:
    """What the last layer hands on, [1, 1, hidden] for each turn; all turns go through a layer before the next one."""
    text = language_model(runner.network).model
    passes = [text.layer_outputs(turn.inputs(text), turn.caches, last_only=True) for turn in turns]
    states: tuple[mx.array, ...] = ()
    for states in zip(*passes, strict=True):  # noqa: B007  # the last one counts
        pass
    return states
