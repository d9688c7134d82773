"""What a checkpoint computes, by itself and beside its source: sound ones pass, mistakes are named."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g4convert.convert import Options, hf_to_mlx
from g4convert.convert.source import open_source
from g4convert.convert.verification import numerics as module
from g4convert.convert.verification.checking import take_step
from g4convert.convert.verification.compare import LogitComparison, LogitDistance, distance
from g4convert.convert.verification.limits import Limits, judge
from g4convert.convert.verification.numerics import numerics
from g4convert.convert.verification.outcome import Check, Status, Verification
from g4convert.convert.verification.probes import Probe, make_probes, shipped_text
from g4convert.convert.verification.subject import Subject
from g4convert.convert.verification.weights import SourceWeights
from g4convert.loaders.cache import SlidingCache
from g4convert.loaders.prompt import PromptFormat
from g4convert.loaders.streaming import Parameters
from g4convert.tests.support import CHECKPOINTS, edit_json, edit_tensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

Convert = Callable[..., Path]
Checks = Mapping[str, Check]

NAMES = ["finite", "chunks and single tokens", "media matter", "beside the source"]


def subject(folder: Path, kind: str | None = None) -> Subject:
    return Subject(folder, None if kind is None else open_source(CHECKPOINTS / kind))


def checks(of: Subject, limits: Limits | None = None) -> Checks:
    return {check.name: check for check in take_step("numerics", numerics(of, limits or Limits()), of, set()).checks}


def failed(found: Checks) -> list[str]:
    return [name for name, check in found.items() if check.status is Status.FAIL]


def whats(check: Check) -> list[str]:
    return [str(finding) for finding in check.findings]


@pytest.fixture
def copy(converted: Convert, tmp_path: Path) -> Callable[..., Path]:
    """A converted sample of one's own, to break."""
    return lambda kind, **options: Path(shutil.copytree(converted(kind, **options), tmp_path / kind))


def only(*names: str) -> Callable[[PromptFormat], list[Probe]]:
    """Some probes: all of them take long."""
    return lambda prompt: [probe for probe in make_probes(prompt) if probe.name in names]


