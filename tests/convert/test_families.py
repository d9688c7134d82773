"""The tables against published checkpoints."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from g4convert.convert.families.names import canonical, mlx_name
from g4convert.convert.inventory import NOT_REQUESTED, take_inventory
from g4convert.convert.plan import MODALITIES, build_plan, wanted_parts
from g4convert.convert.recipe import load_recipe
from g4convert.loaders.checkpoint import TensorInfo
from g4convert.schemas.errors import MissingTensorError, TensorError, TensorShapeError, UnknownTensorError
from g4convert.tests.support import config_of, e2b_header, headers

ALL = frozenset({"text", "vision", "audio"})


def published_e2b() -> list[TensorInfo]:
    return [
        TensorInfo(name, dtype, shape, Path("model.safetensors"), 0, 2 * math.prod(shape))
        for name, (dtype, shape) in e2b_header().items()
    ]


def test_every_tensor_of_the_published_e2b_is_accounted_for() -> None:
    tensors = published_e2b()

    inventory = take_inventory(config_of("E2B-published"), tensors, ALL)

    assert len(tensors) == 2011
    assert len(inventory.matches) == 1951
    assert len(inventory.drops) == 60
    assert {drop.source.name for drop in inventory.drops} == {
        f"model.language_model.layers.{layer}.self_attn.{leaf}.weight"
        for layer in range(15, 35)
        for leaf in ("k_proj", "v_proj", "k_norm")
    }


def test_the_tail_is_the_text_backbones_alone() -> None:
    inventory = take_inventory(config_of("E2B-published"), published_e2b(), ALL)

    kept = {match.target.name for match in inventory.matches}

    assert "vision_tower.encoder.layers.15.self_attn.k_proj.linear.weight" in kept
    assert "audio_tower.layers.11.self_attn.v_proj.linear.weight" in kept


def test_all_clip_bounds_of_the_published_e2b_are_kept() -> None:
    inventory = take_inventory(config_of("E2B-published"), published_e2b(), ALL)

    bounds = Counter(
        match.target.part for match in inventory.matches if match.target.name.endswith(("put_min", "put_max"))
    )

    assert bounds == {"vision": 448, "audio": 480}


@pytest.mark.parametrize(
    ("name", "tensors", "recipe", "payload"),
    [
        ("E2B-published", 1951, "uniform", 3_550_352_326),
        ("E2B-published", 1951, "balanced", 3_675_886_534),
        ("E4B-published", 2076, "uniform", 5_146_448_340),
        ("26B-A4B-published", 1013, "uniform", 15_340_981_404),
        ("31B-published", 1188, "uniform", 18_411_755_224),
    ],
)
def test_sizes_are_those_of_published_conversions(name: str, tensors: int, recipe: str, payload: int) -> None:
    config = config_of(name)
    source = headers(config)

    plan = build_plan(
        config,
        take_inventory(config, source, ALL),
        load_recipe(recipe),
        dtype=None,
        modalities=MODALITIES,
        max_shard_size=5 * 10**9,
    )

    assert len(source) == tensors
    assert plan.payload == payload


PREFIXES = [
    ("model.language_model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
    ("language_model.model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
    ("model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
    ("layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
    ("base_model.model.model.language_model.norm.weight", "language_model.norm.weight"),
    ("module.model.language_model.norm.weight", "language_model.norm.weight"),
    ("_orig_mod.base_model.model.model.norm.weight", "language_model.norm.weight"),
    ("model.vision_tower.std_bias", "vision_tower.std_bias"),
    ("vision_tower.std_bias", "vision_tower.std_bias"),
    ("model.embed_audio.embedding_projection.weight", "embed_audio.embedding_projection.weight"),
    ("language_model.lm_head.weight", "lm_head.weight"),
    ("lm_head.weight", "lm_head.weight"),
]


@pytest.mark.parametrize(("name", "expected"), PREFIXES)
def test_every_known_prefix_names_the_same_tensor(name: str, expected: str) -> None:
    assert canonical(name) == expected


def test_text_only_checkpoints_have_no_language_model_prefix() -> None:
    assert mlx_name("language_model.norm.weight", text_only=True) == "model.norm.weight"
    assert mlx_name("language_model.norm.weight", text_only=False) == "language_model.model.norm.weight"
    assert mlx_name("lm_head.weight", text_only=False) == "language_model.lm_head.weight"


def test_an_unknown_name_is_refused_by_name() -> None:
    stranger = TensorInfo("model.language_model.layers.35.norm.weight", "BF16", (1,), Path("a.safetensors"), 0, 2)

    with pytest.raises(UnknownTensorError, match=r"a\.safetensors: .*layers\.35\.norm\.weight is not part of gemma4"):
        take_inventory(config_of("E2B-published"), [*published_e2b(), stranger], ALL)


def test_v_proj_is_unknown_where_the_keys_are_the_values() -> None:
    config = config_of("31B-published")
    full = config.text.full_layer
    name = f"language_model.layers.{full.index}.self_attn.v_proj.weight"
    surplus = TensorInfo(name, "BF16", (full.kv_size, full.hidden_size), Path("a.safetensors"), 0, 0)

    with pytest.raises(UnknownTensorError, match="v_proj"):
        take_inventory(config, [*headers(config), surplus], ALL)


def test_a_missing_tensor_is_named() -> None:
    tensors = [info for info in published_e2b() if not info.name.endswith("layers.7.mlp.up_proj.weight")]

    with pytest.raises(MissingTensorError, match=r"language_model\.model\.layers\.7\.mlp\.up_proj\.weight"):
        take_inventory(config_of("E2B-published"), tensors, ALL)


def test_a_missing_audio_tower_is_an_error_not_a_text_model() -> None:
    tensors = [info for info in published_e2b() if "audio" not in info.name]

    with pytest.raises(MissingTensorError, match=r"audio_tower.* and 751 more"):
        take_inventory(config_of("E2B-published"), tensors, ALL)


def test_a_wrong_shape_says_both() -> None:
    config = config_of("31B-published")
    tensors = headers(config)
    place = next(index for index, info in enumerate(tensors) if info.name.endswith("layers.0.self_attn.q_proj.weight"))
    tensors[place] = TensorInfo(tensors[place].name, "BF16", (7, 9), Path("a.safetensors"), 0, 126)

    with pytest.raises(TensorShapeError, match=r"\[7, 9\], the config calls for \[8192, 5376\]"):
        take_inventory(config, tensors, ALL)


def test_two_names_of_one_tensor_are_refused() -> None:
    tensors = published_e2b()
    norm = next(info for info in tensors if info.name == "model.language_model.norm.weight")
    twin = TensorInfo("language_model.model.norm.weight", norm.dtype, norm.shape, norm.file, 0, norm.nbytes)

    with pytest.raises(TensorError, match="the same tensor under two names"):
        take_inventory(config_of("E2B-published"), [*tensors, twin], ALL)


@pytest.mark.parametrize(
    ("modalities", "kept"),
    [
        (["text"], {"text"}),
        (["image"], {"text", "vision"}),
        (["text", "video"], {"text", "vision"}),
        (["text", "audio"], {"text", "audio"}),
    ],
)
def test_a_modality_left_out_takes_its_tensors_with_it(modalities: list[str], kept: set[str]) -> None:
    inventory = take_inventory(config_of("E2B-published"), published_e2b(), wanted_parts(modalities))

    assert {match.target.part for match in inventory.matches} == kept
    dropped = [drop for drop in inventory.drops if drop.reason == NOT_REQUESTED]
    assert len(dropped) + len(inventory.matches) + 60 == 2011
