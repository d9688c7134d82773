"""Which module gets how many bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from g4convert.convert.families.rules import Role
from g4convert.convert.options import Options
from g4convert.convert.pipeline import prepare
from g4convert.convert.plan import fit_group
from g4convert.convert.recipe import (
    AFFINE_BITS,
    BUILT_IN,
    FIXED_MODES,
    MIN_MAX,
    NO_QUANTIZATION,
    Choice,
    ListedRecipe,
    Quantization,
    Recipe,
    listing,
    load_recipe,
    quantization,
    read_recipe,
)
from g4convert.schemas.errors import ConfigError, UsageError
from g4convert.tests.support import CHECKPOINTS

TEXT = "language_model.model."


@pytest.mark.parametrize("mode", ["affine", *FIXED_MODES])
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_router_is_never_under_8_bits(name: str, mode: str) -> None:
    for bits in AFFINE_BITS if mode == "affine" else (None,):
        recipe = load_recipe(name, quantization(mode, bits))

        chosen = recipe.choose(TEXT + "layers.3.router.proj", Role.ROUTER)

        assert chosen == Quantization(8, 64)


def test_a_file_cannot_lower_the_router(tmp_path: Path) -> None:
    path = tmp_path / "low.toml"
    path.write_text('name = "low"\n[default]\nbits = 4\n[[rule]]\npattern = "*"\nbits = 2\n')

    recipe = load_recipe(str(path))

    assert recipe.choose(TEXT + "layers.3.router.proj", Role.ROUTER) == Quantization(8, 64)
    assert recipe.choose(TEXT + "layers.3.mlp.up_proj", Role.LINEAR) == Quantization(2, 64)


def test_a_file_may_leave_the_router_alone(tmp_path: Path) -> None:
    path = tmp_path / "router.toml"
    path.write_text('name = "r"\n[default]\nbits = 4\n[[rule]]\npattern = "*.router.proj"\nquantize = false\n')

    assert load_recipe(str(path)).choose(TEXT + "layers.3.router.proj", Role.ROUTER) is None


@pytest.mark.parametrize("role", [Role.TOWER, Role.CLIP_BOUND, Role.VECTOR])
@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_protected_stays_as_it_is(name: str, role: Role) -> None:
    assert load_recipe(name).choose("vision_tower.patch_embedder.input_proj", role) is None


def test_balanced_spares_what_is_small_and_sensitive() -> None:
    recipe = load_recipe("balanced")

    assert recipe.choose(TEXT + "embed_tokens", Role.EMBEDDING) == Quantization(6, 64)
    assert recipe.choose(TEXT + "embed_tokens_per_layer", Role.EMBEDDING) == Quantization(4, 64)
    assert recipe.choose(TEXT + "per_layer_model_projection", Role.LINEAR) is None
    assert recipe.choose("embed_vision.embedding_projection", Role.LINEAR) is None
    assert recipe.choose("embed_audio.embedding_projection", Role.LINEAR) is None


def test_a_file_may_choose_the_rounding(tmp_path: Path) -> None:
    path = tmp_path / "fast.toml"
    path.write_text('name = "fast"\nrounding = "min-max"\n')

    assert read_recipe(path).rounding == MIN_MAX


def test_a_listed_recipe_is_what_it_was_made_from(tmp_path: Path) -> None:
    recipe = replace(load_recipe("uniform"), rounding=MIN_MAX)
    path = tmp_path / "listed.toml"
    path.write_text(listing(recipe, {"a": Quantization(3, 32)}, ["b"]))

    found = read_recipe(path)

    assert found.rounding == MIN_MAX
    assert ListedRecipe.of(recipe, {}).rounding == MIN_MAX
    assert [found.choose(module, Role.LINEAR) for module in "abc"] == [
        Quantization(3, 32),
        None,
        Quantization(4, 64),
    ]


MODULES = [f"{TEXT}layers.{index}.{path}" for index in (0, 1) for path in ("mlp.up_proj", "self_attn.q_proj")]


@pytest.mark.parametrize(
    ("patterns", "idle"),
    [
        (["*.q_proj", "*.layers.1.*"], []),
        (["*.q_prj", "*.up_proj"], ["*.q_prj"]),
        (["*.layers.*", "*.up_proj"], ["*.up_proj"]),
        (["*.layers.0.*", "*.up_proj"], []),
        (["*.router.proj", "embed_*", "*"], ["*.router.proj", "embed_*"]),
    ],
)
def test_a_rule_that_decides_about_nothing_is_found(patterns: list[str], idle: list[str]) -> None:
    recipe = Recipe("mine", quantization(), tuple(Choice(pattern, None) for pattern in patterns))

    assert recipe.idle(MODULES) == idle


def test_a_rule_of_a_file_that_decides_about_nothing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[[rule]]\npattern = "*.embed_token"\nquantize = false\n')

    said = r"^recipe mine: 1 rule decides about no module of this model: '\*\.embed_token'$"
    with pytest.warns(UserWarning, match=said):
        plan = prepare(CHECKPOINTS / "text", Options(recipe=str(path))).plan

    assert plan.quantized["model.embed_tokens"] == Quantization(4, 64)


def test_of_many_such_rules_a_few_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    rules = [f'[[rule]]\npattern = "{letter}"\nquantize = false\n' for letter in "abcdefgh"]
    path.write_text('name = "mine"\n' + "".join(rules))

    with pytest.warns(
        UserWarning, match=r"8 rules decide about no module of this model: 'a', 'b', 'c', 'd', 'e', \.{3}$"
    ):
        prepare(CHECKPOINTS / "text", Options(recipe=str(path)))


@pytest.mark.parametrize(
    ("given", "embedding"),
    [
        (quantization(bits=8, group_size=32), Quantization(8, 32)),
        (quantization(bits=6, group_size=128), Quantization(6, 128)),
        (quantization(bits=5), Quantization(6, 64)),
        (quantization("mxfp4"), Quantization(6, 64)),
        (quantization("mxfp8"), Quantization(6, 64)),
    ],
)
def test_an_override_raises_and_never_lowers(given: Quantization, embedding: Quantization) -> None:
    assert load_recipe("balanced", given).choose(TEXT + "embed_tokens", Role.EMBEDDING) == embedding


def test_uniform_treats_all_alike() -> None:
    recipe = load_recipe("uniform", quantization(bits=3))

    for module in ("embed_tokens", "per_layer_model_projection", "layers.0.mlp.down_proj"):
        assert recipe.choose(TEXT + module, Role.LINEAR) == Quantization(3, 64)


def test_nothing_is_quantized_without_a_default() -> None:
    assert NO_QUANTIZATION.choose(TEXT + "layers.0.router.proj", Role.ROUTER) is None


@pytest.mark.parametrize(
    ("mode", "bits", "group", "message"),
    [
        ("affine", 7, None, r"--bits: 7 bits do not exist"),
        ("affine", 4, 48, r"--group-size: a group of 48"),
        ("mxfp4", None, 64, r"--group-size: mxfp4 has 32 only, not 64"),
        ("nvfp4", 8, None, r"--bits: nvfp4 has 4 only, not 8"),
        ("int4", None, None, r"--mode: 'int4' is not a mode"),
    ],
)
def test_combinations_that_mlx_lacks_are_refused(mode: str, bits: int | None, group: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quantization(mode, bits, group)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no recipe 'best'"):
        load_recipe("best")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"\n[default]\nbits = 4\n[[rule]]\nbits = 8\n', "pattern"),
        ('name = "x"\n[default]\nbits = 7\n', r"\$\.default"),
        ('name = "x"\n[default]\nbits = 4\ntypo = 1\n', "typo"),
    ],
)
def test_a_bad_recipe_file_says_where(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(str(path))

    assert str(caught.value).startswith("mine.toml: ")


def test_a_missing_recipe_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such recipe file"):
        load_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("wanted", "columns", "fitting"),
    [
        (Quantization(4, 64), 4304, None),
        (Quantization(4, 64), 96, Quantization(4, 32)),
        (Quantization(4, 128), 704, Quantization(4, 64)),
        (Quantization(4, 64), 1536, Quantization(4, 64)),
        (Quantization(4, 32, "mxfp4"), 80, None),
        (Quantization(4, 16, "nvfp4"), 80, Quantization(4, 16, "nvfp4")),
    ],
)
def test_the_largest_legal_group_that_divides_the_row(
    wanted: Quantization, columns: int, fitting: Quantization | None
) -> None:
    assert fit_group(wanted, columns) == fitting
