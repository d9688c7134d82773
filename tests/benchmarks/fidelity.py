"""What the recipes and the peers lose: divergence from the source on fresh text questions, beside the bytes.

    python tests/benchmarks/fidelity.py [--positions 20000] [--kinds e2b 12b e2b-qat] [--plot fidelity.svg]

Every conversion's language model is unpacked to float32 and run on the same prompts, question and answer, drawn anew
from `tests/checkpoints/scripts/tasks.py`. KL is the mean over all positions, in nats, from the bfloat16 source in
float32. Bytes are those of the language model, for mlx-lm drops the towers. Prints a Markdown table. The peers are
measured where they are installed (extra `parity`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
from g4convert.convert import Options, hf_to_mlx
from g4convert.convert.source import open_source
from g4convert.convert.verification import svg
from g4convert.loaders.model import Network, language_model
from g4convert.loaders.prompt import PromptFormat
from g4convert.tests.support import CHECKPOINTS, copy_of, edit_json, read_json
from g4convert.tests.unpacking import Logits, divergence, load_source, text_network, unpacked
from markupsafe import Markup
from numpy.typing import NDArray

sys.path.append(str(CHECKPOINTS / "scripts"))

import tasks

SEED = 91_000
BATCH = 64
OURS: Mapping[str, Options] = {
    "uniform": Options(recipe="uniform"),
    "balanced": Options(recipe="balanced"),
    "auto": Options(),
    "auto --group-size 32": Options(group_size=32),
    "high": Options(recipe="high"),
    "uniform --bits 8": Options(recipe="uniform", bits=8),
}
PEERS = {"mlx-lm": {}, "mlx-vlm": {}, "mlx-vlm, groups of 32": {"q_group_size": 32}, "mlx-vlm, 8 bits": {"q_bits": 8}}
FRAME = svg.Frame(560, 260, left=60)
STYLE = "text { font: 9px system-ui, sans-serif; fill: #444 } .grid { stroke: #e3e3e3 }"


@dataclass(frozen=True)
class Result:
    """A conversion: the bytes of its language model, and the divergence at every position."""

    name: str
    nbytes: int
    kl: NDArray[np.float64]
    top1: float


def prompts(form: PromptFormat, positions: int) -> list[tuple[int, ...]]:
    """Questions with their answers."""
    rng, found = np.random.default_rng(SEED), list[tuple[int, ...]]()
    while sum(map(len, found)) < positions:
        ((question, answer),) = tasks.draw(rng, "text").turns
        found.append((*form.prepare(question).ids, *form.encode(answer)[1:]))
    return found


def batches(ids: Sequence[tuple[int, ...]]) -> Iterator[mx.array]:
    """Prompts of equal length together, int32 [B, L]."""
    by_length = defaultdict(list)
    for one in ids:
        by_length[len(one)].append(one)
    for group in by_length.values():
        for start in range(0, len(group), BATCH):
            yield mx.array(group[start : start + BATCH])


def logits(network: Network, ids: Sequence[tuple[int, ...]]) -> Iterator[Logits]:
    """[B, L, vocabulary] of every batch."""
    for batch in batches(ids):
        yield np.array(language_model(network)(batch)).astype(np.float64)


def compare(name: str, nbytes: int, exact: Sequence[Logits], found: Iterator[Logits]) -> Result:
    """Of all positions."""
    kl, same = [], []
    for theirs, ours in zip(exact, found, strict=True):
        kl.append(divergence(theirs, ours).ravel())
        same.append((theirs.argmax(-1) == ours.argmax(-1)).ravel())
    return Result(name, nbytes, np.concatenate(kl), float(np.concatenate(same).mean()))


def conversions(kind: str, work: Path) -> Iterator[tuple[str, Path]]:
    """Our recipes, `small` at the sizes of three of them, and the peers' conversions."""
    source, sizes = CHECKPOINTS / kind, {}
    for name, options in OURS.items():
        conversion = hf_to_mlx(source, work / name, options=options)
        sizes[name] = conversion.plan.nbytes
        yield f"g4convert, {name}", work / name
    for like in ("uniform", "balanced", "high"):
        name = f"small, the size of {like}"
        hf_to_mlx(source, work / name, options=Options(recipe="small", target_size=sizes[like]))
        yield f"g4convert, {name}", work / name
    yield from peers(kind, work)


def peers(kind: str, work: Path) -> Iterator[tuple[str, Path]]:
    """What is installed of mlx-lm and mlx-vlm."""
    source = copy_of(kind, work / "for peers")
    rows = read_json(source / "config.json")["text_config"]["vocab_size"]
    edit_json(source / "config.json", lambda document: document.update(vocab_size=rows))
    for name, options in PEERS.items():
        module = name.partition(",")[0].replace("-", "_")
        if find_spec(module) is not None:
            with redirect_stdout(sys.stderr):
                _converter(module)(str(source), str(work / name), quantize=True, **options)
            yield name, work / name


