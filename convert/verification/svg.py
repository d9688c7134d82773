"""Plots as inline SVG, from numbers alone: pure functions that return markup. Colours come from the page's classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# What stands for zero on a logarithmic axis.
SMALLEST = 1e-12


@dataclass(frozen=True)
class Series:
    """Values under a name; `style` is a class of the page, such as `converted` or `floor`."""

    name: str
    style: str
    values: Sequence[float]


@dataclass(frozen=True)
class Frame:
    """The area of a plot inside its margins, y downwards."""

    width: float
    height: float
    left: float = 44
    right: float = 8
    top: float = 8
    bottom: float = 30

    @property
    def across(self) -> float:
        """Width of the area."""
        return self.width - self.left - self.right

    @property
    def base(self) -> float:
        """The lower edge of the area."""
        return self.height - self.bottom

    def x(self, share: float) -> float:
        """Where a share of the area's width is."""
        return self.left + share * self.across

    def y(self, share: float) -> float:
        """Where a share of the area's height is, from its lower edge."""
        return self.base - share * (self.base - self.top)


@dataclass(frozen=True)
class LogScale:
    """Whole powers of ten from `low` to `high`, as exponents."""

    low: int
    high: int

    @classmethod
    def of(cls, values: Iterable[float]) -> LogScale:
        """The decades that positive values need, one at least."""
        exponents = [math.log10(max(value, SMALLEST)) for value in values if math.isfinite(value) and value > 0]
        low, high = (math.floor(min(exponents)), math.ceil(max(exponents))) if exponents else (-1, 0)
        return cls(low, max(high, low + 1))

    def share(self, value: float) -> float:
        """Where a value is between the ends; zero and less are at the lower end."""
        exponent = math.log10(value) if value > 0 else self.low
        return min(1.0, max(0.0, (exponent - self.low) / (self.high - self.low)))

    def ticks(self, most: int = 6) -> list[int]:
        """Exponents to label."""
        step = math.ceil((self.high - self.low) / most)
        return list(range(self.low, self.high + 1, step))


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element; children and values are escaped unless they are markup. `class_` and `x_y` become `class`, `x-y`."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    opening = "".join(f' {key}="{_escaped(_short(value))}"' for key, value in pairs)
    return Markup(f"<{name}{opening}>{''.join(map(_escaped, children))}</{name}>")


def _escaped(text: object) -> Markup:
    """Names come from files of strangers: characters that no document allows are replaced."""
    if isinstance(text, Markup):
        return text
    return escape("".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(text)))


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def plot(frame: Frame, *children: str, label: str) -> Markup:
    """An image with a name for those who do not see it."""
    return tag(
        "svg", *children, class_="plot", viewBox=f"0 0 {frame.width:g} {frame.height:g}", role="img", aria_label=label
    )


def picture(frame: Frame, inner: Markup, series: Sequence[Series], style: str) -> Markup:
    """A plot as a file of its own: on white, with a legend above, and with its style inside."""
    legend, width = 18, 150
    names = [
        tag("g", tag("text", one.name, x=frame.left + index * width, y=12), class_=one.style)
        for index, one in enumerate(series)
    ]
    box = f"0 0 {frame.width:g} {frame.height + legend:g}"
    return tag(
        "svg",
        tag("style", Markup(style)),  # ours
        tag("rect", width="100%", height="100%", fill="#fff"),
        *names,
        tag("svg", inner, y=legend, width=frame.width, height=frame.height),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=box,
        width=2 * frame.width,
    )


def power(exponent: int) -> str:
    """A power of ten in digits where that is short."""
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else f"1e{exponent}"


def line_plot(frame: Frame, series: Sequence[Series], scale: LogScale, *, label: str, unit: str) -> Markup:
    """Values by index, on a logarithmic axis; each point says its value when it is pointed at."""
    longest = max((len(one.values) for one in series), default=0)
    lines = [_line(frame, one, scale, longest) for one in series]
    return plot(frame, *_rows(frame, scale), *_numbers_below(frame, longest, unit), *lines, label=label)


def _rows(frame: Frame, scale: LogScale) -> list[Markup]:
    """Horizontal lines at powers of ten."""
    found = []
    for exponent in scale.ticks():
        y = frame.y(scale.share(10.0**exponent))
        found.append(tag("line", class_="grid", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y))
        found.append(tag("text", power(exponent), x=frame.left - 6, y=y + 3.5, text_anchor="end"))
    return found


def _numbers_below(frame: Frame, count: int, unit: str) -> list[Markup]:
    """A few indices, and what they count."""
    step = max(1, math.ceil(count / 8))
    texts = [
        tag("text", str(index), x=_place(frame, index, count), y=frame.base + 14, text_anchor="middle")
        for index in range(0, count, step)
    ]
    return [*texts, tag("text", unit, x=frame.x(0.5), y=frame.height - 3, text_anchor="middle", class_="unit")]


def _place(frame: Frame, index: int, count: int) -> float:
    return frame.x((index + 0.5) / count)


