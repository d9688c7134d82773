"""Which module gets how many bits. The choice is recorded in the config, and loaders replay it."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from ..schemas import validate
from ..schemas.errors import ConfigError, UsageError
from .families.rules import Role

AFFINE = "affine"
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
SEARCH, MIN_MAX = "search", "min-max"
ROUNDINGS: Mapping[str, str] = {SEARCH: "affine-edge-search-refit/1", MIN_MAX: "affine-edge/1"}
"""How weights become codes in affine mode, and the rule's name on record, which changes when its bytes would."""
FIXED_MODES: Mapping[str, tuple[int, int]] = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Bits and group size of the modes that have one pair only."""
MODES = (AFFINE, *FIXED_MODES)
# Of the rules that a warning is about.
MOST_NAMED = 5


@dataclass(frozen=True)
class Quantization:
    """How one weight is packed; the fields are those of MLX's `quantization` block."""

    bits: int
    group_size: int
    mode: str = AFFINE

    def as_dict(self) -> dict[str, Any]:
        """The block that MLX loaders read."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def covers(self, floor: Quantization) -> bool:
        """Whether this is at least as fine as `floor`."""
        return self.mode == AFFINE and self.bits >= floor.bits


def quantization(mode: str = AFFINE, bits: int | None = None, group_size: int | None = None) -> Quantization:
    """Complete and check what a user asked for; the group size defaults to 64, or to the mode's own.

    Raises:
        UsageError: MLX has no such combination.
    """
    if mode in FIXED_MODES:
        own_bits, own_group = FIXED_MODES[mode]
        _only("bits", bits, own_bits, mode)
        _only("group-size", group_size, own_group, mode)
        return Quantization(own_bits, own_group, mode)
    bits, group_size = 4 if bits is None else bits, 64 if group_size is None else group_size
    if mode != AFFINE:
        raise UsageError(f"{mode!r} is not a mode", where="--mode", fix=f"choose one of {', '.join(MODES)}")
    if bits not in AFFINE_BITS:
        raise UsageError(f"{bits} bits do not exist in affine mode", where="--bits", fix=f"choose of {AFFINE_BITS}")
    if group_size not in AFFINE_GROUPS:
        raise UsageError(
            f"a group of {group_size} does not exist in affine mode",
            where="--group-size",
            fix=f"choose of {AFFINE_GROUPS}",
        )
    return Quantization(bits, group_size)


def _only(option: str, given: int | None, own: int, mode: str) -> None:
    if given not in (None, own):
        raise UsageError(f"{mode} has {own} only, not {given}", where=f"--{option}", fix="leave the option out")


@dataclass(frozen=True)
class Choice:
    """What a recipe says about the modules that `pattern` matches.

    Attributes:
        pattern: a glob over module paths of the MLX checkpoint.
        quantization: how to pack them; None leaves them in the source's precision.
        at_least: whether the default is used instead where it is finer.
    """

    pattern: str
    quantization: Quantization | None
    at_least: bool = False


@dataclass(frozen=True)
class Recipe:
    """A default and what differs from it; of several choices for a module the first counts.

    Attributes:
        name: what people call it.
        default: how a module is packed; None leaves every module in the source's precision.
        choices: what differs.
        lattices: whether a weight that was trained on a 4-bit grid is packed on that grid, which loses nothing.
        text: of the file that it was read from.
        rounding: one of `ROUNDINGS`.
    """

    name: str
    default: Quantization | None
    choices: tuple[Choice, ...] = ()
    lattices: bool = False
    text: str | None = None
    rounding: str = SEARCH

    def choose(self, module: str, role: Role) -> Quantization | None:
        """The packing of one module, protection included."""
        if self.default is None or not role.quantizable:
            return None
        return _protect(role, self._wanted(module, self.default))

    def _wanted(self, module: str, default: Quantization) -> Quantization | None:
        choice = self._deciding(module)
        if choice is None:
            return default
        if choice.at_least and choice.quantization is not None and default.covers(choice.quantization):
            return default
        return choice.quantization

    def _deciding(self, module: str) -> Choice | None:
        return next((choice for choice in self.choices if fnmatchcase(module, choice.pattern)), None)

    def idle(self, modules: Iterable[str]) -> list[str]:
        """The patterns that decide about none of these modules: nothing has such a name, or an earlier one counts."""
        deciding = set(map(self._deciding, modules))
        return [choice.pattern for choice in self.choices if choice not in deciding]


@dataclass(frozen=True)
class ListedRecipe(Recipe):
    """A packing for every module by name, whatever chose it."""

    packings: Mapping[str, Quantization] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, packings: Mapping[str, Quantization]) -> Self:
        """A recipe with its modules listed."""
        return cls(recipe.name, recipe.default, lattices=recipe.lattices, rounding=recipe.rounding, packings=packings)

    def choose(self, module: str, role: Role) -> Quantization | None:  # noqa: ARG002
        """The packing of one module, as listed."""
        return self.packings.get(module)


def warn_of_idle_rules(recipe: Recipe, modules: Collection[str]) -> None:
    """Name the rules of a file that change nothing: a slip of the pen, or meant for another model.

    Args:
        recipe: built-in ones are for all models, and nothing is said of them.
        modules: all that can be quantized.
    """
    idle = [] if recipe.text is None or recipe.default is None else recipe.idle(modules)
    if idle:
        named = ", ".join(repr(pattern) for pattern in idle[:MOST_NAMED]) + (", ..." if idle[MOST_NAMED:] else "")
        rules = "1 rule decides" if len(idle) == 1 else f"{len(idle)} rules decide"
        warnings.warn(f"recipe {recipe.name}: {rules} about no module of this model: {named}", stacklevel=2)


def listing(recipe: Recipe, packings: Mapping[str, Quantization], left: Iterable[str]) -> str:
    """A recipe file that packs the same modules in the same way; `left` are those that are not packed."""
    head = [f'name = "{recipe.name}"', f"grid = {str(recipe.lattices).lower()}", f'rounding = "{recipe.rounding}"']
    default = [] if recipe.default is None else ["[default]", *_lines(recipe.default)]
    rules = [["[[rule]]", f'pattern = "{module}"', *_lines(packing)] for module, packing in sorted(packings.items())]
    rules += [["[[rule]]", f'pattern = "{module}"', "quantize = false"] for module in sorted(left)]
    return "\n".join("\n".join(block) + "\n" for block in [head, default, *rules] if block)


def _lines(packing: Quantization) -> list[str]:
    return [f"bits = {packing.bits}", f"group_size = {packing.group_size}", f'mode = "{packing.mode}"']


ROUTER_FLOOR = Quantization(8, 64)
LATTICE = Quantization(4, 32)
"""How MLX packs the 4-bit grid of quantization-aware training."""


def _protect(role: Role, wanted: Quantization | None) -> Quantization | None:
    """Top-k expert agreement falls to 86 % with a 4-bit router (transformers PR 48801), so no recipe goes below 8."""
    if role is not Role.ROUTER or wanted is None or wanted.covers(ROUTER_FLOOR):
        return wanted
    return ROUTER_FLOOR


def lattice_packing(role: Role, wanted: Quantization) -> Quantization | None:
    """How a weight is packed that lies on a 4-bit grid.

    A router keeps its 8 bits, of which it uses four. None where fewer bits or another mode are asked for.
    """
    if not wanted.covers(LATTICE):
        return None
    return Quantization(ROUTER_FLOOR.bits, LATTICE.group_size) if role is Role.ROUTER else LATTICE


# Small, and everything of a picture, a sound or a token goes through them.
SPARED = (
    Choice("embed_vision.*", None),
    Choice("embed_audio.*", None),
    Choice("*.per_layer_model_projection", None),
)
BALANCED_CHOICES = (Choice("*.embed_tokens", Quantization(6, 64), at_least=True), *SPARED)
# Of the layers keys and values lose most for a byte, the per-layer embeddings least: measured on the trained samples.
HIGH_CHOICES = (
    Choice("*.embed_tokens", Quantization(8, 64), at_least=True),
    Choice("*.self_attn.[kv]_proj", Quantization(8, 64), at_least=True),
    Choice("*.self_attn.*", Quantization(6, 64), at_least=True),
    Choice("*.mlp.*", Quantization(6, 64), at_least=True),
    Choice("*.experts.*", Quantization(6, 64), at_least=True),
    *SPARED,
)
SMALL = "small"

BUILT_IN: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("auto", None, BALANCED_CHOICES, lattices=True),
        Recipe("balanced", None, BALANCED_CHOICES),
        Recipe("uniform", None),
        Recipe("high", None, HIGH_CHOICES, lattices=True),
        Recipe(SMALL, None, SPARED, lattices=True),
    )
}
"""The recipes by name; their default is what the call asks for."""
NO_QUANTIZATION = Recipe("none", None)


def load_recipe(name: str, given: Quantization | None = None) -> Recipe:
    """A built-in recipe by its name, or one from a TOML file.

    Args:
        name: one of `BUILT_IN`, or the path of a file that ends in `.toml`.
        given: what the call asks for; None leaves it to the recipe.

    Raises:
        UsageError: there is no such recipe.
        ConfigError: the file breaks the schema.
    """
    if name.endswith(".toml"):
        recipe = read_recipe(Path(name))
        return recipe if given is None else replace(recipe, default=given)
    if name not in BUILT_IN:
        raise UsageError(
            f"there is no recipe {name!r}", where="--recipe", fix=f"choose {', '.join(BUILT_IN)} or a file.toml"
        )
    return replace(BUILT_IN[name], default=given or quantization())


def read_recipe(path: Path) -> Recipe:
    """Parse a recipe file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or breaks its schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError("there is no such recipe file", where=path.name) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}", where=path.name) from None
    validate(document, "recipe", where=path.name)
    choices = tuple(Choice(rule["pattern"], _parse(rule)) for rule in document.get("rule", ()))
    return Recipe(
        document["name"],
        _parse(document.get("default", {})),
        choices,
        lattices=document.get("grid", False),
        text=text,
        rounding=document.get("rounding", SEARCH),
    )


def _parse(entry: Mapping[str, Any]) -> Quantization | None:
    if entry.get("quantize") is False:
        return None
    return quantization(entry.get("mode", AFFINE), entry.get("bits"), entry.get("group_size"))
