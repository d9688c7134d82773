"""`conversion.json`: where every tensor of the output came from, with digests.

It holds no time, path, worker count or platform, so the same source, recipe and version give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from .document import Json, OutputConfig
from .lattice import Tally
from .plan import ConversionPlan, OutputTensor, Shard, Step
from .recipe import ROUNDINGS
from .source import Source

MANIFEST = "conversion.json"
FORMAT = 1


def package_version() -> str:
    """The version of g4convert that is installed."""
    return version("g4convert")


def conversion_manifest(
    source: Source,
    plan: ConversionPlan,
    *,
    options: Json,
    config: OutputConfig,
    digests: Mapping[str, str],
    tallies: Mapping[str, Tally],
    sidecars: Mapping[str, str],
    written: Mapping[str, str],
) -> Json:
    """The manifest of a finished conversion.

    Args:
        source: what was converted.
        plan: what was planned.
        options: what the call asked for, without what does not change the bytes.
        config: the output's config, and how it differs from the source's.
        digests: SHA-256 of every output tensor's bytes.
        tallies: how much of a weight lies on the 4-bit grid on which it is packed.
        sidecars: SHA-256 of every copied file.
        written: SHA-256 of every other small file.
    """
    return {
        "format": FORMAT,
        "generator": {"name": "g4convert", "version": package_version(), "rule": ROUNDINGS[plan.recipe.rounding]},
        "source": {"id": source.repo_id, "commit": source.commit},
        "options": options,
        "config_additions": config.additions,
        "config_removals": config.removals,
        "shards": {shard.file: _shard_entry(shard) for shard in plan.shards},
        "tensors": dict(sorted(_tensors(plan, digests, tallies))),
        "dropped": dict(plan.dropped),
        "unquantized": dict(sorted(plan.unquantized.items())),
        "sidecars": dict(sorted(sidecars.items())),
        "written": dict(sorted(written.items())),
    }


def _shard_entry(shard: Shard) -> Json:
    """With the digests of its tensors, which lie without gaps, the header's digest covers every byte."""
    return {"bytes": shard.nbytes, "header_sha256": hashlib.sha256(shard.header).hexdigest()}


def _tensors(
    plan: ConversionPlan, digests: Mapping[str, str], tallies: Mapping[str, Tally]
) -> Iterator[tuple[str, Json]]:
    for step in plan.steps:
        for out in step.outputs:
            yield out.name, {**_entry(step, out, tallies.get(out.name)), "sha256": digests[out.name]}


def _entry(step: Step, out: OutputTensor, tally: Tally | None) -> Json:
    packing = step.quantization
    grid = {} if tally is None else {"grid": {"rounded_to": step.lattice, **asdict(tally)}}
    return {
        "sources": [part.name for part in step.source.parts],
        "transform": step.transform.name,
        "dtype": out.dtype,
        "shape": list(out.shape),
        "quantization": None if packing is None else {**packing.as_dict(), "part": out.kind, **grid},
    }


def recorded_tallies(manifest: Mapping[str, Any]) -> dict[str, Tally]:
    """How much of each weight lies on the 4-bit grid on which it is packed, by the names of the tensors."""
    packings = ((name, entry["quantization"] or {}) for name, entry in manifest["tensors"].items())
    grids = {name: packing["grid"] for name, packing in packings if "grid" in packing}
    return {name: Tally(grid["groups"], grid["placed"], grid["exact"]) for name, grid in grids.items()}


def index(plan: ConversionPlan) -> Json:
    """`model.safetensors.index.json`: true totals, and the shard of every tensor."""
    weight_map = {out.name: shard.file for shard in plan.shards for step in shard.steps for out in step.outputs}
    return {
        "metadata": {"total_size": plan.payload, "total_parameters": plan.parameters},
        "weight_map": dict(sorted(weight_map.items())),
    }


def summary(plan: ConversionPlan) -> Json:
    """What a dry run shows, as one JSON document."""
    parts: dict[str, dict[str, int]] = {}
    for step in plan.steps:
        part = parts.setdefault(step.part, {"tensors": 0, "parameters": 0, "bytes": 0})
        part["tensors"] += len(step.outputs)
        part["parameters"] += step.parameters
        part["bytes"] += sum(out.nbytes for out in step.outputs)
    return {
        "model_type": plan.config.model_type,
        "recipe": plan.recipe.name,
        "modalities": list(plan.modalities),
        "parts": parts,
        "tensors": len(plan.outputs),
        "parameters": plan.parameters,
        "payload_bytes": plan.payload,
        "bits_per_weight": 8 * plan.payload / plan.parameters,
        "shards": [{"file": shard.file, "bytes": shard.nbytes} for shard in plan.shards],
        "shard_bytes": plan.nbytes,
        "grids": dict(sorted(plan.lattices.items())),
        "quantized": {module: packing.as_dict() for module, packing in sorted(plan.quantized.items())},
        "unquantized": dict(sorted(plan.unquantized.items())),
        "dropped": dict(plan.dropped),
        "outputs": [
            {"name": out.name, "dtype": out.dtype, "shape": list(out.shape), "bytes": out.nbytes}
            for out in plan.outputs
        ],
    }
