"""The configurations of the samples, one per published kind, as transformers' own objects."""

import torchvision_on_cpu  # noqa: F401 (before transformers imports torchvision)
from tokenizer import VOCABULARY, token_id
from transformers import Gemma4AudioConfig, Gemma4Config, Gemma4TextConfig, Gemma4VisionConfig
from transformers.models.gemma4_unified import (
    Gemma4UnifiedAudioConfig,
    Gemma4UnifiedConfig,
    Gemma4UnifiedTextConfig,
    Gemma4UnifiedVisionConfig,
)

SLIDING, FULL = "sliding_attention", "full_attention"
ROPE = {
    FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
    SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
}
MEDIA_TOKENS = {
    "boi_token_id": "<|image>",
    "eoi_token_id": "<image|>",
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "boa_token_id": "<|audio>",
    "eoa_token_index": "<audio|>",
    "audio_token_id": "<|audio|>",
}
PICTURE_BUDGET = 70


def _pattern(periods: int, sliding: int) -> list[str]:
    return ([SLIDING] * sliding + [FULL]) * periods


def _media_ids() -> dict[str, int]:
    return {key: token_id(token) for key, token in MEDIA_TOKENS.items()}


def _text(**changes: object) -> dict:
    """Return the settings that all text models share, with a kind's own."""
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": len(changes["layer_types"]),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "global_head_dim": 64,
        "max_position_embeddings": 4096,
        "sliding_window": 32,
        "final_logit_softcapping": 30.0,
        "rope_parameters": ROPE,
    }
    return common | changes


def _per_layer_inputs() -> dict:
    return {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 64}


def _vision(**changes: object) -> Gemma4VisionConfig:
    """Return a small vision tower; by default the one with clipped linear layers."""
    common = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "position_embedding_size": 256,
        "use_clipped_linears": True,
        "default_output_length": PICTURE_BUDGET,
    }
    return Gemma4VisionConfig(**(common | changes))


def _audio(layers: int) -> Gemma4AudioConfig:
    return Gemma4AudioConfig(hidden_size=64, num_hidden_layers=layers, num_attention_heads=2, output_proj_dims=64)


def e2b() -> Gemma4Config:
    """E2B: K/V sharing with a double-wide tail, per-layer inputs, one K/V head, all three media."""
    text = _text(
        hidden_size=128,
        intermediate_size=128,
        layer_types=_pattern(3, 1),
        num_key_value_heads=1,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        **_per_layer_inputs(),
    )
    return Gemma4Config(
        text_config=Gemma4TextConfig(**text),
        vision_config=_vision(num_hidden_layers=2),
        audio_config=_audio(2),
        **_media_ids(),
    )


def e4b() -> Gemma4Config:
    """E4B: as E2B with two K/V heads, a plain tail, and towers whose layer numbers reach into the shared tail."""
    text = _text(layer_types=_pattern(2, 2), num_kv_shared_layers=3, **_per_layer_inputs())
    return Gemma4Config(
        text_config=Gemma4TextConfig(**text),
        vision_config=_vision(num_hidden_layers=5),
        audio_config=_audio(5),
        **_media_ids(),
    )


def _large(**changes: object) -> Gemma4Config:
    """Return a model without sound: full layers whose keys are their values, pictures seen in both directions."""
    text = _text(
        attention_k_eq_v=True,
        use_bidirectional_attention="vision",
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=VOCABULARY,
        **changes,
    )
    vision = _vision(
        num_hidden_layers=2,
        intermediate_size=80,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=24,
        use_clipped_linears=False,
        standardize=True,
    )
    return Gemma4Config(text_config=Gemma4TextConfig(**text), vision_config=vision, audio_config=None, **_media_ids())


def a4b() -> Gemma4Config:
    """26B-A4B: a mixture of experts beside the dense block."""
    return _large(
        layer_types=_pattern(1, 5),
        num_attention_heads=8,
        num_key_value_heads=4,
        num_global_key_value_heads=2,
        enable_moe_block=True,
        num_experts=8,
        top_k_experts=2,
        moe_intermediate_size=64,
    )


def dense() -> Gemma4Config:
    """31B: dense, two periods of five sliding layers and a full one."""
    return _large(layer_types=_pattern(2, 5), num_global_key_value_heads=1)


def unified() -> Gemma4UnifiedConfig:
    """12B: no towers; pixels and samples enter through one projection each."""
    text = _text(
        hidden_size=128,
        intermediate_size=192,
        layer_types=_pattern(2, 2),
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        use_bidirectional_attention="vision",
    )
    return Gemma4UnifiedConfig(
        text_config=Gemma4UnifiedTextConfig(**text),
        vision_config=Gemma4UnifiedVisionConfig(mm_embed_dim=128, output_proj_dims=128, mm_posemb_size=128),
        audio_config=Gemma4UnifiedAudioConfig(),
        **_media_ids(),
    )


def text_only() -> Gemma4TextConfig:
    """A text-only fine-tune of the E2B kind."""
    settings = _text(
        layer_types=_pattern(2, 2),
        num_key_value_heads=1,
        num_kv_shared_layers=3,
        use_double_wide_mlp=True,
        **_per_layer_inputs(),
    )
    return Gemma4TextConfig(**settings, bos_token_id=2, eos_token_id=1, pad_token_id=0)
