"""The page: everything is in it, nothing is outside of it, and nobody's names are markup."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from g4convert.convert.verification import svg
from g4convert.convert.verification.behaviour import QUESTIONS
from g4convert.convert.verification.html import page
from g4convert.convert.verification.outcome import Check, Finding, Status, Step, Verification
from g4convert.convert.verification.svg import Frame, LogScale, Series
from g4convert.convert.verification.text import text as as_text
from g4convert.tests.support import TESTS
from hypothesis import given
from hypothesis import strategies as st

HOSTILE = "model.<script>alert('1')</script>\x1b[31m\x00&amp;\"'"
FRAME = Frame(100, 50, left=10, right=10, top=10, bottom=10)

ROOT = TESTS.parent
VOID = {"meta", "img"}
LINKS = {"src", "href", "srcset", "poster", "data", "action", "xlink:href", "background"}


class Page(HTMLParser):
    """What a browser sees: tags, attributes, text; tags must be closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.texts))


def failed(*findings: Finding, name: str = "model") -> Verification:
    """A verification with these findings."""
    check = Check("config", Status.FAIL, findings)
    skipped = Check("values", Status.SKIPPED, reason="needs what failed before: config.json: is wrong")
    return Verification(name, None, (Step("files", (check, skipped)), Step("tensors", (skipped,))), 10**9, "1.0")


@pytest.fixture(scope="module")
def text(verified: Verification) -> str:
    return page(verified)


@pytest.fixture(scope="module")
def parsed(text: str) -> Page:
    return Page(text)


def test_nothing_is_fetched_and_nothing_runs(text: str, parsed: Page) -> None:
    links = [value for name, value in parsed.attributes if name in LINKS]

    assert links
    assert all(value.startswith("data:image/png;base64,") for value in links)
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(parsed.tags)
    assert not any(name.startswith("on") for name, _ in parsed.attributes)


def test_every_step_check_probe_and_question_is_there(verified: Verification, parsed: Page) -> None:
    for step in verified.steps:
        assert step.name in parsed.texts
        if step.status is not Status.SKIPPED:
            assert all(check.name in parsed.texts for check in step.checks)
    assert "not asked for" in parsed.texts
    assert {"text", "image", "audio"} <= set(parsed.texts)
    assert all(question.text in parsed.texts for question in QUESTIONS)


def test_the_numbers_that_matter_are_there(verified: Verification, parsed: Page) -> None:
    check = verified.check("numerics", "beside the source")
    assert check is not None
    for figures in check.figures.values():
        logits: Any = figures["converted"]["logits"]
        assert f"{logits['kl_mean']:#.3g}" in parsed.texts
        assert f"{100 * logits['top1']:.1f} %" in parsed.texts
        assert f"{figures['bfloat16']['logits']['kl_mean']:#.3g}" in parsed.texts
    assert f"{check.figures['text']['converted']['logits']['perplexity']:,.2f}" in parsed.texts
    assert "11 of 11" in parsed.texts


def test_plots_are_drawn_from_the_figures(verified: Verification, text: str) -> None:
    plots = [ElementTree.fromstring(plot) for plot in re.findall(r'<svg class="plot".*?</svg>', text, re.DOTALL)]
    labels = [plot.get("aria-label") or "" for plot in plots]

    for probe in ("text", "image", "audio"):
        assert f"{probe}: relative error after each layer" in labels
        assert f"{probe}: how often which divergence" in labels
    layers = plots[labels.index("text: relative error after each layer")]
    titles = [title.text or "" for title in layers.iter("title")]
    assert [title.startswith("converted, ") for title in titles].count(True) == 6
    tensors = plots[labels.index("relative error of every packed tensor")]
    assert sum(1 for _ in tensors.iter("circle")) == 52


def test_what_was_shown_is_drawn(parsed: Page) -> None:
    alternatives = [value for name, value in parsed.attributes if name == "alt"]

    assert alternatives.count("image") == 5
    assert alternatives.count("video") == 9
    assert ("aria-label", "3 low beeps") in parsed.attributes


def test_a_page_of_a_failure_begins_with_what_is_wrong(verified: Verification) -> None:
    finding = Finding("is another one", "config.json", "convert again")
    shown = Page(page(failed(finding))).text

    assert shown.index("config.json") < shown.index("What was checked")
    assert ": is another one ; convert again" in shown
    assert "1 defect found by 1 of 1 check, 2 skipped." in shown
    assert "What is wrong" not in Page(page(verified)).text


