"""Our outputs in mlx-lm and mlx-vlm: they load unchanged, and give the logits that our loader gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import g4convert.tests.parity.reference  # noqa: F401  # lets transformers import, as mlx-vlm does
import mlx.core as mx
import mlx_lm.utils
import mlx_vlm.utils
import numpy as np
import pytest
from g4convert.convert import Options, hf_to_mlx
from g4convert.loaders import attachments, load
from g4convert.loaders.encoding import encode
from g4convert.loaders.merge import merge
from g4convert.tests.support import CHECKPOINTS, KINDS, copy_of, saved_form

pytestmark = pytest.mark.parity

Convert = Callable[..., Path]
# Float32 on both sides; packed weights are multiplied in another order.
MARKS = {"plain": 1e-10, "4-bit": 1e-8}
OPTIONS = {"plain": {"quantize": False}, "4-bit": {}, "uniform": {"recipe": "uniform"}, "mxfp4": {"mode": "mxfp4"}}


def ids_for(folder: Path) -> mx.array:
    """Ids int64 [1, 2w + 3] of words, past the special tokens."""
    window = load(folder).config.text.sliding_window
    return mx.array(np.random.default_rng(5).integers(300, 700, 2 * window + 3))[None]


def by_mlx_lm(folder: Path, ids: mx.array) -> np.ndarray:
    model, _ = mlx_lm.utils.load_model(folder)
    return np.array(model(ids))


def by_mlx_vlm(folder: Path, ids: mx.array) -> np.ndarray:
    out = mlx_vlm.utils.load_model(folder)(ids)
    return np.array(getattr(out, "logits", out))


def nmse(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(np.square(one - other).sum() / np.square(other).sum())


def assert_same_logits(folder: Path, mark: float) -> None:
    ids = ids_for(folder)
    ours = np.array(load(folder, dtype="float32").text(ids))
    for peer in (by_mlx_lm, by_mlx_vlm):
        assert nmse(peer(folder, ids), ours) <= mark, peer.__name__


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_peers_load_it_and_agree(kind: str, options: str, converted: Convert) -> None:
    assert_same_logits(converted(kind, dtype="float32", **OPTIONS[options]), MARKS.get(options, 1e-8))


@pytest.mark.parametrize("kind", ["e2b", "e4b", "26b-a4b", "31b", "12b"])
def test_the_form_that_transformers_saves_loads_as_well(kind: str, tmp_path: Path) -> None:
    source = copy_of(kind, tmp_path / "source")
    saved_form(source)
    hf_to_mlx(source, tmp_path / "out", options=Options(dtype="float32"))

    assert_same_logits(tmp_path / "out", MARKS["4-bit"])


@pytest.mark.parametrize("modalities", [("text",), ("text", "image"), ("text", "audio")], ids="+".join)
@pytest.mark.parametrize("kind", ["e2b", "26b-a4b", "12b"])
def test_a_modality_left_out_does_not_matter_to_the_text(
    kind: str, modalities: tuple[str, ...], converted: Convert
) -> None:
    output = converted(kind, dtype="float32", modalities=modalities)

    assert_same_logits(output, MARKS["4-bit"])


@pytest.mark.parametrize("options", ["plain", "4-bit"])
@pytest.mark.parametrize("kind", ["12b", "e2b"])
def test_mlx_vlm_hears_the_same(kind: str, options: str, converted: Convert) -> None:
    """On pictures mlx-vlm 0.7.10 follows a mask that has been superseded, so sounds are compared."""
    folder = converted(kind, dtype="float32", **OPTIONS[options])
    model = load(folder, dtype="float32")
    sound = attachments(sounds=[CHECKPOINTS / "questions" / "sound-4.wav"])
    prompt = model.prompt.prepare("Is the tone high or low?", attachments=sound)
    merged = merge(model.config, np.array(prompt.ids), encode(model.network, prompt))

    ours = np.array(model.text(merged.inputs(model.text.model, 0, len(prompt.ids))))
    (clip,) = prompt.sounds
    theirs = mlx_vlm.utils.load_model(folder)(
        mx.array(prompt.ids)[None],
        input_features=mx.array(clip.features)[None],
        input_features_mask=mx.array(clip.valid)[None],
    )

    assert nmse(np.array(theirs.logits), ours) <= MARKS.get(options, 1e-8)


def test_a_peer_that_loads_another_tensor_is_noticed(converted: Convert) -> None:
    """The mark is no formality: one exchanged pair of projections is far above it."""
    folder = converted("e4b", dtype="float32", quantize=False)
    ids = ids_for(folder)
    model = load(folder, dtype="float32").text
    expected = np.array(model(ids))
    layer = model.model.layers[0].mlp

    layer.gate_proj, layer.up_proj = layer.up_proj, layer.gate_proj

    assert nmse(np.array(model(ids)), expected) > 1e-4


def test_the_samples_are_all_compared() -> None:
    assert {path.name for path in CHECKPOINTS.iterdir() if (path / "config.json").exists()} == set(KINDS)
