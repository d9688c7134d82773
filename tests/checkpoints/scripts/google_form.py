"""The form in which Google publishes Gemma 4: key sets of config.json, surplus tensors, processor settings.

transformers 5.23 writes another one (`per_layer_config` for `global_head_dim` and `num_global_key_value_heads`, no
K/V tensors in the tail that shares them), so a checkpoint saved with `save_pretrained` is rewritten here.
"""

import json
import math
from pathlib import Path

import torch
from kinds import FULL, PICTURE_BUDGET
from safetensors.torch import load_file, save_file
from tokenizer import token_id, write_json

LEGACY = {
    "_name_or_path": "",
    "architectures": None,
    "chunk_size_feed_forward": 0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "return_dict": True,
}
TEXT_KEYS = (
    "attention_bias attention_dropout attention_k_eq_v bos_token_id dtype enable_moe_block eos_token_id "
    "final_logit_softcapping global_head_dim head_dim hidden_activation hidden_size hidden_size_per_layer_input "
    "initializer_range intermediate_size layer_types max_position_embeddings model_type num_attention_heads "
    "num_experts num_global_key_value_heads num_hidden_layers num_key_value_heads num_kv_shared_layers pad_token_id "
    "rms_norm_eps rope_parameters sliding_window tie_word_embeddings top_k_experts use_bidirectional_attention "
    "use_cache use_double_wide_mlp vocab_size vocab_size_per_layer_input"
)
VISION_KEYS = (
    "attention_bias attention_dropout default_output_length dtype global_head_dim head_dim hidden_activation "
    "hidden_size initializer_range intermediate_size max_position_embeddings model_type num_attention_heads "
    "num_hidden_layers num_key_value_heads patch_size pooling_kernel_size position_embedding_size rms_norm_eps "
    "rope_parameters standardize use_clipped_linears"
)
AUDIO_KEYS = (
    "attention_chunk_size attention_context_left attention_context_right attention_invalid_logits_value "
    "attention_logit_cap conv_kernel_size dtype gradient_clipping hidden_act hidden_size initializer_range model_type "
    "num_attention_heads num_hidden_layers output_proj_dims residual_weight rms_norm_eps subsampling_conv_channels "
    "use_clipped_linears"
)
UNIFIED_VISION_KEYS = (
    "dtype initializer_range mm_embed_dim mm_posemb_size model_patch_size model_type num_soft_tokens output_proj_dims "
    "patch_size pooling_kernel_size rms_norm_eps"
)
UNIFIED_AUDIO_KEYS = (
    "audio_embed_dim audio_samples_per_token dtype hidden_size initializer_range model_type output_proj_dims "
    "rms_norm_eps"
)
TOP_KEYS = (
    "architectures audio_token_id boa_token_id boi_token_id dtype eoa_token_index eoi_token_id image_token_id "
    "initializer_range model_type tie_word_embeddings video_token_id"
)
VISION_ROPE = {"rope_theta": 100.0, "rope_type": "default"}
SHARED = ("k_proj", "v_proj", "k_norm")


def text_block(saved: dict) -> dict:
    """Return `text_config` with the published keys."""
    unified = saved["model_type"] == "gemma4_unified_text"
    full = next(iter(saved["per_layer_config"].values()))
    known = {
        "dtype": "bfloat16",
        "enable_moe_block": False,
        "global_head_dim": full["head_dim"],
        "hidden_size_per_layer_input": 0,
        "num_experts": None,
        "num_global_key_value_heads": full.get("num_key_value_heads") if saved["attention_k_eq_v"] else None,
        "top_k_experts": None,
        "vocab_size_per_layer_input": saved["vocab_size"],
    } | saved
    block = {key: known[key] for key in TEXT_KEYS.split()}
    if unified:
        del block["dtype"]
    if unified or block["enable_moe_block"]:
        return block | {"moe_intermediate_size": saved.get("moe_intermediate_size")}
    return block | {"expert_intermediate_size": None}


def media_block(saved: dict, config: object, unified: bool) -> dict:
    """Return `vision_config` or `audio_config` with the published keys; `config` supplies derived properties."""
    known = {"dtype": None if unified else "bfloat16", "num_soft_tokens": PICTURE_BUDGET}
    if saved["model_type"] == "gemma4_vision":
        known |= {"global_head_dim": saved["head_dim"], "rope_parameters": VISION_ROPE}
        keys = VISION_KEYS
    elif saved["model_type"] == "gemma4_audio":
        keys = AUDIO_KEYS
    else:
        keys = UNIFIED_VISION_KEYS if "mm_embed_dim" in saved else UNIFIED_AUDIO_KEYS
    found = {key: known[key] if key in known else saved.get(key, getattr(config, key, None)) for key in keys.split()}
    return LEGACY | found


