"""Prompt -> answer, token by token: chunked prefill, greedy or sampled decoding, text that never splits a character."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from ..schemas.errors import UsageError
from .cache import Cache, make_caches
from .encoding import encode
from .loading import LoadedModel, load, open_prompt
from .media import MediaOptions
from .merge import Merged, merge
from .messages import Attachment, Message, read_messages
from .prompt import Prompt, PromptFormat
from .stops import StopStrings
from .tables import lookups_at_exit
from .text import LanguageModel

PREFILL_CHUNK = 512

# In float32, anything colder leaves the most likely token alone.
SMALLEST_TEMPERATURE = 1e-6

Between = Callable[[], object]
"""Called between two passes; what it raises ends the work."""

# What a tokenizer shows for bytes that are not a whole character yet.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most likely token.
        top_k, top_p: restrict the choice; None takes what `generation_config.json` recommends, 0 and 1 do not restrict.
        seed: the same seed gives the same answer; None draws one.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: a value is out of its range.
        """
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"the temperature is {self.temperature}, it must be 0 or more")
        if self.top_k is not None and self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}, it must be 0 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}, it must be above 0 and at most 1")
        if self.seed is not None and not 0 <= self.seed < 1 << 64:
            raise UsageError(f"the seed is {self.seed}, it must be a number of 64 bits")


@dataclass(frozen=True)
class Stats:
    """What a generation cost. The prefill ends with the first token, so decoding has one token less.

    Attributes:
        media_tokens: those of the prompt that stand for media.
        encode_seconds: what the towers took for them, before the prefill.
    """

    prompt_tokens: int
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    media_tokens: int = 0
    encode_seconds: float = 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens a second."""
        return _rate(self.prompt_tokens, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """Generated tokens a second, after the first."""
        return _rate(self.generated_tokens - 1, self.decode_seconds)


def _rate(count: int, seconds: float) -> float:
    return max(count, 0) / seconds if seconds > 0 else 0.0


@dataclass(frozen=True)
class Generation:
    """A whole answer. `tokens` includes the stop token, `text` does not; `finish_reason` is stop or length."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    stats: Stats

    def to_dict(self) -> dict[str, Any]:
        """What `g4convert run --json` prints."""
        rates = {
            "prefill_tokens_per_second": round(self.stats.prefill_tokens_per_second, 2),
            "decode_tokens_per_second": round(self.stats.decode_tokens_per_second, 2),
        }
        return {**asdict(self), "tokens": list(self.tokens), "stats": {**asdict(self.stats), **rates}}


@dataclass(frozen=True)
class Piece:
    """Text that has become whole; the last piece of a stream carries the generation."""

    text: str
    generation: Generation | None = None


def run(
    path: str | Path,
    *,
    prompt: str | Path | Sequence[Message],
    attachments: Sequence[Attachment] = (),
    options: MediaOptions | None = None,
    max_tokens: int = 256,
    sampling: Sampling | None = None,
    write: Callable[[str], object] | None = None,
) -> Generation:
    """Load a checkpoint and answer one prompt: what `g4convert run` does.

    Args:
        path: the folder of a converted checkpoint.
        prompt: a text, messages, or the path of a JSON file with messages, whose relative paths begin in its folder.
        attachments: media that stand before a text.
        options: how to read media.
        max_tokens: the most tokens to generate.
        sampling: how to choose tokens; greedy by default.
        write: called with each piece of text as it comes.

    Raises:
        G4ConvertError: the checkpoint, the messages or the call is wrong.
    """
    _check(max_tokens, PREFILL_CHUNK, sampling or Sampling())
    options = options or MediaOptions()
    if isinstance(prompt, Path):
        options = replace(options, reach=replace(options.reach, folder=prompt.parent))
        prompt = read_messages(prompt)
    # What can be wrong with a prompt shows before the weights are read.
    spoken = open_prompt(path)
    prepared = spoken.prepare(prompt, attachments=attachments, options=options)
    return generate(load(path, prompt=spoken), prepared, max_tokens=max_tokens, sampling=sampling, write=write)


def generate(
    model: LoadedModel,
    prompt: str | Sequence[Message] | Prompt,
    *,
    max_tokens: int = 256,
    sampling: Sampling | None = None,
    write: Callable[[str], object] | None = None,
) -> Generation:
    """Answer one prompt; see `run` for the arguments and `stream` for what is raised."""
    generation = None
    for piece in stream(model, prompt, max_tokens=max_tokens, sampling=sampling):
        if write is not None and piece.text:
            write(piece.text)
        generation = piece.generation
    assert generation is not None
    return generation


