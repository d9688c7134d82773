"""Text-only checkpoints, as fine-tunes are saved: the language model of a sample under the text model's own names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from g4convert.convert import Options, hf_to_mlx
from g4convert.loaders import load
from g4convert.loaders.checkpoint import Checkpoint
from g4convert.tests.support import CHECKPOINTS, copy_of, read_json, read_tensors, write_tensors

Convert = Callable[..., Path]
TEXT_TYPE = {"gemma4": "gemma4_text", "gemma4_unified": "gemma4_unified_text"}


def text_only(kind: str, folder: Path) -> Path:
    """The language model of a sample, saved without its towers."""
    copy_of(kind, folder)
    document = read_json(folder / "config.json")
    text = {**document["text_config"], "model_type": TEXT_TYPE[document["model_type"]]}
    (folder / "config.json").write_text(json.dumps(text))
    (folder / "processor_config.json").unlink()
    prefix = "model.language_model."
    tensors = read_tensors(folder)
    write_tensors(
        folder, {"model." + name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
    )
    return folder


@pytest.mark.parametrize("kind", ["e2b", "26b-a4b", "31b", "12b"])
def test_it_gives_the_logits_of_the_whole_model(kind: str, converted: Convert, tmp_path: Path) -> None:
    source = text_only(kind, tmp_path / "source")
    hf_to_mlx(source, tmp_path / "out")
    ids = mx.array(np.random.default_rng(3).integers(300, 700, (1, 70)))

    alone, whole = load(tmp_path / "out"), load(converted(kind))

    np.testing.assert_array_equal(np.array(alone.text(ids)), np.array(whole.text(ids)))
    names = set(Checkpoint.open(tmp_path / "out").tensors)
    assert all(name.startswith("model.") for name in names)
    assert set(alone.config.quantization or {}) >= {name.removesuffix(".scales") for name in names if ".scales" in name}


def test_a_text_checkpoint_needs_no_processor(tmp_path: Path) -> None:
    hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=Options(quantize=False))

    assert not (tmp_path / "out" / "processor_config.json").exists()
