"""Tiny checkpoints in MLX form, written on the spot, and ways to break them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from g4convert.loaders.config import ModelConfig
from g4convert.loaders.model import Network, build
from g4convert.tests.support import CHECKPOINTS
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

WINDOW = 8
PAD, EOS, BOS, UNK, TURN, END_OF_TURN, TOOL, IMAGE, VIDEO, AUDIO = range(10)
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<tool>", "<|image|>", "<|video|>", "<|audio|>")
FRAMING = ("<|image>", "<image|>", "<|audio>", "<audio|>")
FIRST_BYTE = len(SPECIAL)
BOI, EOI, BOA, EOA = range(FIRST_BYTE + 256, FIRST_BYTE + 260)
VOCABULARY = FIRST_BYTE + 256 + 6

SLIDING, FULL = "sliding_attention", "full_attention"
ROPE = {
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
}

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message['role'] }}\n"
    "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}<turn|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)

Weights = dict[str, mx.array]


def text_block(**changes: Any) -> dict[str, Any]:
    """The `text_config` of a small E2B: PLE, a KV-shared tail with a double-wide MLP."""
    return {
        "model_type": "gemma4_text",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "global_head_dim": 32,
        "layer_types": [SLIDING, FULL] * 3,
        "sliding_window": WINDOW,
        "rms_norm_eps": 1e-6,
        "rope_parameters": ROPE,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 32,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "attention_k_eq_v": False,
        "attention_bias": False,
        "enable_moe_block": False,
        "use_bidirectional_attention": None,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "tie_word_embeddings": True,
        **changes,
    }


def moe_block() -> dict[str, Any]:
    """The `text_config` of a small 26B-A4B."""
    return text_block(
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        use_double_wide_mlp=False,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        enable_moe_block=True,
        num_experts=8,
        top_k_experts=2,
        moe_intermediate_size=32,
    )


VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "patch_size": 4,
    "pooling_kernel_size": 3,
    "position_embedding_size": 10,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "use_clipped_linears": True,
    "standardize": False,
}
AUDIO_TOWER = {
    "model_type": "gemma4_audio",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [8, 4],
    "conv_kernel_size": 5,
    "output_proj_dims": 24,
    "attention_chunk_size": 12,
    "attention_context_left": 13,
    "attention_context_right": 0,
    "attention_logit_cap": 50.0,
    "attention_invalid_logits_value": -1e9,
    "gradient_clipping": 1e10,
    "residual_weight": 0.5,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "use_clipped_linears": True,
}


def multimodal(text: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A `config.json` of model type gemma4."""
    return {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "dtype": "float32",
        "text_config": dict(text or text_block()),
        "vision_config": VISION,
        "audio_config": AUDIO_TOWER,
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "audio_token_id": AUDIO,
        "boi_token_id": BOI,
        "eoi_token_id": EOI,
        "boa_token_id": BOA,
        "eoa_token_index": EOA,
        "eos_token_id": [EOS, END_OF_TURN],
        "tie_word_embeddings": True,
        "vision_soft_tokens_per_image": 70,
        **changes,
    }


def text_only(**changes: Any) -> dict[str, Any]:
    """A `config.json` of model type gemma4_text."""
    return {**text_block(), "architectures": ["Gemma4ForCausalLM"], "dtype": "float32", **changes}


def random_network(document: Mapping[str, Any], *, seed: int = 0) -> Network:
    """The network of a config, every parameter random and none of them neutral."""
    network = build(ModelConfig.from_dict(document))
    parameters: Any = tree_flatten(network.parameters(), destination={})
    keys = mx.random.split(mx.random.key(seed), len(parameters))
    weights = zip(parameters, map(_random, parameters.values(), keys), strict=True)
    network.update(tree_unflatten(list(weights)))
    return network


def _random(parameter: mx.array, key: mx.array) -> mx.array:
    noise = mx.random.normal(parameter.shape, key=key)
    return noise * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1 + 0.2 * noise


def write_checkpoint(
    folder: Path,
    document: Mapping[str, Any],
    *,
    quantization: Mapping[str, Any] | None = None,
    dtype: mx.Dtype = mx.float32,
    seed: int = 0,
) -> Path:
    """Write a whole checkpoint with random weights; modules with entries in `quantization` are packed."""
    folder.mkdir(parents=True, exist_ok=True)
    network = random_network(document, seed=seed)
    network.set_dtype(dtype)
    if quantization is not None:
        nn.quantize(network, class_predicate=lambda path, _: quantization.get(path, False))
        document = {**document, "quantization": quantization}
    save(folder, dict(tree_flatten(network.parameters())))
    write_companions(folder, document)
    return folder


def write_companions(folder: Path, document: Mapping[str, Any]) -> None:
    """Write the files beside the weights."""
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, TOOL], "top_k": 64}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer().save(str(folder / "tokenizer.json"))


def tokenizer() -> Tokenizer:
    """One token for each byte, as Gemma's falls back to for what its vocabulary lacks."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    vocabulary |= {f"<0x{byte:02X}>": FIRST_BYTE + byte for byte in range(256)}
    vocabulary |= {token: BOI + index for index, token in enumerate(FRAMING)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")])
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*SPECIAL, *FRAMING)])
    return made


def byte_ids(text: str) -> list[int]:
    """The ids of a text without special tokens."""
    return [FIRST_BYTE + byte for byte in text.replace(" ", "▁").encode()]


def save(folder: Path, weights: Weights) -> None:
    """Write the weights as one shard."""
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


def rewrite(folder: Path, change: Callable[[Weights], object]) -> None:
    """Change the weights of a checkpoint."""
    weights: Any = mx.load(str(folder / "model.safetensors"))
    mx.eval(weights)
    change(weights)
    save(folder, weights)


def rewrite_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the config of a checkpoint."""
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))


def weights_sha256(kind: str) -> str:
    """Digest of a shipped sample's weights, which says which sample a golden belongs to."""
    return hashlib.sha256((CHECKPOINTS / kind / "model.safetensors").read_bytes()).hexdigest()
