"""The language model of every family."""

from __future__ import annotations

from collections.abc import Sequence

from ...loaders.config import LayerConfig, ModelConfig, TextConfig
from .rules import FIRST_HALF, SECOND_HALF, Dropped, Form, Role, Rule, Table

KV_TAIL = "KV-shared tail: the layer reads the keys and values of an earlier one"
COMPUTED = "computed from the config"
TIED = "tied: a copy of embed_tokens"


def _model(config: ModelConfig) -> Sequence[TextConfig]:
    return (config.text,)


def _layers(config: ModelConfig) -> Sequence[LayerConfig]:
    return config.text.layers


MODEL_RULES = (
    Rule("embed_tokens.weight", "vocab_size hidden_size", Role.EMBEDDING),
    Rule("norm.weight", "hidden_size"),
    Rule("embed_tokens_per_layer.weight", "vocab_size_per_layer_input ple_size", Role.EMBEDDING, when="has_ple"),
    Rule("per_layer_model_projection.weight", "ple_size hidden_size", Role.LINEAR, when="has_ple"),
    Rule("per_layer_projection_norm.weight", "hidden_size_per_layer_input", when="has_ple"),
)

ATTENTION_RULES = (
    Rule("self_attn.q_proj.weight", "q_size hidden_size", Role.LINEAR),
    Rule("self_attn.q_norm.weight", "head_dim"),
    Rule("self_attn.o_proj.weight", "hidden_size q_size", Role.LINEAR),
    Rule("self_attn.k_proj.weight", "kv_size hidden_size", Role.LINEAR, when="owns_kv"),
    Rule("self_attn.k_norm.weight", "head_dim", when="owns_kv"),
    Rule("self_attn.v_proj.weight", "kv_size hidden_size", Role.LINEAR, when="owns_v_proj"),
)

MLP_RULES = (
    Rule("mlp.gate_proj.weight", "intermediate_size hidden_size", Role.LINEAR),
    Rule("mlp.up_proj.weight", "intermediate_size hidden_size", Role.LINEAR),
    Rule("mlp.down_proj.weight", "hidden_size intermediate_size", Role.LINEAR),
)

EXPERT_IN = "num_experts moe_intermediate_size hidden_size"
EXPERT_OUT = "num_experts hidden_size moe_intermediate_size"
FUSED = "num_experts moe_fused_size hidden_size"

EXPERT_RULES = (
    Rule("router.proj.weight", "num_experts hidden_size", Role.ROUTER, when="has_experts"),
    Rule("router.scale", "hidden_size", when="has_experts"),
    Rule("router.per_expert_scale", "num_experts", when="has_experts"),
    Rule(
        "experts.switch_glu.gate_proj.weight",
        EXPERT_IN,
        Role.EXPERT,
        when="has_experts",
        also=(Form("experts.gate_up_proj", FUSED, FIRST_HALF),),
    ),
    Rule(
        "experts.switch_glu.up_proj.weight",
        EXPERT_IN,
        Role.EXPERT,
        when="has_experts",
        also=(Form("experts.gate_up_proj", FUSED, SECOND_HALF),),
    ),
    Rule(
        "experts.switch_glu.down_proj.weight",
        EXPERT_OUT,
        Role.EXPERT,
        when="has_experts",
        also=(Form("experts.down_proj", EXPERT_OUT),),
    ),
    Rule("pre_feedforward_layernorm_2.weight", "hidden_size", when="has_experts"),
    Rule("post_feedforward_layernorm_1.weight", "hidden_size", when="has_experts"),
    Rule("post_feedforward_layernorm_2.weight", "hidden_size", when="has_experts"),
)

PLE_RULES = (
    Rule("per_layer_input_gate.weight", "hidden_size_per_layer_input hidden_size", Role.LINEAR, when="has_ple"),
    Rule("per_layer_projection.weight", "hidden_size hidden_size_per_layer_input", Role.LINEAR, when="has_ple"),
    Rule("post_per_layer_input_norm.weight", "hidden_size", when="has_ple"),
)

LAYER_RULES = (
    *ATTENTION_RULES,
    *MLP_RULES,
    *EXPERT_RULES,
    *PLE_RULES,
    Rule("input_layernorm.weight", "hidden_size"),
    Rule("post_attention_layernorm.weight", "hidden_size"),
    Rule("pre_feedforward_layernorm.weight", "hidden_size"),
    Rule("post_feedforward_layernorm.weight", "hidden_size"),
    Rule("layer_scalar", "1"),
)

LAYER_DROPS = (
    Dropped("self_attn.k_proj.weight", KV_TAIL, when="shares_kv"),
    Dropped("self_attn.k_norm.weight", KV_TAIL, when="shares_kv"),
    Dropped("self_attn.v_proj.weight", KV_TAIL, when="shares_kv"),
    Dropped("self_attn.rotary_emb.inv_freq", COMPUTED),
)

HEAD_RULES = (Rule("weight", "vocab_size hidden_size", Role.LINEAR, when="untied"),)
HEAD_DROPS = (Dropped("weight", TIED, when="tie_word_embeddings", copy_of="language_model.embed_tokens.weight"),)

TEXT_TABLES = (
    Table("text", "language_model.", _model, MODEL_RULES, (Dropped("rotary_emb.inv_freq", COMPUTED),)),
    Table(
        "text",
        "language_model.layers.{}.",
        _layers,
        LAYER_RULES,
        LAYER_DROPS,
    ),
    Table("text", "lm_head.", _model, HEAD_RULES, HEAD_DROPS),
)
