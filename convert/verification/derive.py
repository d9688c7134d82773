"""What a checkpoint should hold, planned again from its source and its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..document import OutputConfig, output_config
from ..inventory import take_inventory
from ..options import DTYPES
from ..plan import ConversionPlan, build_plan, module_path, wanted_parts
from ..recipe import AFFINE, ROUNDINGS, SEARCH, ListedRecipe, Quantization, quantization
from ..source import Source

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Derived:
    """A conversion that has been planned again."""

    plan: ConversionPlan
    config: OutputConfig


def derive(source: Source, manifest: Manifest) -> Derived:
    """Plan a recorded conversion again.

    Args:
        source: what was converted.
        manifest: a `conversion.json` that its schema has passed.

    Raises:
        G4ConvertError: the source cannot be converted so; it is another one, or the manifest is wrong.
    """
    options = manifest["options"]
    parts = wanted_parts(options["modalities"])
    inventory = take_inventory(source.config, source.checkpoint.tensors.values(), parts)
    plan = build_plan(
        source.config,
        inventory,
        _recipe(manifest),
        dtype=None if options["dtype"] is None else DTYPES[options["dtype"]],
        modalities=options["modalities"],
        max_shard_size=options["max_shard_size"],
        lattices=_lattices(manifest),
    )
    return Derived(plan, output_config(source.document, plan))


def _recipe(manifest: Manifest) -> ListedRecipe:
    """The packing of every module as recorded: a recipe file of one's own may be gone."""
    options = manifest["options"]
    default = None if options["bits"] is None else quantization_of(options)
    packings = {
        module_path(name): quantization_of(entry["quantization"])
        for name, entry in manifest["tensors"].items()
        if entry["quantization"] is not None and entry["quantization"]["part"] == "weight"
    }
    rules = {rule: rounding for rounding, rule in ROUNDINGS.items()}
    rounding = rules.get(manifest["generator"]["rule"], SEARCH)
    return ListedRecipe(options["recipe"], default, packings=packings, rounding=rounding)


def _lattices(manifest: Manifest) -> dict[str, str]:
    """The modules that are packed on a 4-bit grid, as recorded."""
    packings = ((name, entry["quantization"] or {}) for name, entry in manifest["tensors"].items())
    return {module_path(name): packing["grid"]["rounded_to"] for name, packing in packings if "grid" in packing}


def quantization_of(setting: Mapping[str, Any]) -> Quantization:
    """A setting of a quantization block or a manifest; its mode may be left out.

    Raises:
        UsageError: MLX has no such combination.
    """
    return quantization(setting.get("mode") or AFFINE, setting["bits"], setting["group_size"])