@pytest.fixture
def images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and a picture, no clips."""
    monkeypatch.setattr(module, "make_probes", only("text", "image"))


# -- sound conversions -------------------------------------------------------------------------------------------------


def test_the_trained_sample_at_4_bits_is_near_its_source_and_further_than_bfloat16(verified: Verification) -> None:
    check = verified.check("numerics", "beside the source")
    assert check is not None
    for name, figures in check.figures.items():
        ours, floor = figures["converted"], figures["bfloat16"]
        assert len(ours["kl"]) == len(floor["kl"])
        assert len(ours["layers"]) == len(floor["layers"]) == 6, name
        assert 1e-3 < ours["logits"]["kl_mean"] < 0.1
        assert floor["logits"]["kl_mean"] < 1e-4
        assert ours["logits"]["top1"] > 0.7
        assert all(layer["relative_error"] > below["relative_error"] for layer, below in both_layers(figures))


def both_layers(figures: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return list(zip(figures["converted"]["layers"], figures["bfloat16"]["layers"], strict=True))


def test_every_check_is_made(verified: Verification) -> None:
    (step,) = (step for step in verified.steps if step.name == "numerics")

    assert [check.name for check in step.checks] == NAMES
    assert {check.status for check in step.checks} == {Status.PASS}


def test_an_unquantized_conversion_is_its_source(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_probes", only("text", "combined"))

    found = checks(subject(converted("12b", quantize=False), "12b"))

    assert failed(found) == []
    assert list(found["beside the source"].figures) == ["text", "combined"]
    assert set(found["beside the source"].figures["combined"]["converted"]["features"]) == {"image", "audio", "video"}
    for figures in found["beside the source"].figures.values():
        assert figures["converted"]["logits"]["nmse"] == 0
        assert figures["converted"]["logits"]["top1"] == 1
        assert figures["converted"]["kl"] == [0.0] * len(figures["converted"]["kl"])
        assert figures["bfloat16"]["logits"]["kl_mean"] > 0


@pytest.mark.usefixtures("images_only")
def test_the_trained_sample_unquantized_is_its_source(converted: Convert) -> None:
    found = checks(subject(converted("e2b", quantize=False), "e2b"))

    assert failed(found) == []
    for figures in found["beside the source"].figures.values():
        assert figures["converted"]["logits"]["nmse"] == 0


def test_what_cannot_be_checked_is_skipped_with_the_reason(converted: Convert) -> None:
    found = checks(subject(converted("text")))

    assert failed(found) == []
    assert found["media matter"].reason == "the model takes text only"
    assert found["beside the source"].reason == "no source was given"


def test_a_narrower_dtype_is_judged_by_its_divergence(converted: Convert) -> None:
    found = checks(subject(converted("text", quantize=False, dtype="float16"), "text"))

    assert failed(found) == []
    assert found["beside the source"].figures["text"]["converted"]["logits"]["nmse"] > 0


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("text", ["text"]),
        ("12b", ["text", "image", "audio", "video", "combined"]),
    ],
)
def test_there_is_a_probe_for_all_that_a_model_takes(kind: str, names: list[str], converted: Convert) -> None:
    probes = make_probes(subject(converted(kind)).prompt)

    assert [probe.name for probe in probes] == names
    for probe in probes[1:]:
        assert probe.other is not None
        assert len(probe.prompt.images) == len(probe.other.images)
        assert probe.prompt is not probe.other


def test_all_probes_go_through_a_layer_of_the_source_together(
    converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[int] = Counter()
    read = SourceWeights.parameters

    def counted(weights: SourceWeights, names: Sequence[str]) -> Parameters:
        if match := re.match(r"language_model\.model\.layers\.(\d+)\.", names[0]):
            reads[int(match[1])] += 1
        return read(weights, names)

    monkeypatch.setattr(SourceWeights, "parameters", counted)
    one = subject(converted("12b"), "12b")
    found = checks(one)

    assert len(found["beside the source"].figures) == 5
    assert reads == dict.fromkeys(range(len(one.config.text.layers)), 1)


def test_the_text_goes_beyond_the_window(converted: Convert) -> None:
    prompt = subject(converted("text")).prompt

    (probe,) = make_probes(prompt)

    assert len(probe.prompt.ids) == prompt.config.text.sliding_window + 64
    assert 1000 < len(shipped_text().split()) < 1300


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_weight_that_is_no_number_names_the_layer(copy: Callable[..., Path]) -> None:
    folder = copy("text", quantize=False)
    edit_tensors(folder, lambda tensors: tensors["model.layers.4.self_attn.q_norm.weight"].fill(np.nan))

    found = checks(subject(folder, "text"))

    assert failed(found) == ["finite"]
    assert whats(found["finite"]) == ["text: layer 4 gives numbers that are not finite"]
    assert found["chunks and single tokens"].reason == "no probe gave finite numbers"
    assert found["beside the source"].reason == "no probe gave finite numbers"


def test_a_final_norm_that_is_no_number(copy: Callable[..., Path]) -> None:
    folder = copy("text")
    edit_tensors(folder, lambda tensors: tensors["model.norm.weight"].fill(np.inf))

    assert whats(checks(subject(folder))["finite"]) == ["text: the logits are not finite"]


@pytest.mark.usefixtures("images_only")
def test_features_that_are_no_numbers(copy: Callable[..., Path]) -> None:
    folder = copy("12b")
    edit_tensors(folder, lambda tensors: tensors["embed_vision.embedding_projection.weight"].fill(np.nan))

    found = checks(subject(folder, "12b"))

    assert whats(found["finite"]) == ["image: the features of image are not finite"]
    assert list(found["beside the source"].figures) == ["text"]


@pytest.mark.usefixtures("images_only")
def test_an_embedder_of_zeros_leaves_no_effect_of_pictures(copy: Callable[..., Path]) -> None:
    folder = copy("12b")
    edit_tensors(folder, lambda tensors: tensors["embed_vision.embedding_projection.weight"].fill(0))

    found = checks(subject(folder))

    assert failed(found) == ["media matter"]
    assert found["media matter"].figures["image"] < 1e-3
    assert whats(found["media matter"])[0].startswith("image: other media change the hidden state by 0")


def test_a_wrong_rotary_base_shows_beside_the_source(copy: Callable[..., Path]) -> None:
    folder = copy("text", quantize=False)

    def edit(document: Any) -> None:
        document["rope_parameters"]["sliding_attention"]["rope_theta"] = 1_000_000.0

    edit_json(folder / "config.json", edit)

    found = checks(subject(folder, "text"))

    assert failed(found) == ["beside the source"]
    assert whats(found["beside the source"])[0].startswith("text: the logits differ by NMSE ")


def test_rows_in_another_order_show_beside_the_source_at_4_bits(copy: Callable[..., Path]) -> None:
    folder = copy("text", bits=8)

    def edit(tensors: Any) -> None:
        for leaf in ("weight", "scales", "biases"):
            name = f"model.layers.0.mlp.down_proj.{leaf}"
            tensors[name] = tensors[name][::-1].copy()

    edit_tensors(folder, edit)

    assert failed(checks(subject(folder, "text"))) == ["beside the source"]


def test_a_cache_that_forgets_shows_in_chunks(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    original = SlidingCache.__init__
    monkeypatch.setattr(SlidingCache, "__init__", lambda cache, window, slack: original(cache, window - 8, slack))

    found = checks(subject(converted("text")))

    assert failed(found) == ["chunks and single tokens"]
    assert [what.split(" the hidden states")[0] for what in whats(found["chunks and single tokens"])] == [
        "text: in chunks",
        "text: in single tokens",
    ]


# -- limits ------------------------------------------------------------------------------------------------------------


def logits(**values: Any) -> LogitDistance:
    sound: dict[str, Any] = {"nmse": 0.0, "kl": np.zeros(4), "top1": 1.0, "perplexity": 9.0, "source_perplexity": 9.0}
    return LogitDistance(**{**sound, **values})


QUANTIZED: dict[str, Any] = {}
PLAIN: dict[str, Any] = {"quantize": False}
CAST: dict[str, Any] = {"quantize": False, "dtype": "float16"}
TWO_BITS: dict[str, Any] = {"bits": 2}


FAR = "the mean divergence from the source is {} nats, allowed is {}"


@pytest.mark.parametrize(
    ("options", "limits", "found", "what"),
    [
        (PLAIN, Limits(), logits(), None),
        (PLAIN, Limits(), logits(nmse=2e-10), "the logits differ by NMSE 2.0e-10, allowed is 1e-10"),
        (PLAIN, Limits(), logits(nmse=np.nan), "the logits differ by NMSE nan, allowed is 1e-10"),
        (PLAIN, Limits(), logits(top1=0.99), "the most likely token is the source's at 99.00% of the positions only"),
        (PLAIN, Limits(max_kl=5), logits(nmse=2e-10), "the logits differ by NMSE 2.0e-10, allowed is 1e-10"),
        (CAST, Limits(), logits(nmse=1e-6, kl=np.full(4, 0.001)), None),
        (CAST, Limits(), logits(kl=np.full(4, 0.02)), FAR.format(0.02, 0.01)),
        (CAST, Limits(max_kl=0.1), logits(kl=np.full(4, 0.02)), None),
        (QUANTIZED, Limits(), logits(kl=np.full(4, 4.9)), None),
        (QUANTIZED, Limits(), logits(kl=np.full(4, 5.1)), FAR.format(5.1, 5)),
        (QUANTIZED, Limits(max_kl=0.5), logits(kl=np.full(4, 0.6)), FAR.format(0.6, 0.5)),
        (QUANTIZED, Limits(), logits(kl=np.full(4, np.nan)), FAR.format("nan", 5)),
        (TWO_BITS, Limits(), logits(kl=np.full(4, 9)), None),
        (TWO_BITS, Limits(max_kl=8), logits(kl=np.full(4, 9)), FAR.format(9, 8)),
    ],
)
def test_limits(
    options: Mapping[str, Any], limits: Limits, found: LogitDistance, what: str | None, converted: Convert
) -> None:
    of = subject(converted("text", **options), "text")
    assert of.source is not None

    assert [finding.what for finding in judge(of, of.source, limits, "text", found)] == ([] if what is None else [what])


def test_a_source_in_float32_may_stay_so(tmp_path: Path) -> None:
    hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=Options(quantize=False, dtype="float32"))
    of = subject(tmp_path / "out", "text")
    assert of.source is not None

    assert list(judge(of, of.source, Limits(), "text", logits(nmse=1e-9)))


# -- arithmetic --------------------------------------------------------------------------------------------------------

ROWS, COLUMNS = 5, 12
LOGITS = arrays(np.float32, (ROWS, COLUMNS), elements=st.floats(-30, 30, width=32))


@given(
    source=LOGITS, ours=LOGITS, cut=st.integers(1, COLUMNS - 1), ids=arrays(np.int64, ROWS, elements=st.integers(0, 11))
)
def test_a_comparison_in_pieces_is_the_softmax_of_the_whole(
    source: np.ndarray, ours: np.ndarray, cut: int, ids: np.ndarray
) -> None:
    comparison = LogitComparison(ids)
    for start, stop in ((0, cut), (cut, COLUMNS)):
        comparison.add(start, source[:, start:stop], ours[:, start:stop])
    found = comparison.result()

    p, q = log_softmax(source), log_softmax(ours)
    rows, targets = np.arange(ROWS - 1), ids[1:]
    assert np.allclose(found.kl, (np.exp(p) * (p - q)).sum(-1), atol=1e-10)
    assert found.top1 == (source.argmax(-1) == ours.argmax(-1)).mean()
    assert found.perplexity == pytest.approx(np.exp(-q[rows, targets].mean()))
    assert found.source_perplexity == pytest.approx(np.exp(-p[rows, targets].mean()))
    power = (source.astype(float) ** 2).sum()
    error = ((source.astype(float) - ours) ** 2).sum()
    assert found.nmse == pytest.approx(error / power if power else error)


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values.astype(np.float64) - values.max(-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


@given(values=LOGITS)
def test_equal_logits_are_no_divergence(values: np.ndarray) -> None:
    comparison = LogitComparison(np.arange(ROWS))
    comparison.add(0, values, values)
    found = comparison.result()

    assert (found.nmse, found.top1, found.kl.max()) == (0, 1, 0)


def test_distance() -> None:
    found = distance(np.array([3.0, 4.0]), np.array([3.0, 0.0]))

    assert found.relative_error == pytest.approx(4 / 3)
    assert found.cosine == pytest.approx(0.6)
    assert distance(np.zeros(2), np.zeros(2)).relative_error == 0
