"""What a card says of a verification; no times, paths or names of people, so that the same checkpoint says the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...model_cards.card import Plot, StepResult, Verified
from ..source import PLOT
from ..verification import figures, svg
from ..verification.figures import ProbeFigures, number
from ..verification.outcome import Status, Step, Verification
from ..wording import count

COLUMNS = ("probe", "tokens", "KL mean", "KL p99", "same top token", "bfloat16's KL")
FRAME = svg.Frame(460, 190)
IN_SPITE = "**Published in spite of what follows.** "
# What a page says of colours stands in the picture itself, which is shown on white.
STYLE = """
text { font: 10px system-ui, sans-serif; fill: #555; }
.grid { stroke: #e3e3e3; }
.converted polyline { fill: none; stroke: #2440b0; stroke-width: 2; }
.converted circle, .converted text { fill: #2440b0; }
.floor polyline { fill: none; stroke: #a8700c; stroke-width: 1.6; stroke-dasharray: 5 4; }
.floor circle, .floor text { fill: #a8700c; }
"""


def verified(verification: Verification) -> Verified:
    """The section's contents."""
    probes = figures.probes(verification, figures.NUMERICS, figures.BESIDE_SOURCE)
    return Verified(
        verdict=_verdict(verification),
        steps=[_result(step) for step in verification.steps],
        defects=[str(finding) for finding in verification.findings],
        columns=COLUMNS,
        probes=[_row(probe) for probe in probes],
        lines=list(_lines(verification, probes)),
        plot=None if plotted(verification) is None else Plot(PLOT, "Relative error after each layer"),
    )


def _verdict(verification: Verification) -> str:
    said = f"g4convert {verification.version}: {figures.verdict(verification)}."
    failed = verification.status is Status.FAIL
    return f"{IN_SPITE}{said}" if failed else f"{said}{_beside(verification.source)}"


def _beside(source: str | None) -> str:
    """What it was compared with; the name of a folder is nobody's business."""
    if source is None:
        return ""
    return f" Compared with {source}." if "/" in source else " Compared with its source."


def _result(step: Step) -> StepResult:
    made = [check for check in step.checks if check.status is not Status.SKIPPED]
    if not made:
        return StepResult(step.name, step.status.value, figures.short_reason(step.checks[0]))
    return StepResult(step.name, step.status.value, f"{count(len(made), 'check')}: {', '.join(c.name for c in made)}")


def _row(probe: ProbeFigures) -> Sequence[str]:
    logits = probe.converted.logits
    floor = None if probe.floor is None else probe.floor.logits["kl_mean"]
    values = (number(logits["kl_mean"]), number(logits["kl_p99"]), f"{logits['top1']:.1%}", number(floor))
    return (probe.name, str(probe.tokens), *values)


def _lines(verification: Verification, probes: Sequence[ProbeFigures]) -> Iterator[str]:
    if (pair := figures.perplexity(probes)) is not None:
        yield f"Perplexity of a text: {pair[1]:,.2f}; the source's is {pair[0]:,.2f}."
    if answers := figures.answers(verification):
        right, asked = sum(answer.right for answer in answers), len(answers)
        source = sum(bool(answer.source_right) for answer in answers)
        beside = "" if answers[0].source is None else f"; the source's: {source}"
        yield f"Right answers to questions about pictures, sounds, clips and texts: {right} of {asked}{beside}."


def plotted(verification: Verification) -> str | None:
    """How the error grows from layer to layer, as an SVG file; None where none was measured."""
    probes = figures.probes(verification, figures.NUMERICS, figures.BESIDE_SOURCE)
    probe = next((one for one in probes if one.name == figures.TEXT_PROBE and any(one.converted.layers)), None)
    if probe is None:
        return None
    series = [svg.Series("this checkpoint", "converted", probe.converted.layers)]
    if probe.floor is not None:
        series.insert(0, svg.Series("the source in bfloat16", "floor", probe.floor.layers))
    scale = svg.LogScale.of(value for one in series for value in one.values)
    plot = svg.line_plot(FRAME, series, scale, label="relative error after each layer", unit="layer")
    return f"{svg.picture(FRAME, plot, series, STYLE)}\n"
