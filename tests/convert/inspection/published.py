"""The published models as `inspect` sees them, made of their configs alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from g4convert.convert.inspection.parts import planned_weights
from g4convert.convert.inventory import take_inventory
from g4convert.convert.plan import MODALITIES, ConversionPlan, build_plan, wanted_parts
from g4convert.convert.recipe import load_recipe
from g4convert.convert.wording import size
from g4convert.loaders.footprint import METAL, kv_cache_bytes
from g4convert.loaders.footprint.estimate import Estimator, Load
from g4convert.tests.support import config_of, headers

MODELS = ("E2B", "E4B", "12B", "26B-A4B", "31B")
CONTEXTS = (4096, 32_768, 131_072)
FRAMES = (0, 8, 16)
PHONE = 6_144_000_000


@cache
def planned(model: str) -> ConversionPlan:
    """The conversion by default of a published model."""
    config = config_of(f"{model}-published")
    return build_plan(
        config,
        take_inventory(config, headers(config), wanted_parts(MODALITIES)),
        load_recipe("auto"),
        dtype=None,
        modalities=MODALITIES,
        max_shard_size=1 << 62,
    )


def table() -> Iterator[str]:
    """What the published models take, as Markdown."""
    heads = [f"keys and values at {context // 1024}k" for context in CONTEXTS]
    heads += [f"peak with {frames} frames" if frames else "peak of text" for frames in FRAMES]
    yield "| model | weights | " + " | ".join(heads) + " | fits 6144 MB |"
    yield "|---|" + "---|" * (len(heads) + 2)
    for model in MODELS:
        yield _row(model)


def _row(model: str) -> str:
    plan = planned(model)
    estimator = Estimator(plan.config, planned_weights(plan), METAL)
    peaks = [estimator.estimate(Load(CONTEXTS[0], frames=frames)).peak for frames in FRAMES]
    cells = [size(plan.payload)]
    cells += [size(kv_cache_bytes(plan.config.text, context)) for context in CONTEXTS]
    cells += [size(peak) for peak in peaks]
    return f"| {model} | " + " | ".join(cells) + f" | {'yes' if max(peaks) <= PHONE else 'no'} |"


if __name__ == "__main__":
    print("\n".join(table()))
