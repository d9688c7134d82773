"""The card: metadata for the Hub's search, and what a person wants to know before the download."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from .sections import USE, VERIFICATION, section
from .upstream import FRONT_MATTER, UPSTREAM, Upstream

# What the Hub calls a task, and what a model must take for it; the first that fits is ours.
TASKS: Mapping[str, frozenset[str]] = {
    "any-to-any": frozenset({"text", "image", "audio"}),
    "image-text-to-text": frozenset({"text", "image"}),
    "audio-text-to-text": frozenset({"text", "audio"}),
    "text-generation": frozenset({"text"}),
}

# What the examples are given, besides a question.
EXAMPLES: Mapping[str, str] = {"image": "photo.jpg", "audio": "talk.wav"}
# Names that a table shows of modules that are treated alike.
SHOWN = 12

NOT_VERIFIED = (
    "## Verification\n\nNot verified yet. `g4convert verify`, with `--source` and what this was made from, proves every"
    " tensor and measures what the conversion costs."
)


@dataclass(frozen=True)
class Group:
    """Modules that are treated alike: how, their number, and their names inside a layer."""

    how: str
    count: int
    names: Sequence[str]


@dataclass(frozen=True)
class Runtimes:
    """Which programs run the checkpoint, and with what.

    Attributes:
        modalities: what the model takes.
        names: of `mlx-lm`, `mlx-vlm` and `mlx-swift-lm`, those that know the model.
        repo: the repository on the Hub; None for a folder that was not published.
    """

    modalities: Sequence[str]
    names: Sequence[str]
    repo: str | None = None

    @property
    def where(self) -> str:
        """What a runtime is given: the repository, or else the folder in which the card is."""
        return self.repo or "."

    @property
    def folder(self) -> str:
        """Where the repository is downloaded to."""
        return "." if self.repo is None else self.repo.rpartition("/")[2]

    @property
    def question(self) -> str:
        """A question about what the model takes."""
        return '"What is this?"' if len(self.modalities) > 1 else '"Why is the sky blue?"'

    @property
    def attached(self) -> str:
        """The options that go with it."""
        return "".join(f" --{kind} {EXAMPLES[kind]}" for kind in self.modalities if kind in EXAMPLES)


@dataclass(frozen=True)
class Card:
    """Everything that a card says; sizes are written out for people.

    Attributes:
        title: the headline.
        summary: how it is packed, in a few words.
        model_type: of the config.
        source: the repository on the Hub, if that is where it came from.
        origin: the same with the commit, or what else is known.
        bits: of most weights; None where nothing is packed.
        modalities: that were kept.
        size: of the weights.
        source_size: of the source's weights.
        bits_per_weight: on average.
        packed: modules by their packing.
        exactness: how much comes back bit for bit of weights that were trained on a 4-bit grid; None without such.
        unpacked: modules that stay in floating point, by the reason.
        memory: tokens of context, and the size of weights and cache together.
        command: makes the same bytes again.
        recipe: the recipe file's text, where it is not one of ours.
        version: of g4convert.
        runtimes: where it runs.
        upstream: the source's card.
    """

    title: str
    summary: str
    model_type: str
    source: str | None
    origin: str
    bits: int | None
    modalities: Sequence[str]
    size: str
    source_size: str
    bits_per_weight: str
    packed: Sequence[Group]
    unpacked: Sequence[Group]
    exactness: str | None
    memory: Sequence[tuple[int, str]]
    command: str
    recipe: str | None
    version: str
    runtimes: Runtimes
    upstream: Upstream


@dataclass(frozen=True)
class StepResult:
    """A step of a verification: how it ended, and what there is to say about it."""

    name: str
    result: str
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A picture beside the card, and what it shows."""

    file: str
    label: str


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    Attributes:
        verdict: a sentence.
        steps: in their order.
        defects: what is wrong, a line each.
        columns: of the table of probes.
        probes: its rows.
        lines: what else is said.
        plot: the picture.
    """

    verdict: str
    steps: Sequence[StepResult]
    defects: Sequence[str] = ()
    columns: Sequence[str] = ()
    probes: Sequence[Sequence[str]] = ()
    lines: Sequence[str] = ()
    plot: Plot | None = None


def render(card: Card) -> str:
    """The whole card: YAML, Markdown, and below it what the source's card says."""
    body = _fill(
        "card.md.jinja",
        card=card,
        use=section(USE, use(card.runtimes)),
        verification=section(VERIFICATION, NOT_VERIFIED),
    )
    below = f"\n{UPSTREAM}\n\n{card.upstream.text}\n" if card.upstream.text else ""
    return f"---\n{metadata(card).to_yaml()}\n---\n\n{body}{below}"


def metadata(card: Card) -> ModelCardData:
    """What the Hub indexes; licence, language and task are the source's."""
    upstream = card.upstream
    data = ModelCardData(
        library_name="mlx",
        base_model=card.source,
        license=upstream.words("license"),
        license_name=upstream.words("license_name"),
        license_link=upstream.words("license_link"),
        language=upstream.names("language") or None,
        pipeline_tag=task(card.modalities, upstream.words("pipeline_tag")),
        tags=["mlx", "g4convert", *_bits(card.bits), *card.modalities],
    )
    if card.bits is not None and card.source is not None:
        data["base_model_relation"] = "quantized"
    return data


def _bits(bits: int | None) -> list[str]:
    return [] if bits is None else [f"{bits}-bit"]


def task(modalities: Iterable[str], upstream: str | None) -> str:
    """The Hub's name of what the model does: the source's, unless that needs a modality that was left out."""
    has = frozenset(modalities)
    if upstream is not None and TASKS.get(upstream, frozenset()) <= has:
        return upstream
    return next(name for name, needed in TASKS.items() if needed <= has)


def described(card: str, changes: Mapping[str, Any]) -> str:
    """A card with other metadata; without changes it stays as it is.

    Raises:
        ValueError: its metadata are not a mapping, or not what the Hub takes.
        TypeError: likewise.
        yaml.YAMLError: they are no YAML.
    """
    if not changes and FRONT_MATTER.match(card) is None:
        return card
    found = ModelCard(card)
    for key, value in changes.items():
        found.data[key] = value
    return str(found) if changes else card


def use(runtimes: Runtimes) -> str:
    """How to run the checkpoint, the text of the section `USE`."""
    return _fill("use.md.jinja", run=runtimes)


def verification(found: Verified) -> str:
    """What a verification found, the text of the section `VERIFICATION`."""
    return _fill("verification.md.jinja", **vars(found))


def _fill(template: str, **values: Any) -> str:
    environment = Environment(  # Markdown, not HTML
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(cell=cell, fence=fence, line=line, names=names)
    text = files(__package__).joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(text).render(values)


def cell(text: str) -> str:
    """A text inside a table."""
    return " ".join(text.split()).replace("|", "\\|")


def line(text: str) -> str:
    """A text of strangers as a line of its own: no markup of theirs, nor marks of ours."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")


def fence(text: str) -> str:
    """What stands around a text that is shown as it is."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def names(found: Sequence[str]) -> str:
    """Names of modules inside a table."""
    shown = ", ".join(f"`{cell(name)}`" for name in found[:SHOWN])
    return shown if len(found) <= SHOWN else f"{shown} and {len(found) - SHOWN} more"