def _converter(module: str) -> Callable[..., object]:
    import g4convert.tests.parity.reference  # noqa: F401  # lets transformers import

    convert: Callable[..., object] = import_module(module).convert
    return convert


def measure(kind: str, positions: int) -> Iterator[Result]:
    """Every conversion of a sample."""
    source = open_source(CHECKPOINTS / kind)
    ids = prompts(PromptFormat.open(CHECKPOINTS / kind, source.config), positions)
    network = text_network(source)
    names = load_source(network, source)
    exact = list(logits(network, ids))
    with tempfile.TemporaryDirectory() as work:
        for name, folder in conversions(kind, Path(work)):
            weights, nbytes = unpacked(folder, names)
            network.load_weights(weights, strict=True)
            yield compare(name, nbytes, exact, logits(network, ids))


def row(result: Result) -> str:
    kl = result.kl
    return f"| {result.name} | {result.nbytes:,} | {kl.mean():.2g} | {np.quantile(kl, 0.99):.2g} | {result.top1:.2%} |"


def scatter(results: Mapping[str, Sequence[Result]]) -> str:
    """A picture for each sample, one below the other: bytes across, divergence upwards."""
    pictures = [_scatter(kind, found) for kind, found in results.items()]
    height = FRAME.height * len(pictures)
    placed = [svg.tag("g", one, transform=f"translate(0 {index * FRAME.height})") for index, one in enumerate(pictures)]
    style = svg.tag("style", Markup("text { font: 9px system-ui, sans-serif; fill: #444 } .grid { stroke: #e3e3e3 }"))
    ground = svg.tag("rect", width="100%", height="100%", fill="#fff")
    box = f"0 0 {FRAME.width:g} {height:g}"
    return svg.tag(
        "svg", style, ground, *placed, xmlns="http://www.w3.org/2000/svg", viewBox=box, width=FRAME.width * 1.5
    )


def _scatter(kind: str, found: Sequence[Result]) -> Markup:
    scale = svg.LogScale.of(float(one.kl.mean()) for one in found)
    smallest, largest = min(one.nbytes for one in found) * 0.97, max(one.nbytes for one in found)
    named: dict[tuple[float, float], list[str]] = defaultdict(list)
    for one in found:
        across = FRAME.x((one.nbytes - smallest) / (largest * 1.12 - smallest))
        named[across, FRAME.y(scale.share(float(one.kl.mean())))].append(one.name)
    dots = [svg.tag("circle", cx=x, cy=y, r=3.0, fill=_colour(names)) for (x, y), names in named.items()]
    labels = list(_labels({place: ", ".join(map(_short, names)) for place, names in named.items()}))
    title = f"{kind}: KL from the source in nats, by the bytes of the language model, {smallest:,.0f} to {largest:,}"
    below = svg.tag("text", title, x=FRAME.left, y=FRAME.height - 8)
    return svg.tag("g", *_rules(scale), *dots, *labels, below)


def _colour(names: Sequence[str]) -> str:
    return "#2440b0" if names[0].startswith("g4convert") else "#c0392b"


def _short(name: str) -> str:
    return name.removeprefix("g4convert, ")


def _labels(names: Mapping[tuple[float, float], str]) -> Iterator[Markup]:
    """Each to the right of its dot, and as far down as it takes to be read."""
    taken: list[tuple[float, float, float]] = []
    for (x, y), name in sorted(names.items(), key=lambda one: one[0][1]):
        left, right, base = x + 6, x + 6 + 4.6 * len(name), y + 3
        while any(abs(base - other) < 9 and left < end and right > start for start, end, other in taken):
            base += 3
        taken.append((left, right, base))
        yield svg.tag("text", name, x=left, y=base)


def _rules(scale: svg.LogScale) -> Iterator[Markup]:
    for exponent in scale.ticks():
        y = FRAME.y(scale.share(10.0**exponent))
        yield svg.tag("line", class_="grid", x1=FRAME.left, x2=FRAME.width - FRAME.right, y1=y, y2=y)
        yield svg.tag("text", svg.power(exponent), x=FRAME.left - 6, y=y + 3, text_anchor="end")


def main() -> None:
    """Print a table for each sample, and draw them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=20_000)
    parser.add_argument("--kinds", nargs="+", default=["e2b", "12b", "e2b-qat"])
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    results: dict[str, list[Result]] = {}
    for kind in arguments.kinds:
        print(f"\n| {kind} | bytes | KL mean | p99 | same top token |\n|---|--:|--:|--:|--:|", flush=True)
        for result in measure(kind, arguments.positions):
            results.setdefault(kind, []).append(result)
            print(row(result), flush=True)
    if arguments.plot is not None:
        arguments.plot.write_text(scatter(results))


if __name__ == "__main__":
    main()
