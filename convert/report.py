"""What the command line prints about a conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..schemas import read_json
from .document import Json
from .manifest import MANIFEST, recorded_tallies, summary
from .pipeline import Conversion
from .plan import ConversionPlan
from .wording import count, describe, exactness, size, table

if TYPE_CHECKING:
    from ..loaders import Generation


def as_json(conversion: Conversion) -> Json:
    """The plan as one document, for `--json`."""
    return {**summary(conversion.plan), "config_additions": conversion.config.additions}


def dry_run(conversion: Conversion) -> str:
    """The plan, readable."""
    plan = conversion.plan
    blocks = [
        _head(plan),
        _parts(plan),
        _packings(plan),
        _reasons("Left unquantized", plan.unquantized.items(), "modules"),
        _reasons("Dropped", plan.dropped.items(), "tensors"),
        _shards(plan),
    ]
    return "\n\n".join(block for block in blocks if block)


def written(conversion: Conversion, output: Path) -> str:
    """What stands on the disk now."""
    plan = conversion.plan
    grid = exactness(recorded_tallies(read_json(output / MANIFEST)).values())
    lines = [
        f"{output}: {size(plan.nbytes)} in {count(len(plan.shards), 'shard')}, {_bits(plan)}",
        *([] if grid is None else [grid]),
        f"{_kept(plan)}; conversion.json says where every tensor came from.",
    ]
    return "\n".join(lines)


def rates(generation: Generation) -> str:
    """What an answer cost, in one line."""
    stats = generation.stats
    cut = "" if generation.finish_reason == "stop" else "; cut at --max-tokens"
    media = f"media {count(stats.media_tokens, 'token')}, {stats.encode_seconds:.2f} s; " if stats.media_tokens else ""
    return (
        f"{media}prefill {count(stats.prompt_tokens, 'token')}, {stats.prefill_tokens_per_second:.1f} tokens/s; "
        f"decode {count(stats.generated_tokens, 'token')}, {stats.decode_tokens_per_second:.1f} tokens/s{cut}"
    )


def _head(plan: ConversionPlan) -> str:
    default = plan.recipe.default
    how = "not quantized" if default is None else f"recipe {plan.recipe.name}, {describe(default)}"
    return f"{plan.config.model_type}: {how}; keeps {', '.join(plan.modalities)}"


def _parts(plan: ConversionPlan) -> str:
    rows = [("part", "tensors", "parameters", "bytes")]
    for name, part in summary(plan)["parts"].items():
        rows.append((name, f"{part['tensors']:,}", f"{part['parameters']:,}", f"{part['bytes']:,}"))
    rows.append(("total", f"{len(plan.outputs):,}", f"{plan.parameters:,}", f"{plan.payload:,}"))
    return "\n".join(table(rows)) + f"\n{_bits(plan)}"


def _packings(plan: ConversionPlan) -> str:
    counts = Counter(plan.packings.values())
    rows = [
        (describe(packing, on_grid=on_grid), count(number, "module"))
        for (packing, on_grid), number in counts.most_common()
    ]
    return "Quantized\n" + "\n".join(f"  {line}" for line in table(rows)) if rows else ""


def _reasons(title: str, items: Iterable[tuple[str, str]], noun: str) -> str:
    names: dict[str, list[str]] = {}
    for name, reason in items:
        names.setdefault(reason, []).append(name)
    lines = [
        f"  {count(len(group), noun.removesuffix('s'))}: {reason}\n    {_some(group)}"
        for reason, group in names.items()
    ]
    return f"{title}\n" + "\n".join(lines) if lines else ""


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]}"


def _shards(plan: ConversionPlan) -> str:
    rows = [(shard.file, f"{shard.nbytes:,} bytes") for shard in plan.shards]
    return "\n".join(table([*rows, ("together", f"{plan.nbytes:,} bytes")]))


def _kept(plan: ConversionPlan) -> str:
    tensors = {part.name for step in plan.steps for part in step.source.parts}
    return f"{count(len(tensors), 'source tensor')} kept, {len(plan.dropped)} dropped"


def _bits(plan: ConversionPlan) -> str:
    return f"{8 * plan.payload / plan.parameters:.3f} bits per weight"
