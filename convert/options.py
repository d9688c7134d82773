"""What a call asks for, as far as it decides the bytes of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..schemas.errors import UsageError
from .plan import MODALITIES
from .recipe import AFFINE, NO_QUANTIZATION, ROUNDINGS, SEARCH, SMALL, Recipe, load_recipe, quantization

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
DEFAULT_RECIPE = "auto"
NO_QUANTIZE = "--no-quantize"
DEFAULT_SHARD_SIZE = 5_000_000_000


@dataclass(frozen=True)
class Options:
    """What a call asks for, as far as it decides the bytes of the output."""

    recipe: str | None = None
    bits: int | None = None
    group_size: int | None = None
    mode: str | None = None
    quantize: bool = True
    dtype: str | None = None
    modalities: Sequence[str] = MODALITIES
    max_shard_size: int = DEFAULT_SHARD_SIZE
    target_size: int | None = None
    rounding: str | None = None


def choose_recipe(options: Options) -> Recipe:
    """The recipe that the options name.

    Raises:
        UsageError: the options contradict each other, or name what does not exist.
    """
    packing = (options.bits, options.group_size, options.mode)
    asked = packing != (None, None, None)
    if not options.quantize:
        if asked or (options.recipe, options.target_size, options.rounding) != (None, None, None):
            raise UsageError(
                "it leaves nothing to --bits, --group-size, --mode, --recipe, --target-size and --rounding",
                where=NO_QUANTIZE,
            )
        return NO_QUANTIZATION
    _check_small(options)
    given = quantization(options.mode or AFFINE, options.bits, options.group_size) if asked else None
    recipe = load_recipe(options.recipe or DEFAULT_RECIPE, given)
    return recipe if options.rounding is None else replace(recipe, rounding=options.rounding)


def _check_small(options: Options) -> None:
    small = options.recipe == SMALL
    if small != (options.target_size is not None):
        raise UsageError(f"recipe {SMALL} and --target-size need each other", where="--recipe", fix="give both")
    if small and (options.bits, options.mode) != (None, None):
        raise UsageError(
            "it gives every module its own bits", where="--recipe small", fix="leave out --bits and --mode"
        )
    if small and options.rounding not in (None, SEARCH):
        raise UsageError(
            f"it measures what the rule {SEARCH} costs", where="--recipe small", fix="leave out --rounding"
        )


def check_options(options: Options) -> None:
    """Refuse what no conversion can do.

    Raises:
        UsageError: names the option.
    """
    if options.dtype is not None and options.dtype not in DTYPES:
        raise UsageError(f"{options.dtype!r} is not a dtype", where="--dtype", fix=f"choose of {', '.join(DTYPES)}")
    if options.rounding is not None and options.rounding not in ROUNDINGS:
        raise UsageError(
            f"{options.rounding!r} is not a rule", where="--rounding", fix=f"choose of {', '.join(ROUNDINGS)}"
        )
    if not options.modalities:
        raise UsageError("names none", where="--modalities", fix=f"choose of {', '.join(MODALITIES)}")
    if unknown := [modality for modality in options.modalities if modality not in MODALITIES]:
        raise UsageError(
            f"{unknown[0]!r} is not a modality", where="--modalities", fix=f"choose of {', '.join(MODALITIES)}"
        )
    if options.max_shard_size <= 0:
        raise UsageError("a shard holds at least one byte", where="--max-shard-size")
