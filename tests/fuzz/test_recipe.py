"""The parser of recipes: one that parses packs every module in a way that MLX has, and survives being listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert.families.rules import Role
from g4convert.convert.inventory import catalogue
from g4convert.convert.plan import module_path
from g4convert.convert.recipe import BUILT_IN, Quantization, Recipe, listing, load_recipe, quantization, read_recipe
from g4convert.schemas.errors import G4ConvertError
from g4convert.tests.support import config_of
from hypothesis import given
from hypothesis import strategies as st

from .effort import attempt, effort
from .nasty import TEXTS, VALUES, damaged

MODULES = {
    module_path(target.name): target.role
    for name in ("E2B-published", "small-moe-saved")
    for targets in catalogue(config_of(name)).targets.values()
    for target in targets
    if target.role.quantizable
}
GOOD = """
name = "mine"
grid = true
[default]
bits = 4
group_size = 64
[[rule]]
pattern = "*.embed_tokens"
bits = 6
[[rule]]
pattern = "*.layers.?.mlp.*"
bits = 4
mode = "mxfp4"
[[rule]]
pattern = "embed_*"
quantize = false
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "mine.toml"


def check(file: Path, content: bytes) -> Recipe | None:
    """Read a recipe, and use it; None if it is refused."""
    file.write_bytes(content)
    recipe = attempt(lambda: read_recipe(file))
    if isinstance(recipe, str):
        assert recipe.startswith("mine.toml: ")
        return None
    chosen = {module: recipe.choose(module, role) for module, role in MODULES.items()}
    packings = {module: packing for module, packing in chosen.items() if packing is not None}
    for packing in packings.values():
        assert quantization(packing.mode, packing.bits, packing.group_size) == packing
    file.write_text(listing(recipe, packings, chosen.keys() - packings.keys()), encoding="utf-8")
    again = read_recipe(file)
    assert (again.name, again.default, again.lattices) == (recipe.name, recipe.default, recipe.lattices)
    assert {module: again.choose(module, role) for module, role in MODULES.items()} == chosen
    return recipe


def toml(value: Any) -> str:
    """A value as TOML writes it; it has no null."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {toml(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return "nan" if value is None else json.dumps(value)


BITS = st.sampled_from((2, 3, 4, 5, 6, 8, 8, 1, 7, 16, True, 4.0, "4"))
GROUPS = st.sampled_from((16, 32, 64, 128, 48, 0, -64, 64.0))
MODES = st.sampled_from(("affine", "mxfp4", "mxfp8", "nvfp4", "int4", "Affine", 4))
GLOBS = st.text("*?[]!-.ab0_", min_size=1, max_size=12) | st.sampled_from(
    (*MODULES, "*", "*.router.proj", "*.self_attn.[kqv]_proj", "[!e]*", "*.layers.[0-9].*", *TEXTS)
)
SETTINGS = st.fixed_dictionaries({}, optional={"bits": BITS, "group_size": GROUPS, "mode": MODES})
LEGAL = st.sampled_from(
    (
        {"bits": 2},
        {"bits": 3, "group_size": 128},
        {"bits": 6, "mode": "affine"},
        {"bits": 4, "mode": "mxfp4"},
        {"bits": 8, "mode": "mxfp8", "group_size": 32},
        {"bits": 4, "mode": "nvfp4", "group_size": 16},
    )
)
RULES = st.builds(
    lambda pattern, setting: {"pattern": pattern, **setting},
    GLOBS,
    LEGAL | SETTINGS | st.fixed_dictionaries({"quantize": st.sampled_from((False, False, True))}),
)
RECIPES = st.fixed_dictionaries(
    {"name": st.sampled_from(("mine", "a.b-c_9")) | st.sampled_from(TEXTS)},
    optional={
        "default": LEGAL | SETTINGS,
        "rule": st.lists(RULES, max_size=5),
        "grid": st.booleans(),
        "description": st.sampled_from(TEXTS),
        "more": VALUES,
    },
)


def test_the_recipe_that_is_damaged_is_good(file: Path) -> None:
    recipe = check(file, GOOD.encode())

    assert recipe is not None
    assert recipe.choose("language_model.model.embed_tokens", Role.EMBEDDING) == Quantization(6, 64)


@effort(200)
@given(RECIPES)
def test_recipes_that_are_nearly_right(file: Path, document: dict[str, Any]) -> None:
    check(file, "\n".join(f"{key} = {toml(value)}" for key, value in document.items()).encode("utf-8", "surrogatepass"))


@effort(200)
@given(damaged(GOOD.encode()) | st.binary(max_size=64))
def test_any_bytes(file: Path, content: bytes) -> None:
    check(file, content)


@effort(100)
@given(
    st.text(max_size=12).filter(lambda name: name not in BUILT_IN)
    | st.sampled_from(TEXTS).map(lambda name: f"{name}.toml")
)
def test_any_name(name: str) -> None:
    with pytest.raises(G4ConvertError):
        load_recipe(name)
