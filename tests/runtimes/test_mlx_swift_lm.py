"""The check against mlx-swift-lm's table finds what is missing, surplus, or read otherwise."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from g4convert.tests.runtimes.mlx_swift_lm import unmet

TABLE = json.loads(Path(__file__).with_name("mlx_swift_lm.json").read_text(encoding="utf-8"))
DOCUMENTS = Path(__file__).parents[1] / "schemas" / "documents" / "config"


def _config(name: str, **additions: Any) -> dict[str, Any]:
    config = json.loads((DOCUMENTS / f"{name}.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    return {**config, "vocab_size": text["vocab_size"], **additions}


def _layer(index: int, *, owns_kv: bool, ple: bool = False, prefix: str = "language_model.") -> set[str]:
    norms = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    modules = [*norms, "self_attn.q_proj", "self_attn.o_proj", "self_attn.q_norm"]
    modules += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    modules += ["self_attn.k_proj", "self_attn.k_norm", "self_attn.v_proj"] if owns_kv else []
    modules += ["per_layer_input_gate", "per_layer_projection", "post_per_layer_input_norm"] if ple else []
    layer = f"{prefix}model.layers.{index}."
    return {f"{layer}{module}.weight" for module in modules} | {f"{layer}layer_scalar"}


def _text(layers: int, shared: int = 0, *, ple: bool = False, prefix: str = "language_model.") -> set[str]:
    names = {f"{prefix}model.embed_tokens.weight", f"{prefix}model.norm.weight"}
    if ple:
        tables = ("embed_tokens_per_layer", "per_layer_model_projection", "per_layer_projection_norm")
        names |= {f"{prefix}model.{table}.weight" for table in tables}
    return names.union(
        *(_layer(index, owns_kv=index < layers - shared, ple=ple, prefix=prefix) for index in range(layers))
    )


SMALL_TEXT = ("small-equal-heads-saved", _text(6, prefix=""))
SMALL_UNIFIED_NAMES = _text(6) - {"language_model.model.layers.5.self_attn.v_proj.weight"} | {
    *(
        f"vision_embedder.{norm}.{kind}"
        for norm in ("patch_ln1", "patch_ln2", "pos_norm")
        for kind in ("weight", "bias")
    ),
    *("vision_embedder.patch_dense.weight", "vision_embedder.patch_dense.bias", "vision_embedder.pos_embedding"),
    *("embed_vision.embedding_projection.weight", "embed_audio.embedding_projection.weight"),
}


def _small_text() -> tuple[dict[str, Any], set[str]]:
    config = _config("small-equal-heads-saved", global_head_dim=32, final_logit_softcapping=30.0)
    return config, set(SMALL_TEXT[1])


def _small_unified() -> tuple[dict[str, Any], set[str]]:
    config = _config("small-unified-saved")
    config["text_config"] |= {
        "global_head_dim": 512,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 0,
        "final_logit_softcapping": 30.0,
    }
    return config, set(SMALL_UNIFIED_NAMES)


def test_complete_outputs_pass() -> None:
    for config, names in (_small_text(), _small_unified()):
        assert unmet(TABLE, names, config) == []


def test_published_e2b_is_complete_in_the_llm_loader() -> None:
    lines = unmet(TABLE, _text(35, 20, ple=True), _config("E2B-published"))

    assert [line for line in lines if line.startswith("LLM")] == []
    assert "VLM gemma4: vision_tower.encoder.layers.15.self_attn.k_proj.linear.weight is missing" in lines
    assert "VLM gemma4: vision_tower.encoder.layers.0.mlp.up_proj.output_max is missing" in lines
    assert not [line for line in lines if "std_bias" in line]


def test_26b_has_experts_and_no_clip_bounds() -> None:
    lines = unmet(TABLE, [], _config("26B-A4B-published"))

    missing = {line.removeprefix("VLM gemma4: ") for line in lines if line.startswith("VLM")}
    assert {
        "language_model.model.layers.29.experts.switch_glu.down_proj.weight is missing",
        "language_model.model.layers.0.router.per_expert_scale is missing",
        "language_model.model.layers.0.self_attn.v_proj.weight is missing",
        "vision_tower.std_scale is missing",
    } <= missing
    assert not [line for line in missing if "layers.5.self_attn.v_proj" in line and line.startswith("language")]
    assert not [line for line in missing if "input_min" in line]


@pytest.mark.parametrize("name", sorted(SMALL_TEXT[1]))
def test_missing_tensor_is_named(name: str) -> None:
    config, names = _small_text()

    assert unmet(TABLE, names - {name}, config) == [f"LLM gemma4_text: {name} is missing"]


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.layers.6.layer_scalar", "model.layers.0.self_attn.v_norm.weight"]
)
def test_surplus_tensor_is_named(name: str) -> None:
    config, names = _small_text()

    assert unmet(TABLE, names | {name}, config) == [f"LLM gemma4_text: {name} is not a parameter"]


def test_untied_head_is_a_parameter() -> None:
    config, names = _small_text()
    config["tie_word_embeddings"] = False

    assert unmet(TABLE, names, config) == ["LLM gemma4_text: lm_head.weight is missing"]
    assert unmet(TABLE, names | {"lm_head.weight"}, config) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("global_head_dim", None, "text_config.global_head_dim is read as 512, and the config means 32"),
        (
            "final_logit_softcapping",
            None,
            "text_config.final_logit_softcapping is read as 30.0, and the config means None",
        ),
        ("rms_norm_eps", 1e-5, "text_config.rms_norm_eps is 1e-05, and it takes 1e-06 only"),
    ],
)
def test_key_that_is_read_otherwise_is_named(key: str, value: Any, expected: str) -> None:
    config, names = _small_text()
    config[key] = value

    assert unmet(TABLE, names, config) == [f"LLM gemma4_text: {expected}"]


@pytest.mark.parametrize(
    ("section", "key", "expected"),
    [
        (None, "vocab_size", {"LLM gemma4: text_config.vocab_size is read as 262144, and the config means 768"}),
        (
            *("text_config", "hidden_size_per_layer_input"),
            {"LLM gemma4: text_config.hidden_size_per_layer_input is read as 256, and the config means 0"},
        ),
        (
            *("text_config", "num_global_key_value_heads"),
            {"LLM gemma4: text_config.num_global_key_value_heads is read as 2, and the config means 1"},
        ),
    ],
)
def test_keys_that_transformers_does_not_save(section: str | None, key: str, expected: set[str]) -> None:
    config, names = _small_unified()
    del (config if section is None else config[section])[key]

    lines = unmet(TABLE, names, config)

    assert expected == {line for line in lines if "is read as" in line}


def test_waveform_frames_of_another_size_need_their_keys() -> None:
    config, names = _small_unified()
    config["audio_config"]["audio_embed_dim"] = 320

    lines = unmet(TABLE, names, config)

    assert "VLM gemma4_unified: audio_config.output_proj_dims is read as 640, and the config means 320" in lines
    config["audio_config"] |= {"audio_samples_per_token": 320, "hidden_size": 320, "output_proj_dims": 320}
    assert unmet(TABLE, names, config) == []


def test_sections_that_are_null_drop_their_tensors() -> None:
    config, names = _small_unified()
    config["vision_config"] = config["audio_config"] = None

    assert unmet(TABLE, names, config) == []


def test_gemma4_without_a_vision_tower_is_for_the_llm_loader_alone() -> None:
    config = _config("E2B-published", vision_config=None, audio_config=None)

    assert unmet(TABLE, _text(35, 20, ple=True), config) == []


def test_unknown_model_type_is_named() -> None:
    config = _config("small-unified-text-saved")

    assert unmet(TABLE, [], config) == ["no loader takes the model_type gemma4_unified_text"]


MODULE = "model.layers.0.mlp.up_proj"
PACKED = {f"{MODULE}.scales", f"{MODULE}.biases"}


@pytest.mark.parametrize(
    ("extra", "block", "expected"),
    [
        (PACKED, {"bits": 4, "group_size": 64}, []),
        (PACKED, {"bits": 4, "group_size": 64, MODULE: {"bits": 8, "group_size": 32}}, []),
        ({f"{MODULE}.scales"}, {"bits": 4, "group_size": 32, "mode": "mxfp4"}, []),
        (PACKED, None, [f"{MODULE} is packed, and config.json has no quantization"]),
        (PACKED, {"bits": 4, "group_size": 64, MODULE: False}, [f"{MODULE} is packed, and quantization says False"]),
        (PACKED, {"bits": 4, "group_size": 32, "mode": "mxfp4"}, [f"{MODULE} has the mode mxfp4, and has biases"]),
        ({f"{MODULE}.scales"}, {"bits": 4, "group_size": 64}, [f"{MODULE} has the mode affine, and lacks biases"]),
        ({f"{MODULE}.biases"}, {"bits": 4, "group_size": 64}, [f"{MODULE}.biases is not a parameter"]),
        (
            {"model.norm.scales", "model.norm.biases"},
            {"bits": 4, "group_size": 64},
            ["model.norm is packed, and it is no module that can be"],
        ),
    ],
)
def test_packed_modules(extra: set[str], block: Any, expected: list[str]) -> None:
    config, names = _small_text()
    if block is not None:
        config["quantization"] = copy.deepcopy(block)

    assert unmet(TABLE, names | extra, config) == [f"LLM gemma4_text: {line}" for line in expected]


def test_table_names_its_source_and_explains_its_conditions() -> None:
    used = {entry["when"] for group in TABLE["parameters"].values() for entry in group if "when" in entry}

    assert TABLE["source"] == "ml-explore/mlx-swift-lm"
    assert len(TABLE["commit"]) == 40
    assert used == set(TABLE["conditions"])