def stream(
    model: LoadedModel,
    prompt: str | Sequence[Message] | Prompt,
    *,
    max_tokens: int = 256,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    chunk: int = PREFILL_CHUNK,
    between: Between = lambda: None,
) -> Iterator[Piece]:
    """Answer one prompt piece by piece; the last piece carries the `Generation`.

    Args:
        model: what `load` returned.
        prompt: one question or, for a base checkpoint, the text to continue; messages, which may hold media; or what
            `model.prompt.prepare` made of them.
        max_tokens: the most tokens to generate.
        sampling: how to choose tokens; greedy by default.
        stop: strings that end the answer, and are not in it.
        chunk: prompt tokens per pass; the answer does not depend on it.
        between: called between two passes; what it raises ends the work.

    Raises:
        UsageError: a number is out of its range, or the prompt does not suit the checkpoint.
        ConfigError: the chat template fails.
    """
    sampling = sampling or Sampling()
    _check(max_tokens, chunk, sampling)
    if "" in stop:
        raise UsageError("a stop string is empty, and stands everywhere", fix="leave it out")
    prepared = prompt if isinstance(prompt, Prompt) else model.prompt.prepare(prompt)
    sampler = Sampler.make(sampling, model.prompt, model.config.text.vocab_size)
    tokens = partial(decode, model.text, sampler=sampler, count=max_tokens, chunk=chunk, between=between)
    return _pieces(model, prepared, tokens, StopStrings(stop), between)


def _check(max_tokens: int, chunk: int, sampling: Sampling) -> None:
    if max_tokens < 1 or chunk < 1:
        raise UsageError(f"the number of tokens is {min(max_tokens, chunk)}, it must be 1 or more")
    sampling.check()


def _pieces(
    model: LoadedModel, prompt: Prompt, tokens: Callable[[Merged], Iterator[int]], stops: StopStrings, between: Between
) -> Iterator[Piece]:
    clock, detokenizer, answer = Clock(), Detokenizer(model.prompt.tokenizer), list[int]()
    between()
    merged = merge(model.config, np.array(prompt.ids), encode(model.network, prompt))
    clock.encoded()
    text = ""
    for token in tokens(merged):
        clock.tick()
        answer.append(token)
        if token in model.prompt.stop_ids:
            break
        if piece := stops.add(detokenizer.add(token)):
            text += piece
            yield Piece(piece)
        if stops.found:
            break
    rest = stops.finish(detokenizer.finish())
    reason = "stop" if stops.found or answer[-1] in model.prompt.stop_ids else "length"
    yield Piece(rest, Generation(text + rest, tuple(answer), reason, clock.stats(merged)))


def decode(
    network: LanguageModel,
    prompt: Merged,
    sampler: Sampler,
    *,
    count: int,
    chunk: int = PREFILL_CHUNK,
    between: Between = lambda: None,
) -> Iterator[int]:
    """The `count` tokens that follow a prompt.

    The next pass is queued before a token is handed out, so the device works while the caller does.
    """
    caches = make_caches(network.config)
    token = sampler(prefill(network, prompt, caches, chunk, between))
    mx.async_eval(token)
    for _ in range(count - 1):
        between()
        with lookups_at_exit():
            following = sampler(network(token[:, None], caches, last_only=True)[:, -1])
        mx.async_eval(following)
        yield _number(token)
        token = following
    yield _number(token)


def _number(token: mx.array) -> int:
    """The value of a token [1]; waits for the device."""
    return int(np.asarray(token)[0])


def prefill(
    network: LanguageModel,
    prompt: Merged,
    caches: Mapping[int, Cache],
    chunk: int,
    between: Between = lambda: None,
) -> mx.array:
    """Fill the caches with a prompt; logits [1, vocabulary] after its last token."""
    logits = mx.zeros(0)
    for start, stop in prompt.passes(chunk):
        between()
        # Only the caches are evaluated: logits and the KV-shared tail of the last chunk are never computed.
        mx.eval([cache.state for cache in caches.values()])
        logits = network(prompt.inputs(network.model, start, stop), caches, last_only=True)
    return logits[:, -1]


