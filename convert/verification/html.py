"""A verification as one page: no network, no scripts, what is wrong first."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import PIL.Image
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..wording import size
from . import figures, svg
from .behaviour import QUESTIONS
from .figures import AnswerFigures, ProbeFigures, number, printable
from .outcome import Status, Verification
from .worlds import Beeps, World

TEMPLATE = "report.html.jinja"
MARKS = {Status.PASS: "\N{CHECK MARK}", Status.FAIL: "\N{BALLOT X}", Status.SKIPPED: "\N{EN DASH}"}

LAYERS, HISTOGRAM = svg.Frame(460, 190), svg.Frame(460, 190)
THUMBNAIL = 64
WORST_TENSORS = 12


def page(verification: Verification) -> str:
    """The report as HTML."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    environment.filters.update(number=number, size=size)
    template = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(template).render(
        verification=verification,
        sentence=_capitalised(figures.verdict(verification)),
        seconds=sum(step.seconds for step in verification.steps),
        wrong=[(step, check) for step in verification.steps for check in step.checks if check.findings],
        short_reason=figures.short_reason,
        marks=MARKS,
        tiles=list(_tiles(verification)),
        probes=_probes(verification),
        reference=figures.probes(verification, figures.REFERENCE, figures.BESIDE_REFERENCE),
        note=figures.note(verification),
        tensors=_tensors(verification),
        answers=[Answered(answer, list(_pictures(answer))) for answer in figures.answers(verification)],
    )


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _printable(value: Any) -> Any:
    """Names come from files of strangers; what jinja escapes may still hold what no document allows."""
    return printable(value) if type(value) is str else value


@dataclass(frozen=True)
class Tile:
    """A number that counts, and what it is."""

    title: str
    value: str
    note: str


def _tiles(verification: Verification) -> Iterator[Tile]:
    found = figures.probes(verification, figures.NUMERICS, figures.BESIDE_SOURCE)
    if found:
        yield from _fidelity_tiles(found)
    if answers := figures.answers(verification):
        right = sum(answer.right for answer in answers)
        source = sum(bool(answer.source_right) for answer in answers)
        note = "" if answers[0].source is None else f"the source: {source}"
        yield Tile("right answers", f"{right} of {len(answers)}", note)
    yield Tile("peak memory", size(verification.peak_memory), "of the whole verification")


def _fidelity_tiles(found: Sequence[ProbeFigures]) -> Iterator[Tile]:
    worst = max(found, key=lambda probe: probe.converted.logits["kl_mean"])
    floor = None if worst.floor is None else worst.floor.logits["kl_mean"]
    yield Tile(
        "mean KL, nats", number(worst.converted.logits["kl_mean"]), f"{worst.name}; bfloat16 alone {number(floor)}"
    )
    least = min(found, key=lambda probe: probe.converted.logits["top1"])
    yield Tile("same top token", f"{least.converted.logits['top1']:.1%}", f"{least.name}, the lowest of {len(found)}")
    if (pair := figures.perplexity(found)) is not None:
        yield Tile("perplexity of a text", f"{pair[1]:,.2f}", f"the source: {pair[0]:,.2f}")


@dataclass(frozen=True)
class PlottedProbe:
    """A probe with its plots."""

    figures: ProbeFigures
    layers: Markup
    kl: Markup


def _probes(verification: Verification) -> list[PlottedProbe]:
    """All plots of a kind have the same axes, so that probes can be compared."""
    found = figures.probes(verification, figures.NUMERICS, figures.BESIDE_SOURCE)
    errors = svg.LogScale.of(value for probe in found for one in _both(probe) for value in one.values)
    kls = svg.LogScale.of(max(value, 1e-9) for probe in found for one in _both_kl(probe) for value in one.values)
    return [PlottedProbe(probe, _layer_plot(probe, errors), _kl_plot(probe, kls)) for probe in found]


def _both(probe: ProbeFigures) -> list[svg.Series]:
    floor = [] if probe.floor is None else [svg.Series("source in bfloat16", "floor", probe.floor.layers)]
    return [*floor, svg.Series("converted", "converted", probe.converted.layers)]


def _both_kl(probe: ProbeFigures) -> list[svg.Series]:
    floor = [] if probe.floor is None else [svg.Series("source in bfloat16", "floor", probe.floor.kl)]
    return [*floor, svg.Series("converted", "converted", probe.converted.kl)]


def _layer_plot(probe: ProbeFigures, scale: svg.LogScale) -> Markup:
    label = f"{probe.name}: relative error after each layer"
    return svg.line_plot(LAYERS, _both(probe), scale, label=label, unit="layer")


def _kl_plot(probe: ProbeFigures, scale: svg.LogScale) -> Markup:
    label = f"{probe.name}: how often which divergence"
    return svg.histogram(HISTOGRAM, _both_kl(probe), scale, label=label, unit="KL, nats")


@dataclass(frozen=True)
class Tensors:
    """The errors of packed tensors, all as dots and the largest as a table."""

    count: int
    plot: Markup
    worst: Sequence[tuple[str, float]]


def _tensors(verification: Verification) -> Tensors | None:
    errors = figures.tensor_errors(verification)
    if not errors:
        return None
    label = "relative error of every packed tensor"
    plot = svg.strips(dict(figures.modules(errors)), label=label, unit="relative error")
    return Tensors(len(errors), plot, list(errors.items())[:WORST_TENSORS])


@dataclass(frozen=True)
class Answered:
    """A question with pictures of what it is about."""

    figures: AnswerFigures
    pictures: Sequence[Markup]


def _pictures(answer: AnswerFigures) -> Iterator[Markup]:
    """What was shown, drawn again: the questions are ours, so the page need not carry the media."""
    for question in QUESTIONS:
        if (question.text, question.answer) == (answer.question, answer.expected):
            yield from (picture for world in question.worlds for picture in _drawn(world))


def _drawn(world: World) -> list[Markup]:
    if isinstance(world, Beeps):
        return [svg.waveform(world.samples().tolist(), label=f"{world.count} {world.pitch} beeps")]
    return [_image(frame, world.kind) for frame in world.frames()]


def _image(picture: PIL.Image.Image, label: str) -> Markup:
    small = io.BytesIO()
    picture.resize((THUMBNAIL, THUMBNAIL)).save(small, "PNG", optimize=True)
    data = base64.b64encode(small.getvalue()).decode()
    return Markup('<img src="data:image/png;base64,{}" width="48" height="48" alt="{}">').format(data, label)
