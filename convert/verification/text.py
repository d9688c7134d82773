"""What the command line prints about a verification: steps, checks, findings, figures, and the verdict last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..wording import size, table
from . import figures
from .figures import ProbeFigures, number, printable
from .outcome import Check, Status, Step, Verification

# Words, not signs: every terminal shows them, and `grep FAIL` finds them.
MARKS = {Status.PASS: "pass", Status.FAIL: "FAIL", Status.SKIPPED: "skip"}
COLUMNS = ("probe", "tokens", "KL mean", "p99", "max", "top-1", "NMSE")
FLOOR = "bfloat16's KL"


def text(verification: Verification) -> str:
    """All of it, readable."""
    source = "" if verification.source is None else f", made from {verification.source}"
    blocks = [
        printable(f"{verification.model}{source}"),
        "\n".join(line for step in verification.steps for line in _step(step)),
        _comparison("Beside the source", figures.probes(verification, figures.NUMERICS, figures.BESIDE_SOURCE)),
        _comparison("Beside transformers", figures.probes(verification, figures.REFERENCE, figures.BESIDE_REFERENCE)),
        "\n".join(_closing(verification)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _step(step: Step) -> Iterator[str]:
    head = f"{MARKS[step.status]}  {step.name}"
    if step.status is Status.SKIPPED:
        yield f"{head:<36}{printable(step.checks[0].reason or '')}"
        return
    yield f"{head:<36}{step.seconds:.1f} s"
    for check in step.checks:
        yield from _check(check)


def _check(check: Check) -> Iterator[str]:
    head = f"  {MARKS[check.status]}  {check.name}"
    yield head if check.reason is None else f"{head:<36}{printable(figures.short_reason(check))}"
    for finding in check.findings:
        yield f"        {finding}"


def _comparison(title: str, probes: Sequence[ProbeFigures]) -> str:
    if not probes:
        return ""
    floors = [probe.floor for probe in probes if probe.floor is not None]
    rows = [COLUMNS, *map(_row, probes)]
    if len(floors) == len(probes):
        last = [FLOOR, *(number(floor.logits["kl_mean"]) for floor in floors)]
        rows = [(*row, value) for row, value in zip(rows, last, strict=True)]
    return "\n".join([title, *(f"  {line}" for line in table(rows))])


def _row(probe: ProbeFigures) -> tuple[str, ...]:
    logits = probe.converted.logits
    kl = (number(logits[key]) for key in ("kl_mean", "kl_p99", "kl_max"))
    return (probe.name, str(probe.tokens), *kl, f"{logits['top1']:.1%}", number(logits["nmse"]))


def _closing(verification: Verification) -> Iterator[str]:
    perplexity = figures.perplexity(figures.probes(verification, figures.NUMERICS, figures.BESIDE_SOURCE))
    if (note := figures.note(verification)) is not None:
        yield note
    if perplexity is not None:
        yield "perplexity of a text: {:,.2f}, the source's {:,.2f}".format(*reversed(perplexity))
    if answers := figures.answers(verification):
        yield f"answers: {_answers(answers)}"
    yield f"peak memory: {size(verification.peak_memory)}"
    yield f"{MARKS[verification.status]}: {figures.verdict(verification)}"


def _answers(answers: Sequence[figures.AnswerFigures]) -> str:
    right = f"{sum(answer.right for answer in answers)} of {len(answers)} are right"
    if all(answer.source is None for answer in answers):
        return right
    source = sum(bool(answer.source_right) for answer in answers)
    same = sum(bool(answer.same) for answer in answers)
    return f"{right}, the source's {source}; {same} are the same"
