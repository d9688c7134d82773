"""The parameter trees of the towers are those of the published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from g4convert.loaders.audio import AudioTower
from g4convert.loaders.config import AudioConfig, ModelConfig, UnifiedVisionConfig, VisionConfig
from g4convert.loaders.model import build
from g4convert.loaders.module import Module
from g4convert.loaders.unified import VisionEmbedder
from g4convert.loaders.vision import VisionTower
from g4convert.tests.loaders.samples import moe_block, multimodal, text_only
from mlx.utils import tree_flatten

Shapes = dict[str, tuple[int, ...]]

# The values of google/gemma-4-E2B-it that shapes follow from.
E2B_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "position_embedding_size": 10240,
    "rms_norm_eps": 1e-6,
    "use_clipped_linears": True,
    "standardize": False,
}
E2B_AUDIO = {
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "subsampling_conv_channels": [128, 32],
    "conv_kernel_size": 5,
    "output_proj_dims": 1536,
    "attention_chunk_size": 12,
    "attention_context_left": 13,
    "attention_context_right": 0,
    "use_clipped_linears": True,
}
LARGE_VISION = E2B_VISION | {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
    "use_clipped_linears": False,
    "standardize": True,
}
BOUNDS: Shapes = {"input_min": (), "input_max": (), "output_min": (), "output_max": ()}


def shapes(module: Module) -> Shapes:
    parameters: Any = tree_flatten(module.parameters(), destination={})
    return {name: parameter.shape for name, parameter in parameters.items()}


def clipped(name: str, shape: tuple[int, int]) -> Shapes:
    return {f"{name}.linear.weight": shape, **{f"{name}.{bound}": () for bound in BOUNDS}}


def layers(prefix: str, count: int, one: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {f"{prefix}.{index}.{name}": shape for index in range(count) for name, shape in one.items()}


def e2b_vision() -> Shapes:
    """The 658 names of the published header."""
    layer: Shapes = {f"{name}_layernorm.weight": (768,) for name in ("input", "post_attention")}
    layer |= {f"{name}_feedforward_layernorm.weight": (768,) for name in ("pre", "post")}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        layer |= clipped(f"self_attn.{name}", (768, 768))
    layer |= {"self_attn.q_norm.weight": (64,), "self_attn.k_norm.weight": (64,)}
    layer |= clipped("mlp.gate_proj", (3072, 768)) | clipped("mlp.up_proj", (3072, 768))
    layer |= clipped("mlp.down_proj", (768, 3072))
    embedder: Shapes = {
        "patch_embedder.input_proj.weight": (768, 768),
        "patch_embedder.position_embedding_table": (2, 10240, 768),
    }
    return embedder | layers("encoder.layers", 16, layer)


def e2b_audio() -> Shapes:
    """The 751 names of the published header, convolutions in MLX's layout."""
    layer: Shapes = {}
    for block in ("feed_forward1", "feed_forward2"):
        layer |= clipped(f"{block}.ffw_layer_1", (4096, 1024)) | clipped(f"{block}.ffw_layer_2", (1024, 4096))
        layer |= {f"{block}.pre_layer_norm.weight": (1024,), f"{block}.post_layer_norm.weight": (1024,)}
    layer |= clipped("lconv1d.linear_start", (2048, 1024)) | clipped("lconv1d.linear_end", (1024, 1024))
    layer |= {"lconv1d.depthwise_conv1d.weight": (1024, 5, 1)}
    layer |= {"lconv1d.pre_layer_norm.weight": (1024,), "lconv1d.conv_norm.weight": (1024,)}
    for name in ("q_proj", "k_proj", "v_proj", "post"):
        layer |= clipped(f"self_attn.{name}", (1024, 1024))
    layer |= {"self_attn.relative_k_proj.weight": (1024, 1024), "self_attn.per_dim_scale": (128,)}
    layer |= {f"{name}.weight": (1024,) for name in ("norm_out", "norm_pre_attn", "norm_post_attn")}
    subsampling = "subsample_conv_projection"
    ends: Shapes = {
        f"{subsampling}.layer0.conv.weight": (128, 3, 3, 1),
        f"{subsampling}.layer0.norm.weight": (128,),
        f"{subsampling}.layer1.conv.weight": (32, 3, 3, 128),
        f"{subsampling}.layer1.norm.weight": (32,),
        f"{subsampling}.input_proj_linear.weight": (1024, 1024),
        "output_proj.weight": (1536, 1024),
        "output_proj.bias": (1536,),
    }
    return ends | layers("layers", 12, layer)


