"""How the conversions of mlx-lm and mlx-vlm differ from ours: exactly so, and in nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import g4convert.tests.parity.reference  # noqa: F401  # lets transformers import, as mlx-lm and mlx-vlm do
import mlx_lm
import mlx_vlm
import pytest
from g4convert.convert import Options, diff, hf_to_mlx
from g4convert.convert.comparison.outcome import Comparison, Severity
from g4convert.convert.comparison.weights import ROUNDED, SAME_VALUES
from g4convert.tests.convert.comparison.edits import lines
from g4convert.tests.parity.test_verify_peers import for_peers

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:At least one mel filter")]

# What both write into the small files, whatever the model.
RESAVED = {
    "config.json $.eos_token_id: [1, 16] -> [1, 16, 9]",
    'tokenizer.json $.post_processor: null -> {"type": "TemplateProcessing", "single": [{"Sequence": { ...',
    "tokenizer_config.json $.is_local, $.local_files_only (2)",
}


def beside(convert: Callable[..., Any], kind: str, tmp_path: Path, *, quantize: bool = True) -> Comparison:
    """Our conversion of a sample, compared with a peer's."""
    source = for_peers(kind, tmp_path / "source")
    hf_to_mlx(source, tmp_path / "ours", options=Options(quantize=quantize))
    convert(str(source), str(tmp_path / "theirs"), quantize=quantize)
    return diff(tmp_path / "ours", tmp_path / "theirs")


def of(comparison: Comparison, severity: Severity, *, tensors: bool) -> set[str]:
    """What is told in groups of this severity, without the meanings."""
    told = [line for line in lines(comparison) if line.startswith(severity.value)]
    short = [line.removeprefix(f"{severity.value} ") for line in told]
    return {line for line in short if line.startswith("tensors") is tensors}


def weights(comparison: Comparison) -> dict[str, str]:
    """What is said of every weight whose numbers were compared."""
    return {one.where: one.meaning for one in comparison.differences if "elements" in one.figures}


def test_mlx_lm_leaves_out_what_sees_and_hears(tmp_path: Path) -> None:
    found = beside(mlx_lm.convert, "e2b", tmp_path)

    files = of(found, Severity.ANSWERS, tensors=False)
    assert {line.partition(":")[0] for line in files} == {"config.json $.vision_config", "processor_config.json"}
    missing = {line for line in of(found, Severity.ANSWERS, tensors=True) if "-> nothing" in line}
    assert missing == {
        "tensors audio_tower.* (131): there -> nothing",
        "tensors embed_audio.*: there -> nothing",
        "tensors embed_vision.*: there -> nothing",
        "tensors vision_tower.* (84): there -> nothing",
    }
    assert of(found, Severity.FORM, tensors=False) > RESAVED
    assert of(found, Severity.FORM, tensors=True) == set()
    assert set(weights(found).values()) == {ROUNDED}
    assert len(weights(found)) == 53


def test_mlx_vlm_writes_a_processor_of_another_family_for_the_12b(tmp_path: Path) -> None:
    found = beside(mlx_vlm.convert, "12b", tmp_path)

    files = of(found, Severity.ANSWERS, tensors=False)
    assert "processor_config.json: nothing -> $.feature_extractor: " in " ".join(sorted(files))
    assert {line.partition(" ")[0].rstrip(":") for line in files} == {"processor_config.json"}
    assert set(weights(found).values()) == {ROUNDED}


@pytest.mark.parametrize(("kind", "packed"), [("26b-a4b", 66), ("e2b", 54)])
def test_mlx_vlm_rounds_otherwise_and_writes_the_processor_anew(kind: str, packed: int, tmp_path: Path) -> None:
    found = beside(mlx_vlm.convert, kind, tmp_path)

    assert of(found, Severity.ANSWERS, tensors=False) == set()
    assert of(found, Severity.FORM, tensors=True) == set()
    assert of(found, Severity.FORM, tensors=False) > RESAVED
    assert len(weights(found)) == packed
    assert {meaning.partition(";")[0] for meaning in weights(found).values()} == {ROUNDED}
    counted = found.counts
    assert (counted[Severity.ANSWERS], counted[Severity.FILES]) == (packed, 0)


def test_mlx_vlm_without_quantization_holds_the_same_values(tmp_path: Path) -> None:
    found = beside(mlx_vlm.convert, "e2b", tmp_path, quantize=False)

    assert found.counts[Severity.ANSWERS] == 0
    assert set(weights(found).values()) <= {SAME_VALUES}
