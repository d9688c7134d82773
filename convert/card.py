"""What the card of a conversion says, gathered from its plan."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from ..loaders.config import ModelConfig
from ..loaders.footprint import kv_cache_bytes
from ..model_cards.card import Card, Group, Runtimes
from .lattice import Tally
from .manifest import package_version
from .plan import MODALITIES, ConversionPlan, inside_layer
from .recipe import Recipe
from .source import Source
from .wording import describe, exactness, size

if TYPE_CHECKING:
    from .options import Options

# Tokens of context for which a card says how much memory they take.
CONTEXTS = (4096, 32_768, 131_072)


def conversion_card(source: Source, plan: ConversionPlan, options: Options, tallies: Collection[Tally]) -> Card:
    """The card of what a plan has made of a source; `tallies` are of the weights on a 4-bit grid."""
    name = "Gemma 4" if source.repo_id is None else source.repo_id.rpartition("/")[2]
    default = plan.recipe.default
    return Card(
        title=f"{name} for MLX, {'unquantized' if default is None else f'{default.bits}-bit'}",
        summary="not quantized" if default is None else f"recipe {plan.recipe.name}, {describe(default)}",
        model_type=plan.config.model_type,
        source=source.repo_id,
        origin=_origin(source),
        bits=None if default is None else default.bits,
        modalities=plan.modalities,
        size=size(plan.payload),
        source_size=size(sum(info.nbytes for info in source.checkpoint.tensors.values())),
        bits_per_weight=f"{8 * plan.payload / plan.parameters:.2f}",
        packed=_groups(
            (describe(packing, on_grid=on_grid), module) for module, (packing, on_grid) in plan.packings.items()
        ),
        unpacked=_groups((reason, module) for module, reason in plan.unquantized.items()),
        exactness=exactness(tallies),
        memory=list(_memory(plan)),
        command=_command(source, options, plan.recipe),
        recipe=plan.recipe.text,
        version=package_version(),
        runtimes=runtimes(plan.config, plan.modalities),
        upstream=source.card,
    )


def _origin(source: Source) -> str:
    if source.repo_id is None:
        return "a local folder, which does not say where it came from"
    return source.repo_id if source.commit is None else f"{source.repo_id}, commit `{source.commit}`"


def _groups(modules: Iterable[tuple[str, str]]) -> list[Group]:
    """Modules by what is said of them, the largest group first."""
    found: dict[str, list[str]] = {}
    for how, module in modules:
        found.setdefault(how, []).append(module)
    groups = [Group(how, len(names), list(dict.fromkeys(map(_kind, names)))) for how, names in found.items()]
    return sorted(groups, key=lambda group: -group.count)


def _kind(module: str) -> str:
    """What a card calls a module: its name inside a layer, or the tower that it belongs to."""
    root = module.partition(".")[0]
    return root if root in ("vision_tower", "audio_tower") else inside_layer(module)


def _memory(plan: ConversionPlan) -> Iterator[tuple[int, str]]:
    text = plan.config.text
    for context in CONTEXTS:
        yield context, size(plan.payload + kv_cache_bytes(text, context))


def _command(source: Source, options: Options, recipe: Recipe) -> str:
    """What makes the same bytes again; only what differs from the defaults is said."""
    where = "SOURCE" if source.repo_id is None else source.repo_id
    revision = [] if source.commit is None else ["--revision", source.commit]
    return shlex.join(["g4convert", "hf-to-mlx", where, *revision, *_flags(options, recipe), "OUTPUT"])


def _flags(options: Options, recipe: Recipe) -> Iterator[str]:
    if not options.quantize:
        yield "--no-quantize"
    for flag, value in (("bits", options.bits), ("group-size", options.group_size), ("mode", options.mode)):
        yield from () if value is None else (f"--{flag}", str(value))
    if recipe.text is not None:
        yield from ("--recipe", f"{recipe.name}.toml")
    elif options.recipe is not None:
        yield from ("--recipe", options.recipe)
    if options.rounding is not None:
        yield from ("--rounding", options.rounding)
    if options.dtype is not None:
        yield from ("--dtype", options.dtype)
    if set(options.modalities) != set(MODALITIES):
        yield from ("--modalities", ",".join(options.modalities))
    if options.max_shard_size != type(options).max_shard_size:
        yield from ("--max-shard-size", str(options.max_shard_size))


def runtimes(config: ModelConfig, modalities: Iterable[str], repo: str | None = None) -> Runtimes:
    """Which programs run a checkpoint."""
    kept = tuple(modalities)
    return Runtimes(kept, tuple(_runtimes(config, kept)), repo)


def _runtimes(config: ModelConfig, modalities: tuple[str, ...]) -> Iterator[str]:
    if config.model_type == "gemma4_unified_text":  # known to none of them
        return
    yield "mlx-lm"
    if modalities != ("text",) and not config.text.untied:  # mlx-vlm has no output head of its own
        yield "mlx-vlm"
    yield "mlx-swift-lm"