def test_a_hostile_name_is_text() -> None:
    verification = failed(Finding(HOSTILE, HOSTILE, HOSTILE), name=HOSTILE)
    figures = {"relative_error": {HOSTILE: 0.1}}
    answer = {"question": HOSTILE, "expected": HOSTILE, "answer": HOSTILE, "right": True}
    steps = (
        Step("tensors", (Check("tensors of the source", Status.PASS, figures=figures),)),
        Step("behaviour", (Check("answers", Status.PASS, figures={"answers": [answer]}),)),
        Step(HOSTILE, (Check(HOSTILE, Status.SKIPPED, reason=HOSTILE),)),
    )
    text = page(replace(verification, source=HOSTILE, steps=(*verification.steps, *steps)))
    parsed = Page(text)

    assert "script" not in parsed.tags
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\x00" not in text
    assert parsed.text.count("<script>alert('1')</script>") >= 8


def test_a_verification_without_figures_is_a_page() -> None:
    assert "No defect found in 0 checks." in Page(page(Verification("model", None, (), 0, "1.0"))).text


def test_a_conversion_that_changes_nothing_is_a_page(verified: Verification) -> None:
    comparison = {
        "logits": dict.fromkeys(
            ("nmse", "kl_mean", "kl_median", "kl_p99", "kl_max", "top1", "perplexity", "source_perplexity"), 0.0
        ),
        "kl": [0.0] * 9,
        "layers": [{"relative_error": 0.0, "cosine": 1.0}] * 60,
        "features": {},
    }
    check = Check("beside the source", Status.PASS, figures={"text": {"converted": comparison}})

    shown = Page(page(replace(verified, steps=(Step("numerics", (check,)),))))

    assert "Relative error after each layer: none at all" in shown.texts


def test_another_version_of_the_reference_is_said(verified: Verification) -> None:
    logits: Any = verified.check("numerics", "beside the source")
    checks = (
        Check("libraries", Status.PASS, figures={"note": "transformers 4 may compute otherwise"}),
        Check("beside the reference", Status.PASS, figures=logits.figures),
    )
    verification = replace(verified, steps=(Step("reference", checks),))

    assert "against the conversion here; transformers 4 may compute otherwise." in Page(page(verification)).text
    assert "transformers 4 may compute otherwise" in as_text(verification).splitlines()


def test_all_that_is_no_module_is_package_data() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "convert" / "verification"

    others = {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    listed = {path.name for pattern in data["g4convert.convert.verification"] for path in folder.glob(pattern)}

    assert others == listed == {"prose.txt", "report.html.jinja"}


# -- svg ---------------------------------------------------------------------------------------------------------------


def test_an_element_escapes_what_is_no_markup() -> None:
    element = svg.tag("text", "<&>", svg.tag("b", "x"), class_='a"b', text_anchor="end", x=1.50, y=2.0)

    assert element == '<text class="a&#34;b" text-anchor="end" x="1.5" y="2">&lt;&amp;&gt;<b>x</b></text>'


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.02, 0.5], -2, 0),
        ([0.1], -1, 0),
        ([], -1, 0),
        ([0.0], -1, 0),
        ([1e-30, 1], -12, 0),
        ([float("nan"), 10], 1, 2),
    ],
)
def test_a_scale_has_the_decades_that_the_values_need(values: list[float], low: int, high: int) -> None:
    assert LogScale.of(values) == LogScale(low, high)


@pytest.mark.parametrize(
    ("value", "share"), [(0.01, 0.0), (0.1, 0.5), (1.0, 1.0), (0.0, 0.0), (50.0, 1.0), (1e-9, 0.0)]
)
def test_a_place_on_a_scale(value: float, share: float) -> None:
    assert LogScale(-2, 0).share(value) == pytest.approx(share)


@given(st.lists(st.floats(1e-15, 1e6), min_size=1, max_size=50))
def test_no_point_lies_outside_of_its_plot(values: list[float]) -> None:
    plot = svg.line_plot(FRAME, [Series("s", "converted", values)], LogScale.of(values), label="l", unit="u")

    circles = list(ElementTree.fromstring(plot).iter("circle"))
    assert len(circles) == len(values)
    for circle in circles:
        assert 10 <= float(circle.get("cx", "")) <= 90
        assert 10 <= float(circle.get("cy", "")) <= 40


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=50))
def test_a_histogram_loses_no_value(values: list[float]) -> None:
    plot = svg.histogram(FRAME, [Series("s", "converted", values)], LogScale(-3, 1), label="l", unit="u")

    titles = [title.text or "" for title in ElementTree.fromstring(plot).iter("title")]
    assert sum(float(title.removeprefix("s: ").removesuffix("%")) for title in titles) == pytest.approx(100, abs=1)


@pytest.mark.parametrize(
    ("highest", "last", "count"), [(0.0894, 0.1, 6), (1.0, 1.0, 6), (4.06, 5.0, 6), (0.0, 1.0, 2), (7.9, 8.0, 9)]
)
def test_round_ticks(highest: float, last: float, count: int) -> None:
    ticks = svg.round_ticks(highest)

    assert ticks[0] == 0
    assert ticks[-1] == pytest.approx(last)
    assert len(ticks) == count
