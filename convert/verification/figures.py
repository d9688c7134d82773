"""The figures of a verification as its reports show them: probes beside what they are compared with, and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...schemas.errors import G4ConvertError
from ..plan import inside_layer
from ..wording import count
from .checking import NEEDED
from .outcome import Check, Status, Verification

Numbers = Mapping[str, float]

NOTE = "note"

NUMERICS, REFERENCE, BEHAVIOUR, TENSORS = "numerics", "reference", "behaviour", "tensors"
BESIDE_SOURCE, BESIDE_REFERENCE, LIBRARIES = "beside the source", "beside the reference", "libraries"
ANSWERS, SOURCE_ANSWERS = "answers", "answers of the source"
TENSORS_OF_SOURCE = "tensors of the source"

TEXT_PROBE = "text"


@dataclass(frozen=True)
class Comparison:
    """One network beside another one on a probe.

    Attributes:
        logits: see `LogitDistance.figures`.
        kl: by position.
        layers: relative error of what each layer hands on; empty where only logits were compared.
        features: relative error of the features by kind of medium.
    """

    logits: Numbers
    kl: Sequence[float]
    layers: Sequence[float]
    features: Numbers

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Comparison:
        """Read what `Trace.figures` wrote."""
        return cls(
            logits=figures["logits"],
            kl=figures["kl"],
            layers=[one["relative_error"] for one in figures.get("layers", ())],
            features={kind: one["relative_error"] for kind, one in figures.get("features", {}).items()},
        )


@dataclass(frozen=True)
class ProbeFigures:
    """What a probe says: the conversion beside the source, and the floor, the source in bfloat16 beside itself."""

    name: str
    tokens: int
    converted: Comparison
    floor: Comparison | None


@dataclass(frozen=True)
class AnswerFigures:
    """A question, and what was said; `source` and `same` are None where the source was not asked."""

    question: str
    expected: str
    converted: str
    right: bool
    source: str | None = None
    source_right: bool | None = None
    same: bool | None = None


def probes(verification: Verification, step: str, name: str) -> list[ProbeFigures]:
    """The probes of a check that compares, in their order."""
    check = verification.check(step, name)
    return [] if check is None else [_probe(probe, figures) for probe, figures in check.figures.items()]


def _probe(name: str, figures: Mapping[str, Any]) -> ProbeFigures:
    converted = Comparison.of(figures["converted"])
    floor = Comparison.of(figures["bfloat16"]) if "bfloat16" in figures else None
    return ProbeFigures(name, len(converted.kl), converted, floor)


def note(verification: Verification) -> str | None:
    """What has to be known about the reference."""
    check = verification.check(REFERENCE, LIBRARIES)
    return None if check is None else check.figures.get(NOTE)


def perplexity(found: Sequence[ProbeFigures]) -> tuple[float, float] | None:
    """Of the shipped text, under the source and under the conversion."""
    logits = next((probe.converted.logits for probe in found if probe.name == TEXT_PROBE), None)
    return None if logits is None else (logits["source_perplexity"], logits["perplexity"])


def answers(verification: Verification) -> list[AnswerFigures]:
    """The questions with both answers."""
    ours, theirs = (_entries(verification.check(BEHAVIOUR, name)) for name in (ANSWERS, SOURCE_ANSWERS))
    return [_answer(entry, theirs[index] if theirs else {}) for index, entry in enumerate(ours)]


def _entries(check: Check | None) -> Sequence[Mapping[str, Any]]:
    entries: Sequence[Mapping[str, Any]] = [] if check is None else check.figures.get("answers", [])
    return entries


def _answer(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> AnswerFigures:
    return AnswerFigures(
        question=ours["question"],
        expected=ours["expected"],
        converted=ours["answer"],
        right=ours["right"],
        source=theirs.get("answer"),
        source_right=theirs.get("right"),
        same=theirs.get("same"),
    )


def tensor_errors(verification: Verification) -> Numbers:
    """The relative error of every packed tensor by its name, the largest first."""
    check = verification.check(TENSORS, TENSORS_OF_SOURCE)
    errors: Numbers = {} if check is None else check.figures.get("relative_error", {})
    return dict(sorted(errors.items(), key=lambda item: (-item[1], item[0])))


def verdict(verification: Verification) -> str:
    """The whole in one sentence, without its first word."""
    checks = verification.checks
    skipped = sum(check.status is Status.SKIPPED for check in checks)
    made = count(len(checks) - skipped, "check")
    tail = f", {skipped} skipped" if skipped else ""
    if verification.status is not Status.FAIL:
        return f"no defect found in {made}{tail}"
    failed = sum(check.status is Status.FAIL for check in checks)
    return f"{count(len(verification.findings), 'defect')} found by {failed} of {made}{tail}"


def short_reason(check: Check) -> str:
    """Why a check was skipped; what failed before has been said before."""
    reason = check.reason or ""
    return NEEDED if reason.startswith(NEEDED) else reason


def number(value: float | None) -> str:
    """Three digits, trailing zeros as well, so that columns align."""
    return "-" if value is None else f"{value:#.3g}".rstrip(".") if value else "0"


def printable(text: str) -> str:
    """A text of strangers as a line that no terminal acts on."""
    return str(G4ConvertError(text))


def modules(errors: Numbers) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Tensors that do the same in different layers: what they are called inside a layer, and each with its error."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for name, error in sorted(errors.items()):
        groups.setdefault(inside_layer(name), []).append((name, error))
    yield from groups.items()
