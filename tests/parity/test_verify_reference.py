"""The step `reference` of a verification: transformers 5.23 in float32 beside the conversion."""

from __future__ import annotations

import builtins
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g4convert.convert.source import open_source
from g4convert.convert.verification import reference as module
from g4convert.convert.verification.checking import take_step
from g4convert.convert.verification.limits import Limits
from g4convert.convert.verification.outcome import Check, Status
from g4convert.convert.verification.probes import Probe, make_probes
from g4convert.convert.verification.reference import reference_checks, reference_inputs
from g4convert.convert.verification.run import verify
from g4convert.convert.verification.subject import Subject
from g4convert.loaders.prompt import PromptFormat
from g4convert.tests.parity import media_prompts, reference
from g4convert.tests.parity.media_prompts import Clip, Picture, Sound
from g4convert.tests.support import CHECKPOINTS, KINDS, edit_tensors

pytestmark = pytest.mark.parity

Convert = Callable[..., Path]
Checks = Mapping[str, Check]


def checks(folder: Path, kind: str, *, asked: bool = True, limits: Limits | None = None) -> Checks:
    subject = Subject(folder, open_source(CHECKPOINTS / kind))
    functions = reference_checks(subject, limits or Limits(), asked=asked)
    return {check.name: check for check in take_step("reference", functions, subject, set()).checks}


def logits(check: Check, probe: str) -> Mapping[str, float]:
    figures: Mapping[str, float] = check.figures[probe]["converted"]["logits"]
    return figures


@pytest.mark.parametrize("kind", KINDS)
def test_an_unquantized_conversion_computes_what_transformers_computes(kind: str, converted: Convert) -> None:
    found = checks(converted(kind, quantize=False), kind)["beside the reference"]

    assert [str(finding) for finding in found.findings] == []
    assert found.status is Status.PASS
    assert "text" in found.figures
    for probe in found.figures:
        assert logits(found, probe)["nmse"] <= reference.LARGEST_NMSE
        assert logits(found, probe)["kl_mean"] <= reference.LARGEST_KL
        assert logits(found, probe)["top1"] == 1


def test_a_quantized_conversion_is_judged_by_its_divergence(converted: Convert) -> None:
    sound = checks(converted("text"), "text")["beside the reference"]
    strict = checks(converted("text"), "text", limits=Limits(max_kl=0.1))["beside the reference"]

    assert sound.status is Status.PASS
    assert logits(sound, "text")["kl_mean"] > 0.1
    assert [finding.where for finding in strict.findings] == ["text"]


def test_the_whole_verification_takes_the_step(converted: Convert) -> None:
    found = verify(converted("text", quantize=False), source=CHECKPOINTS / "text", reference="transformers")

    check = found.check("reference", "libraries")
    assert check is not None
    assert found.status is Status.PASS
    assert check.figures["transformers"].startswith("5.23.")
    assert "note" not in check.figures


def test_another_version_is_said_and_is_no_defect(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda name: "5.2.3")

    found = checks(converted("text", quantize=False), "text")["libraries"]

    assert found.status is Status.PASS
    assert found.figures["note"] == "transformers 5.2.3 may compute otherwise than 5.23"


def test_without_the_libraries_the_step_is_skipped(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *_: Any) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(module, "import_module", missing)

    found = checks(converted("text"), "text")

    assert {check.status for check in found.values()} == {Status.SKIPPED}
    reason = "needs torch and transformers, g4convert[parity] brings them: No module named 'torch'"
    assert {check.reason for check in found.values()} == {reason}


def test_what_was_not_asked_for_imports_nothing(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def guarded(name: str, *rest: Any, **options: Any) -> Any:
        assert name.partition(".")[0] not in ("torch", "transformers")
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", guarded)
    found = checks(converted("text"), "text", asked=False)

    assert {check.reason for check in found.values()} == {"not asked for"}


# -- a mistake shows ---------------------------------------------------------------------------------------------------


def one_probe(name: str) -> Callable[[PromptFormat], list[Probe]]:
    return lambda prompt: [probe for probe in make_probes(prompt) if probe.name == name]


def failed(folder: Path, kind: str, probe: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(module, "make_probes", one_probe(probe))
    return checks(folder, kind)["beside the reference"].status is Status.FAIL


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("e2b", "language_model.model.layers.1.self_attn.k_norm.weight"),
        ("26b-a4b", "language_model.model.layers.3.router.per_expert_scale"),
    ],
)
def test_a_weight_that_is_another_one_shows(
    kind: str, name: str, converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(converted(kind, quantize=False), tmp_path / "model"))

    def edit(tensors: Any) -> None:
        tensors[name] = tensors[name][::-1].copy()

    assert not failed(folder, kind, "text", monkeypatch)
    edit_tensors(folder, edit)
    assert failed(folder, kind, "text", monkeypatch)


def test_the_masks_of_forward_alone_are_not_those_of_the_unified_model(
    converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "own_masks", lambda *_: {})

    assert failed(converted("12b", quantize=False), "12b", "image", monkeypatch)


def test_padding_that_counts_shows(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    original = reference_inputs

    def heard(*arguments: Any) -> Any:
        inputs = original(*arguments)
        return {**inputs, "input_features": inputs["input_features"] + 1}

    monkeypatch.setattr(module, "reference_inputs", heard)

    assert failed(converted("e2b", quantize=False), "e2b", "audio", monkeypatch)


@pytest.mark.parametrize("kind", ["e2b", "26b-a4b", "12b"])
def test_inputs_are_those_of_the_parity_tests(kind: str, converted: Convert) -> None:
    subject = Subject(converted(kind, quantize=False))
    parts = [5, Clip(4, 3, 2), 4, Picture(6, 6), Picture(3, 2), 9]
    if subject.config.audio is not None:
        parts += [Sound(9000), 3, Sound(6000), 2]
    prompt = media_prompts.build(kind, subject.prompt, parts)

    found, expected = reference_inputs(subject.config, prompt), media_prompts.reference_inputs(kind, prompt)

    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert np.array_equal(found[name].numpy(), tensor.numpy()), name


def test_a_text_model_is_given_no_token_types(converted: Convert) -> None:
    subject = Subject(converted("text"))
    (probe,) = make_probes(subject.prompt)

    assert list(reference_inputs(subject.config, replace(probe.prompt, ids=(2, 5)))) == ["input_ids"]