@dataclass
class Sampler:
    """Logits [1, vocabulary] -> the next token [1].

    Attributes:
        temperature: 0 takes the most likely token.
        top_k: how many tokens to choose from; 0 for all.
        top_p: the probability that the tokens to choose from have together.
        bias: [vocabulary], added to the logits; None where no token is suppressed.
        key: the state of the random numbers, replaced at every draw.
    """

    temperature: float
    top_k: int
    top_p: float
    bias: mx.array | None
    key: mx.array = field(repr=False)

    @classmethod
    def make(cls, sampling: Sampling, prompt: PromptFormat, vocabulary: int) -> Sampler:
        """Combine what is asked for with what the checkpoint recommends."""
        top_k = sampling.top_k if sampling.top_k is not None else prompt.top_k
        top_p = sampling.top_p if sampling.top_p is not None else prompt.top_p
        seed = sampling.seed if sampling.seed is not None else time.time_ns()
        return cls(
            temperature=sampling.temperature,
            top_k=top_k or 0,
            top_p=1.0 if top_p is None else top_p,
            bias=suppression(prompt.suppressed_ids, vocabulary),
            key=mx.random.key(seed),
        )

    def __call__(self, logits: mx.array) -> mx.array:
        """Choose one token."""
        logits = logits.astype(mx.float32)
        if self.bias is not None:
            logits = logits + self.bias
        if self.temperature == 0:
            return mx.argmax(logits, axis=-1)
        self.key, key = mx.random.split(self.key)
        # Below zero, a division by a tiny temperature can only run to minus infinity.
        logits = (logits - logits.max(-1, keepdims=True)) / max(self.temperature, SMALLEST_TEMPERATURE)
        logits = keep_top_p(keep_top_k(logits, self.top_k), self.top_p)
        return mx.random.categorical(logits, key=key)


def suppression(ids: Sequence[int], vocabulary: int) -> mx.array | None:
    """[vocabulary]: minus infinity at `ids`, else 0; None without ids."""
    if not ids:
        return None
    bias = mx.zeros(vocabulary)
    bias[mx.array(list(ids))] = -mx.inf
    return bias


def keep_top_k(logits: mx.array, top_k: int) -> mx.array:
    """Logits [1, vocabulary] with all but the `top_k` largest at minus infinity; 0 keeps all."""
    if not 0 < top_k < logits.shape[-1]:
        return logits
    smallest = mx.topk(logits, top_k, axis=-1).min(-1, keepdims=True)
    return mx.where(logits < smallest, -mx.inf, logits)


def keep_top_p(logits: mx.array, top_p: float) -> mx.array:
    """Logits [1, vocabulary] with all but the likeliest at minus infinity: the fewest that reach `top_p` together."""
    if top_p >= 1:
        return logits
    order = mx.argsort(-logits, axis=-1)
    probabilities = mx.softmax(mx.take_along_axis(logits, order, axis=-1), axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    outside = mx.take_along_axis(before >= top_p, mx.argsort(order, axis=-1), axis=-1)
    return mx.where(outside, -mx.inf, logits)


class Detokenizer:
    """Tokens one by one -> text in whole characters.

    Each step decodes the tokens since the last whole piece, with that piece before them: what a token looks like
    depends on its neighbour (a leading space), not on the whole answer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        self._waiting: list[int] = []

    def add(self, token: int) -> str:
        """The text that became whole with `token`; empty while a character is incomplete."""
        self._waiting.append(token)
        text = self._new_text()
        if text.endswith(REPLACEMENT) or not text:
            return ""
        self._before, self._waiting = self._waiting, []
        return text

    def finish(self) -> str:
        """What is left at the end, incomplete or not."""
        return self._new_text() if self._waiting else ""

    def _new_text(self) -> str:
        known = self._decode(self._before)
        return self._decode(self._before + self._waiting)[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class Clock:
    """Times the media, the first token and the ones after it."""

    def __init__(self) -> None:
        self._start = self._encoded = self._first = self._last = time.perf_counter()
        self._ticks = 0

    def encoded(self) -> None:
        """The media have become features."""
        self._encoded = time.perf_counter()

    def tick(self) -> None:
        """A token has come."""
        self._last = time.perf_counter()
        if self._ticks == 0:
            self._first = self._last
        self._ticks += 1

    def stats(self, prompt: Merged) -> Stats:
        """What has been measured so far."""
        return Stats(
            prompt_tokens=len(prompt.ids),
            media_tokens=len(prompt.places),
            generated_tokens=self._ticks,
            prefill_seconds=self._first - self._encoded,
            decode_seconds=self._last - self._first,
            encode_seconds=self._encoded - self._start,
        )