def test_the_vision_tower_of_e2b() -> None:
    found = shapes(VisionTower(VisionConfig.from_dict(E2B_VISION)))

    assert found == e2b_vision()
    assert len(found) == 658
    assert sum(shape == () for shape in found.values()) == 448


def test_the_audio_tower_of_e2b() -> None:
    found = shapes(AudioTower(AudioConfig.from_dict(E2B_AUDIO)))

    assert found == e2b_audio()
    assert len(found) == 751
    assert sum(shape == () for shape in found.values()) == 480


def test_the_vision_tower_of_the_large_ones() -> None:
    found = shapes(VisionTower(VisionConfig.from_dict(LARGE_VISION)))

    assert len(found) == 355
    assert found["std_bias"] == found["std_scale"] == (1152,)
    assert found["encoder.layers.26.mlp.down_proj.linear.weight"] == (1152, 4304)
    assert not any(name.endswith(tuple(BOUNDS)) for name in found)


def test_the_patch_embedder_of_the_12b() -> None:
    config = UnifiedVisionConfig.from_dict(
        {
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "mm_embed_dim": 3840,
            "mm_posemb_size": 1120,
            "output_proj_dims": 3840,
        }
    )

    assert shapes(VisionEmbedder(config)) == {
        "patch_ln1.weight": (6912,),
        "patch_ln1.bias": (6912,),
        "patch_dense.weight": (3840, 6912),
        "patch_dense.bias": (3840,),
        "patch_ln2.weight": (3840,),
        "patch_ln2.bias": (3840,),
        "pos_embedding": (1120, 2, 3840),
        "pos_norm.weight": (3840,),
        "pos_norm.bias": (3840,),
    }


@pytest.mark.parametrize(
    ("document", "parts"),
    [
        (multimodal(), {"language_model", "vision_tower", "embed_vision", "audio_tower", "embed_audio"}),
        (multimodal(audio_config=None), {"language_model", "vision_tower", "embed_vision"}),
        (multimodal(vision_config=None), {"language_model", "audio_tower", "embed_audio"}),
        (multimodal(vision_config=None, audio_config=None), {"language_model"}),
        (text_only(), {"model"}),
        (text_only(tie_word_embeddings=False), {"model", "lm_head"}),
    ],
)
def test_a_network_has_the_modalities_of_its_config(document: dict[str, Any], parts: set[str]) -> None:
    names = shapes(build(ModelConfig.from_dict(document)))

    assert {name.split(".")[0] for name in names} == parts


def test_the_tail_has_queries_only_and_full_layers_may_lack_values() -> None:
    names = shapes(build(ModelConfig.from_dict(multimodal())))
    moe = shapes(build(ModelConfig.from_dict(multimodal(moe_block(), audio_config=None))))
    layer, tail = "language_model.model.layers", "language_model.model.layers.4"

    assert {name for name in names if name.startswith(f"{tail}.self_attn")} == {
        f"{tail}.self_attn.{name}.weight" for name in ("q_proj", "q_norm", "o_proj")
    }
    assert names[f"{tail}.mlp.gate_proj.weight"] == (128, 32)
    assert f"{layer}.0.self_attn.v_proj.weight" in moe
    assert f"{layer}.1.self_attn.v_proj.weight" not in moe
    assert moe[f"{layer}.0.experts.switch_glu.gate_proj.weight"] == (8, 32, 32)