def google_config(saved: dict, config: object) -> dict:
    """Return config.json in the published form for the one that `save_pretrained` wrote."""
    unified = saved["model_type"] == "gemma4_unified"
    top = {key: saved[key] for key in TOP_KEYS.split()} | {
        "dtype": "bfloat16",
        "eos_token_id": [token_id("<eos>"), token_id("<turn|>")],
        "transformers_version": "5.10.0.dev0" if unified else "5.5.0.dev0",
        "text_config": text_block(saved["text_config"]),
    }
    for name in ("vision_config", "audio_config"):
        block = saved[name]
        top[name] = block and media_block(block, getattr(config, name), unified)
    if not unified:
        top |= {"eoa_token_id": saved["eoa_token_index"], "vision_soft_tokens_per_image": PICTURE_BUDGET}
    return top


def redundant_tensors(config: dict, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return the K/V tensors that the published files carry in the sharing tail, where nothing reads them."""
    text, tensors = config["text_config"], {}
    layers = text["num_hidden_layers"]
    for layer in range(layers - text["num_kv_shared_layers"], layers):
        width = text["global_head_dim"] if text["layer_types"][layer] == FULL else text["head_dim"]
        shape = (text["num_key_value_heads"] * width, text["hidden_size"])
        for name in SHARED:
            tensor = torch.randn(shape if name != "k_norm" else width, generator=generator)
            tensor = tensor / math.sqrt(shape[1]) if name != "k_norm" else 1 + 0.1 * tensor
            tensors[f"model.language_model.layers.{layer}.self_attn.{name}.weight"] = tensor.bfloat16()
    return tensors


def to_google_form(folder: Path, config: object, seed: int) -> None:
    """Rewrite a folder that `save_pretrained` made."""
    path, weights = folder / "config.json", folder / "model.safetensors"
    published = google_config(json.loads(path.read_text()), config)
    write_json(path, published)
    tensors = load_file(weights)
    tensors |= redundant_tensors(published, torch.Generator().manual_seed(seed))
    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def _pictures(kind: str, **changes: object) -> dict:
    """Return the settings of a picture or clip processor."""
    return {
        "do_convert_rgb": True,
        "do_normalize": False,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "max_soft_tokens": PICTURE_BUDGET,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
        **changes,
    } | ({"image_processor_type": kind} if "Image" in kind else {"video_processor_type": kind})


def _sound(unified: bool) -> dict:
    common = {"padding_side": "right", "padding_value": 0.0, "return_attention_mask": True, "sampling_rate": 16000}
    if unified:
        kind = "Gemma4UnifiedAudioFeatureExtractor"
        return common | {"audio_samples_per_token": 640, "feature_extractor_type": kind, "feature_size": 640}
    return common | {
        "dither": 0.0,
        "feature_extractor_type": "Gemma4AudioFeatureExtractor",
        "feature_size": 128,
        "fft_length": 512,
        "fft_overdrive": False,
        "frame_length": 320,
        "hop_length": 160,
        "input_scale_factor": 1.0,
        "max_frequency": 8000.0,
        "mel_floor": 0.001,
        "min_frequency": 0.0,
        "per_bin_mean": None,
        "per_bin_stddev": None,
        "preemphasis": 0.0,
        "preemphasis_htk_flavor": True,
    }


def processor_settings(unified: bool, frames: int) -> dict:
    """Return processor_config.json as published, with a small picture budget and few frames."""
    name = "Gemma4Unified" if unified else "Gemma4"
    counted = {} if unified else {"image_seq_length": PICTURE_BUDGET}
    sampled = {"do_normalize": True, "do_sample_frames": True, "num_frames": frames, "return_metadata": False}
    return {
        "audio_ms_per_token": 40,
        "audio_seq_length": 750,
        "feature_extractor": _sound(unified),
        "image_processor": _pictures(f"{name}ImageProcessor", **counted),
        "image_seq_length": PICTURE_BUDGET,
        "processor_class": f"{name}Processor",
        "video_processor": _pictures(f"{name}VideoProcessor", **sampled),
    }