def _line(frame: Frame, series: Series, scale: LogScale, count: int) -> Markup:
    points = [
        (_place(frame, index, count), frame.y(scale.share(value)), value)
        for index, value in enumerate(series.values)
        if math.isfinite(value)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = [
        tag("circle", tag("title", f"{series.name}, {index}: {value:.3g}"), cx=x, cy=y, r=2.6)
        for index, (x, y, value) in enumerate(points)
    ]
    return tag("g", tag("polyline", points=path), *dots, class_=series.style)


def histogram(
    frame: Frame, series: Sequence[Series], scale: LogScale, *, label: str, unit: str, per_decade: int = 3
) -> Markup:
    """How often values fall into steps of a logarithmic axis, as shares of all values of a series."""
    shares = [(one, _shares(one.values, scale, per_decade)) for one in series]
    highest = max((share for _, found in shares for share in found), default=0.0) or 1.0
    bars = [_bars(frame, one, found, highest) for one, found in shares]
    ticks = [_decade(frame, exponent, scale) for exponent in scale.ticks()]
    top = [
        tag("text", f"{highest:.0%}", x=frame.left - 6, y=frame.y(1) + 4, text_anchor="end"),
        tag("text", "0", x=frame.left - 6, y=frame.base + 3.5, text_anchor="end"),
        tag("text", unit, x=frame.x(0.5), y=frame.height - 3, text_anchor="middle", class_="unit"),
    ]
    base = tag("line", class_="axis", x1=frame.left, x2=frame.width - frame.right, y1=frame.base, y2=frame.base)
    return plot(frame, *bars, base, *ticks, *top, label=label)


def _decade(frame: Frame, exponent: int, scale: LogScale) -> Markup:
    """A label below a histogram; what is smaller than the first counts there."""
    sign = "\N{LESS-THAN OR EQUAL TO}" if exponent == scale.low else ""
    x = frame.x(scale.share(10.0**exponent))
    return tag("text", sign + power(exponent), x=x, y=frame.base + 14, text_anchor="middle")


def _shares(values: Sequence[float], scale: LogScale, per_decade: int) -> list[float]:
    """The share of the values in each step; what is below the first or above the last counts there."""
    steps = (scale.high - scale.low) * per_decade
    counts = [0] * steps
    for value in values:
        counts[min(steps - 1, int(scale.share(value) * steps))] += 1
    return [number / max(1, len(values)) for number in counts]


def _bars(frame: Frame, series: Series, shares: Sequence[float], highest: float) -> Markup:
    width = frame.across / len(shares)
    bars = [
        tag(
            "rect",
            tag("title", f"{series.name}: {share:.1%}"),
            x=frame.left + index * width + 0.5,
            y=frame.y(share / highest),
            width=width - 1,
            height=frame.base - frame.y(share / highest),
        )
        for index, share in enumerate(shares)
        if share
    ]
    return tag("g", *bars, class_=series.style)


def strips(groups: Mapping[str, Sequence[tuple[str, float]]], *, label: str, unit: str) -> Markup:
    """A row of dots for each group, by their values from zero; each says its name when it is pointed at."""
    frame = Frame(width=720, height=40 + 20 * len(groups), left=200, right=24, bottom=32)
    ticks = round_ticks(max((value for dots in groups.values() for _, value in dots), default=0.0))
    rows = [_strip(frame, 18 + 20 * index, name, dots, ticks[-1]) for index, (name, dots) in enumerate(groups.items())]
    places = [(f"{tick:.3g}", frame.x(tick / ticks[-1])) for tick in ticks]
    numbers = [tag("text", number, x=x, y=frame.base + 14, text_anchor="middle") for number, x in places]
    below = tag("text", unit, x=frame.x(0.5), y=frame.height - 3, text_anchor="middle", class_="unit")
    return plot(frame, *rows, *numbers, below, label=label)


def round_ticks(highest: float) -> list[float]:
    """From 0 to at least `highest` in four to eight steps of 1, 2 or 5 times a power of ten."""
    if not 0 < highest < math.inf:
        return [0.0, 1.0]
    unit = 10.0 ** math.floor(math.log10(highest))
    step = next(unit * factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0) if highest <= 8 * unit * factor)
    return [step * index for index in range(math.ceil(highest / step * (1 - 1e-9)) + 1)]


def _strip(frame: Frame, y: float, name: str, dots: Sequence[tuple[str, float]], highest: float) -> Markup:
    title = tag("text", name, x=frame.left - 12, y=y + 3.5, text_anchor="end")
    line = tag("line", class_="grid", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y)
    labels = [(tag("title", f"{one}: {value:.3g}"), value / highest) for one, value in dots]
    circles = [tag("circle", label, cx=frame.x(share), cy=y, r=4) for label, share in labels]
    return tag("g", title, line, *circles, class_="strip")


def waveform(samples: Sequence[float], *, label: str, columns: int = 72) -> Markup:
    """The loudness of a sound over time, as a row of bars."""
    frame = Frame(width=96, height=48, left=0, right=0, top=0, bottom=0)
    size = max(1, len(samples) // columns)
    loudness = [max(abs(value) for value in samples[start : start + size]) for start in range(0, len(samples), size)]
    highest = max(loudness, default=0.0) or 1.0
    bars = [_loud(frame, index / len(loudness), value / highest) for index, value in enumerate(loudness)]
    return plot(frame, *bars, label=label)


def _loud(frame: Frame, place: float, value: float) -> Markup:
    height = 2 + 0.8 * value * frame.height
    return tag("rect", x=frame.x(place), y=(frame.height - height) / 2, width=0.9, height=height)
