"""A network that holds one layer at a time is the loaded network, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert.source import open_source
from g4convert.convert.verification import weights
from g4convert.convert.verification.weights import SourceWeights
from g4convert.loaders import load, streaming
from g4convert.loaders.cache import make_caches
from g4convert.loaders.encoding import encode
from g4convert.loaders.media import MediaOptions
from g4convert.loaders.messages import attachments
from g4convert.loaders.model import build, language_model
from g4convert.loaders.module import Module
from g4convert.loaders.streaming import Remembered, Streamed, open_streamed, stream
from g4convert.tests.support import CHECKPOINTS

Convert = Callable[..., Path]

# What each sample holds: packings of every kind, experts, tables, and none of them.
OPTIONS: dict[str, dict[str, Any]] = {
    "e2b": {},
    "26b-a4b": {"mode": "mxfp4"},
    "12b": {"quantize": False},
    "text": {"recipe": "uniform"},
}
KINDS = pytest.mark.parametrize("kind", OPTIONS)
MODALITIES = ("text", "image", "audio", "video")
IDS = mx.array(np.random.default_rng(0).integers(10, 500, (1, 70)))
QUESTIONS = CHECKPOINTS / "questions"
MEDIA = {
    "e2b": {"images": [QUESTIONS / "picture-1.png"], "sounds": [QUESTIONS / "sound-1.wav"]},
    "26b-a4b": {"images": [QUESTIONS / "picture-1.png"]},
    "12b": {"images": [QUESTIONS / "picture-1.png"], "sounds": [QUESTIONS / "sound-1.wav"]},
}


def equal(one: mx.array, other: mx.array) -> bool:
    return bool(mx.array_equal(one, other).item())


@KINDS
def test_hidden_states_are_equal_and_logits_but_for_the_head(kind: str, converted: Convert) -> None:
    folder = converted(kind, **OPTIONS[kind])
    loaded, streamed = load(folder, dtype="float32"), open_streamed(folder)
    texts = [model.text.model for model in (loaded, streamed)]

    assert equal(*(text(text.embed(IDS)) for text in texts))
    # A packed head is unpacked before it is multiplied with.
    assert np.allclose(np.array(loaded.text(IDS)), np.array(streamed.text(IDS)), rtol=0, atol=1e-4)


@KINDS
def test_caches_and_a_last_position_alone_work_too(kind: str, converted: Convert) -> None:
    folder = converted(kind, **OPTIONS[kind])
    found = []
    for model in (load(folder, dtype="float32"), open_streamed(folder)):
        text, caches = model.text.model, make_caches(model.config.text)
        passes = [text(text.embed(piece), caches, last_only=True) for piece in (IDS[:, :40], IDS[:, 40:41])]
        found.append(mx.concatenate(passes, axis=1))

    assert equal(*found)


@pytest.mark.parametrize("kind", MEDIA)
def test_features_of_media_are_equal(kind: str, converted: Convert) -> None:
    folder = converted(kind, **OPTIONS[kind])
    models = load(folder, dtype="float32"), open_streamed(folder)
    options = MediaOptions(image_tokens=70)

    prompt = models[0].prompt.prepare("What is this?", attachments=attachments(**MEDIA[kind]), options=options)
    loaded, streamed = (encode(model.network, prompt) for model in models)

    assert loaded.keys() == streamed.keys() != set()
    assert all(equal(loaded[one], streamed[one]) for one in loaded)


@KINDS
def test_a_source_is_its_unquantized_conversion(kind: str, converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK", 1000)  # so that small tensors are read in several pieces, too
    source = open_source(CHECKPOINTS / kind)
    network = build(source.config)
    stream(network, SourceWeights.of(source, MODALITIES))

    expected = load(converted(kind, quantize=False), dtype="float32").text(IDS)

    assert equal(language_model(network)(IDS), expected)


def layers(module: Module) -> list[Streamed]:
    return [layer for layer in module.layers if isinstance(layer, Streamed)]


def test_a_layer_drops_its_weights_after_a_call(converted: Convert) -> None:
    model = open_streamed(converted("text"))
    before = mx.get_active_memory()

    mx.eval(model.text.model(model.text.model.embed(IDS)))

    assert len(layers(model.text.model)) == model.config.text.num_hidden_layers
    assert mx.get_active_memory() - before < 1_000_000


class Counted(streaming.CheckpointWeights):
    """Weights that note which layers are read."""

    calls: list[str]

    def parameters(self, names: Sequence[str]) -> streaming.Parameters:
        self.calls.append(names[0].split("layers.")[-1].partition(".")[0])
        return super().parameters(names)


def test_two_calls_of_a_layer_read_it_once(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    Counted.calls = []
    monkeypatch.setattr(streaming, "CheckpointWeights", Counted)
    text = open_streamed(converted("text")).text.model
    Counted.calls.clear()

    passes = [text.layer_outputs(text.embed(ids)) for ids in (IDS, IDS[:, :9])]
    for states in zip(*passes, strict=True):
        assert [state.shape[1] for state in states] == [70, 9]

    assert Counted.calls == [str(index) for index in range(len(text.layers))]


def test_what_is_remembered_is_dropped_before_another_layer_is_read() -> None:
    class Weights:
        def parameters(self, names: Sequence[str]) -> streaming.Parameters:
            assert not remembered._read
            return [(name, mx.zeros(1)) for name in names]

        def rows(self, module: str, start: int, stop: int) -> mx.array:  # noqa: ARG002
            return mx.full((stop - start, 1), start)

    remembered = Remembered(Weights())

    assert [name for name, _ in remembered.parameters(["a"])] == ["a"]
    assert [name for name, _ in remembered.parameters(["b", "c"])] == ["b", "c"]
    assert remembered.rows("table", 2, 4).tolist() == [[2], [2]]
    assert remembered.rows("table", 2, 4) is remembered.rows("table", 2, 4)
    assert remembered.rows("table", 4, 5).tolist() == [[4]]
