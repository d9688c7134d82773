"""Decoding: the same answer whatever the chunk, characters never split, stops and seeds kept."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import prompt as loaders_prompt
from g4convert.loaders.generation import (
    Detokenizer,
    Generation,
    Sampler,
    Sampling,
    Stats,
    decode,
    generate,
    keep_top_k,
    keep_top_p,
    run,
    stream,
    suppression,
)
from g4convert.loaders.loading import LoadedModel, load
from g4convert.loaders.merge import merge
from g4convert.loaders.tokenizer import open_tokenizer
from g4convert.schemas.errors import UsageError
from g4convert.tests.loaders.samples import WINDOW, byte_ids, multimodal, tokenizer, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

PROMPT = "a question that is longer than the window"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("generation") / "model", multimodal())


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    """A model that never stops by itself."""
    loaded = load(folder)
    return replace(loaded, prompt=replace(loaded.prompt, stop_ids=frozenset()))


def greedy_by_definition(model: LoadedModel, ids: list[int], count: int) -> list[int]:
    """One whole pass for every token."""
    found = list(ids)
    for _ in range(count):
        found.append(int(np.array(model.text(mx.array([found]))[0, -1]).argmax()))
    return found[len(ids) :]


@pytest.mark.parametrize("chunk", [1, 3, WINDOW, 512])
def test_greedy_decoding_is_the_argmax_of_whole_passes(model: LoadedModel, chunk: int) -> None:
    ids, count = list(model.prompt.prepare(PROMPT).ids), 3 * WINDOW

    *_, last = stream(model, PROMPT, max_tokens=count, chunk=chunk)

    assert last.generation is not None
    assert list(last.generation.tokens) == greedy_by_definition(model, ids, count)


def test_the_pieces_are_the_answer(model: LoadedModel) -> None:
    pieces = list(stream(model, PROMPT, max_tokens=20))
    written: list[str] = []
    generation = generate(model, PROMPT, max_tokens=20, write=written.append)

    assert "".join(piece.text for piece in pieces) == generation.text == "".join(written)
    assert [piece.generation for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert model.prompt.tokenizer.decode(list(generation.tokens)) == generation.text
    assert (generation.finish_reason, len(generation.tokens)) == ("length", 20)


def test_a_stop_token_ends_the_answer_and_is_not_in_the_text(model: LoadedModel) -> None:
    free = generate(model, PROMPT, max_tokens=20)
    stop = free.tokens[3]
    stopping = replace(model, prompt=replace(model.prompt, stop_ids=frozenset({stop})))

    generation = generate(stopping, PROMPT, max_tokens=20)

    first = free.tokens.index(stop)
    assert generation.tokens == free.tokens[: first + 1]
    assert generation.finish_reason == "stop"
    assert generation.text == model.prompt.tokenizer.decode(list(free.tokens[:first]))


def test_a_suppressed_token_never_comes(model: LoadedModel) -> None:
    often = generate(model, PROMPT, max_tokens=1).tokens[0]
    prompt = replace(model.prompt, suppressed_ids=(often,))

    assert often not in generate(replace(model, prompt=prompt), PROMPT, max_tokens=20).tokens


def test_a_seed_gives_the_same_answer_and_another_seed_another(model: LoadedModel) -> None:
    def sampled(seed: int) -> tuple[int, ...]:
        return generate(model, PROMPT, max_tokens=20, sampling=Sampling(temperature=2.0, seed=seed)).tokens

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=-1),
        Sampling(temperature=float("nan")),
        Sampling(top_k=-1),
        Sampling(top_p=0),
        Sampling(top_p=1.5),
        Sampling(seed=-1),
    ],
)
def test_a_meaningless_number_is_refused(model: LoadedModel, sampling: Sampling) -> None:
    with pytest.raises(UsageError):
        stream(model, PROMPT, sampling=sampling)


@pytest.mark.parametrize(("max_tokens", "chunk"), [(0, 512), (-1, 512), (1, 0)])
def test_a_count_below_one_is_refused(model: LoadedModel, max_tokens: int, chunk: int) -> None:
    with pytest.raises(UsageError):
        stream(model, PROMPT, max_tokens=max_tokens, chunk=chunk)


def test_what_the_checkpoint_recommends_holds_unless_asked_otherwise(model: LoadedModel) -> None:
    prompt = replace(model.prompt, top_k=5, top_p=0.9)

    assert Sampler.make(Sampling(), prompt, 8).top_k == 5
    assert Sampler.make(Sampling(top_k=0, top_p=1.0), prompt, 8).top_k == 0
    assert Sampler.make(Sampling(top_k=0, top_p=1.0), prompt, 8).top_p == 1.0
    assert Sampler.make(Sampling(), replace(model.prompt, top_p=None), 8).top_p == 1.0


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = mx.log(mx.array([[0.1, 0.4, 0.2, 0.3]]))

    def kept(array: mx.array) -> list[int]:
        return np.flatnonzero(np.isfinite(np.array(array)[0])).tolist()

    assert kept(keep_top_k(logits, 2)) == [1, 3]
    assert kept(keep_top_k(logits, 0)) == kept(keep_top_k(logits, 99)) == [0, 1, 2, 3]
    assert kept(keep_top_p(logits, 0.01)) == [1]
    assert kept(keep_top_p(logits, 0.39)) == [1]
    assert kept(keep_top_p(logits, 0.41)) == [1, 3]
    assert kept(keep_top_p(logits, 1.0)) == [0, 1, 2, 3]


def test_samples_follow_the_probabilities() -> None:
    sampler = Sampler(temperature=1.0, top_k=0, top_p=1.0, bias=suppression([0], 4), key=mx.random.key(0))
    logits = mx.log(mx.array([[0.5, 0.1, 0.1, 0.3]]))

    counts = np.bincount([int(sampler(logits)[0]) for _ in range(600)], minlength=4) / 600

    np.testing.assert_allclose(counts, [0, 0.2, 0.2, 0.6], atol=0.06)


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd▁")))
def test_pieces_are_whole_characters(text: str) -> None:
    detokenizer = Detokenizer(tokenizer())

    pieces = [detokenizer.add(token) for token in byte_ids(text)]

    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert detokenizer.finish() == ""


def test_an_unfinished_character_comes_at_the_end() -> None:
    detokenizer = Detokenizer(tokenizer())
    pieces = [detokenizer.add(token) for token in byte_ids("aß")[:-1]]

    assert pieces == ["a", ""]
    assert detokenizer.finish() == "\ufffd"


def test_decoding_hands_out_as_many_as_asked(model: LoadedModel) -> None:
    sampler = Sampler.make(Sampling(), model.prompt, model.config.text.vocab_size)
    prompt = merge(model.config, np.array([2, 30]), {})

    assert len(list(decode(model.text, prompt, sampler, count=1))) == 1
    assert len(list(decode(model.text, prompt, sampler, count=7))) == 7


def test_a_run_opens_the_tokenizer_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(file: Path, *rest: Any) -> Any:
        opened.append(file.name)
        return open_tokenizer(file, *rest)

    monkeypatch.setattr(loaders_prompt, "open_tokenizer", counted)
    run(folder, prompt="x", max_tokens=1)

    assert opened == ["tokenizer.json"]


def test_the_numbers_of_a_run(folder: Path, tmp_path: Path) -> None:
    messages = tmp_path / "messages.json"
    messages.write_text(json.dumps([{"role": "user", "content": PROMPT}]))

    generation = run(folder, prompt=messages, max_tokens=3)
    document = json.loads(json.dumps(generation.to_dict()))

    assert generation.text == run(folder, prompt=PROMPT, max_tokens=3).text
    assert document["stats"]["generated_tokens"] == len(document["tokens"]) == 3
    assert document["stats"]["prompt_tokens"] > WINDOW
    assert document["stats"]["prefill_tokens_per_second"] > 0


def test_rates_are_defined_for_one_token() -> None:
    stats = Stats(prompt_tokens=10, generated_tokens=1, prefill_seconds=2.0, decode_seconds=0.0)

    assert (stats.prefill_tokens_per_second, stats.decode_tokens_per_second) == (5.0, 0.0)


def test_the_clock_starts_with_the_prefill(model: LoadedModel) -> None:
    start = time.perf_counter()
    *_, last = stream(model, PROMPT, max_tokens=5)
    elapsed = time.perf_counter() - start

    assert isinstance(last.generation, Generation)
    stats = last.generation.stats
    assert 0 < stats.prefill_seconds + stats.decode_seconds <= elapsed


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-320])
def test_a_cold_sampler_takes_the_most_likely_token(temperature: float) -> None:
    sampler = Sampler(temperature, top_k=0, top_p=1.0, bias=None, key=mx.random.key(1))
    logits = mx.array([[1.0, 29.0, 3.0, 28.5]])

    assert [int(sampler(logits)) for _ in range(5)] == [1] * 5
