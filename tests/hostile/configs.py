"""Configs that are no config, say what no model can be, contradict themselves, or contradict the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from g4convert.schemas.errors import (
    ConfigError,
    MissingTensorError,
    QuantizedSourceError,
    TensorShapeError,
    UnknownTensorError,
    UnsupportedModelError,
)

from .breaks import Break, Breaks, Damage, Refusal, document, remove, text

CONFIG = "config.json"
SLIDING, FULL = "sliding_attention", "full_attention"
SHAPE = "config calls for ["
LACKS = Refusal(MissingTensorError, "the checkpoint lacks this tensor")
SURPLUS = Refusal(UnknownTensorError, "the model has no such parameter")


def top(**changes: Any) -> Damage:
    return document(CONFIG, lambda config: config.update(changes))


def section(name: str) -> Callable[..., Damage]:
    return lambda **changes: document(CONFIG, lambda config: config[f"{name}_config"].update(changes))


def gone(*path: str) -> Damage:
    """Remove a key."""

    def edit(config: Any) -> None:
        *sections, key = path
        for name in sections:
            config = config[name]
        del config[key]

    return document(CONFIG, edit)


def rope(kind: str, **changes: Any) -> Damage:
    return document(CONFIG, lambda config: config["text_config"]["rope_parameters"][kind].update(changes))


def nested(count: int) -> Damage:
    """A key that nothing reads, as deep as a parser goes."""

    def edit(config: Any) -> None:
        inner: Any = 0
        for _ in range(count):
            inner = {"a": inner}
        config["extra"] = inner

    return document(CONFIG, edit)


words, vision, audio = section("text"), section("vision"), section("audio")
LAYERS = [SLIDING, FULL] * 3

# What is no config at all.
DOCUMENTS: Breaks = {
    "missing": Break(remove(CONFIG), ConfigError, f"{CONFIG}: the file is missing"),
    "empty": Break(text(CONFIG, ""), ConfigError, f"{CONFIG}: not valid JSON"),
    "half of one": Break(text(CONFIG, "{"), ConfigError, f"{CONFIG}: not valid JSON"),
    "a list": Break(text(CONFIG, "[]"), ConfigError, "not an object"),
    "null": Break(text(CONFIG, "null"), ConfigError, "not an object"),
    "no UTF-8": Break(text(CONFIG, b'{"model_type": "\xff"}'), ConfigError, f"{CONFIG}: cannot be read"),
    "a byte order mark": Break(text(CONFIG, b"\xef\xbb\xbf{}"), ConfigError, f"{CONFIG}: not valid JSON"),
    "UTF-16": Break(text(CONFIG, "{}".encode("utf-16")), ConfigError, f"{CONFIG}: cannot be read"),
    "comments": Break(text(CONFIG, "{} // gemma"), ConfigError, f"{CONFIG}: not valid JSON"),
    "half a character": Break(text(CONFIG, '{"model_type": "\\udc00"}'), ConfigError, f"{CONFIG}: not valid JSON"),
    "a key twice": Break(text(CONFIG, '{"model_type": "gemma4", "model_type": "gemma4"}'), ConfigError, "the key 'model_type' stands twice"),
    "nested 100,000 deep": Break(text(CONFIG, '{"a":' * 100_000), ConfigError, f"{CONFIG}: cannot be read"),
    "nested 900 deep": Break(nested(900), ConfigError, "it is nested deeper than 50 levels|cannot be read"),
    "nested 300 deep": Break(nested(300), ConfigError, "it is nested deeper than 50 levels"),
    "two megabytes": Break(top(extra="x" * 2_000_000), ConfigError, "more than 1,000,000 bytes"),
    "a number of 5000 digits": Break(text(CONFIG, f'{{"model_type": {"9" * 5000}}}'), ConfigError, f"{CONFIG}: not valid JSON"),
    "empty object": Break(text(CONFIG, "{}"), UnsupportedModelError, "model_type is None"),
}  # fmt: skip

# What no Gemma 4 can be, or what it cannot be together with the rest.
FIELDS: Breaks = {
    "unknown model_type": Break(top(model_type="gemma5"), UnsupportedModelError, "model_type is 'gemma5'"),
    "model_type is a list": Break(top(model_type=["gemma4"]), UnsupportedModelError, "model_type is ['gemma4']"),
    "model_type that clears the screen": Break(top(model_type="\x1b[2J"), UnsupportedModelError, "[2J"),
    "model_type of a megabyte": Break(top(model_type="x" * 900_000), UnsupportedModelError, "model_type is 'xxx"),
    "drafter": Break(top(model_type="gemma4_assistant"), UnsupportedModelError, "is a drafter"),
    "the other family": Break(top(model_type="gemma4_unified"), ConfigError, "$.audio_config: found no key"),
    "text only, with sections": Break(top(model_type="gemma4_text"), ConfigError, f"{CONFIG}: $: found no key"),
    "no text": Break(gone("text_config"), ConfigError, "found no key 'text_config'"),
    "text is a list": Break(top(text_config=[]), ConfigError, "$.text_config"),
    "text is null": Break(top(text_config=None), ConfigError, "$.text_config"),
    "hidden size is a word": Break(words(hidden_size="big"), ConfigError, "$.text_config.hidden_size"),
    "hidden size of 2**62": Break(words(hidden_size=1 << 62), ConfigError, "$.text_config.hidden_size"),
    "hidden size of 10**4000": Break(words(hidden_size=10**4000), ConfigError, "$.text_config.hidden_size"),
    "10**18 layers": Break(words(num_hidden_layers=10**18), ConfigError, "$.text_config.num_hidden_layers"),
    "10**18 layers of vision": Break(vision(num_hidden_layers=10**18), ConfigError, "$.vision_config.num_hidden_layers"),
    "10**18 layers of audio": Break(audio(num_hidden_layers=10**18), ConfigError, "$.audio_config.num_hidden_layers"),
    "vocabulary of 10**12": Break(words(vocab_size=10**12), ConfigError, "$.text_config.vocab_size"),
    "largest vocabulary": Break(words(vocab_size=10**7), TensorShapeError, SHAPE),
    "largest sizes": Break(words(hidden_size=131072, intermediate_size=1 << 20, head_dim=8192, global_head_dim=8192, num_attention_heads=1024), TensorShapeError, SHAPE),
    "largest number of layers": Break(words(num_hidden_layers=256, layer_types=[SLIDING, FULL] * 128), TensorShapeError, SHAPE, LACKS),
    "largest number of layers of vision": Break(vision(num_hidden_layers=256), MissingTensorError, "the config calls for", LACKS),
    "largest number of layers of audio": Break(audio(num_hidden_layers=256), MissingTensorError, "the config calls for", LACKS),
    "largest position table": Break(vision(position_embedding_size=10**6), TensorShapeError, SHAPE),
    "100,000 layer types": Break(words(layer_types=[0] * 100_000), ConfigError, "$.text_config.layer_types"),
    "a vocabulary that is too small": Break(words(vocab_size=767), ConfigError, "vocab_size is 767, and tokenizer.json has"),
    "a vocabulary that is too large": Break(words(vocab_size=769), TensorShapeError, SHAPE),
    "per-layer vocabulary that is too small": Break(words(vocab_size_per_layer_input=767), TensorShapeError, SHAPE),
    "per-layer vocabulary that is too large": Break(words(vocab_size_per_layer_input=769), TensorShapeError, SHAPE),
    "two vocabularies": Break(top(vocab_size=700), ConfigError, "$.vocab_size is 700", loading=False),
    "per-layer embeddings of another width": Break(words(hidden_size_per_layer_input=32), TensorShapeError, SHAPE),
    "no per-layer embeddings": Break(words(hidden_size_per_layer_input=0), UnknownTensorError, "is not part of gemma4", SURPLUS),
    "layer_types too short": Break(words(layer_types=LAYERS[:5]), ConfigError, "layer_types has 5 entries, num_hidden_layers is 6"),
    "layer_types too long": Break(words(layer_types=[*LAYERS, FULL]), ConfigError, "layer_types has 7 entries"),
    "layer_types of no kind": Break(words(layer_types=["linear_attention"] * 6), ConfigError, "$.text_config.layer_types[0]"),
    "layer_types in another order": Break(words(layer_types=[FULL, SLIDING, *LAYERS[2:]]), TensorShapeError, SHAPE),
    "the last layer slides": Break(words(layer_types=[*LAYERS[:4], FULL, SLIDING]), ConfigError, "the last entry of layer_types"),
    "layer_types is empty": Break(words(layer_types=[]), ConfigError, "$.text_config.layer_types"),
    "all layers share": Break(words(num_kv_shared_layers=6), ConfigError, "num_kv_shared_layers is 6, the model has 6"),
    "more layers share than there are": Break(words(num_kv_shared_layers=256), ConfigError, "num_kv_shared_layers is 256"),
    "no layer to share with": Break(words(num_kv_shared_layers=5), ConfigError, "no layer before the tail"),
    "fewer layers share": Break(words(num_kv_shared_layers=1), TensorShapeError, SHAPE, LACKS),
    "heads do not divide": Break(words(num_key_value_heads=3), ConfigError, "key-value heads"),
    "heads of vision do not divide": Break(vision(num_key_value_heads=3), ConfigError, "vision_config: key-value heads are 3"),
    "heads of audio do not divide": Break(audio(num_attention_heads=3), ConfigError, "audio_config: attention heads are 3"),
    "odd head dimension": Break(words(head_dim=33), ConfigError, "$.text_config.head_dim"),
    "another head dimension": Break(words(head_dim=64), TensorShapeError, SHAPE),
    "two geometries": Break(words(per_layer_config={"1": {"head_dim": 32}}), TensorShapeError, SHAPE),
    "a layer that does not exist": Break(words(per_layer_config={"6": {"head_dim": 64}}), ConfigError, "per_layer_config names layer 6"),
    "a layer by two names": Break(words(per_layer_config={"1": {"head_dim": 64}, "01": {"head_dim": 64}}), ConfigError, "per_layer_config names a layer twice"),
    "a layer that is no number": Break(words(per_layer_config={"x": {}}), ConfigError, "$.text_config.per_layer_config"),
    "20,000 layers of their own": Break(words(per_layer_config={f"{i}": {} for i in range(20_000)}), ConfigError, "$.text_config.per_layer_config"),
    "no rope": Break(gone("text_config", "rope_parameters"), ConfigError, "found no key 'rope_parameters'"),
    "rope of one kind": Break(gone("text_config", "rope_parameters", SLIDING), ConfigError, "rope_parameters has no entry for sliding_attention"),
    "rope of a third kind": Break(words(rope_parameters={"linear": {}}), ConfigError, "$.text_config.rope_parameters"),
    "rope without a base": Break(gone("text_config", "rope_parameters", FULL, "rope_theta"), ConfigError, "found no key 'rope_theta'"),
    "rope with a base of zero": Break(rope(FULL, rope_theta=0), ConfigError, "rope_theta"),
    "rope with a base of 1e300": Break(rope(FULL, rope_theta=1e300), ConfigError, "rope_theta"),
    "rope that stretches": Break(rope(FULL, factor=8), ConfigError, "factor"),
    "rope of another method": Break(rope(FULL, rope_type="yarn"), ConfigError, "rope_type"),
    "rope of more than the head": Break(rope(FULL, partial_rotary_factor=1.5), ConfigError, "partial_rotary_factor"),
    "another activation": Break(words(hidden_activation="relu"), ConfigError, "hidden_activation"),
    "bias": Break(words(attention_bias=True), ConfigError, "attention_bias"),
    "window of zero": Break(words(sliding_window=0), ConfigError, "sliding_window"),
    "norm without an epsilon": Break(words(rms_norm_eps=0), ConfigError, "rms_norm_eps"),
    "experts that are not there": Break(words(enable_moe_block=True, num_experts=8, top_k_experts=2, moe_intermediate_size=64), MissingTensorError, "the config calls for", LACKS),
    "experts without a number": Break(words(enable_moe_block=True), ConfigError, "with enable_moe_block"),
    "more chosen than experts": Break(document(CONFIG, lambda c: c["text_config"].update(top_k_experts=c["text_config"]["num_experts"] + 1)), ConfigError, "top_k_experts is", kind="26b-a4b"),
    "fewer experts": Break(document(CONFIG, lambda c: c["text_config"].update(num_experts=c["text_config"]["num_experts"] - 1)), TensorShapeError, SHAPE, kind="26b-a4b"),
    "untied": Break(top(tie_word_embeddings=False), MissingTensorError, "lm_head", Refusal(MissingTensorError, "lacks this tensor")),
    "narrow MLP": Break(words(use_double_wide_mlp=False), TensorShapeError, SHAPE),
    "keys for values": Break(words(attention_k_eq_v=True), UnknownTensorError, "is not part of gemma4", SURPLUS),
    "vision is a list": Break(top(vision_config=[]), ConfigError, "$.vision_config"),
    "audio is a word": Break(top(audio_config="yes"), ConfigError, "$.audio_config"),
    "vision of the other family": Break(vision(model_type="gemma4_unified_vision"), ConfigError, "$.vision_config.model_type"),
    "audio of vision": Break(audio(model_type="gemma4_vision"), ConfigError, "$.audio_config.model_type"),
    "wider vision": Break(vision(intermediate_size=256), TensorShapeError, SHAPE),
    "fewer layers of vision": Break(vision(num_hidden_layers=1), UnknownTensorError, "is not part of gemma4", SURPLUS),
    "more layers of audio": Break(audio(num_hidden_layers=3), MissingTensorError, "the config calls for", LACKS),
    "standardized vision": Break(vision(standardize=True), MissingTensorError, "std_bias", LACKS),
    "larger patches": Break(vision(patch_size=32), ConfigError, "patch_size: found 16, allowed is 32"),
    "three convolutions": Break(audio(subsampling_conv_channels=[128, 32, 8]), ConfigError, "$.audio_config.subsampling_conv_channels"),
    "100,000 convolutions": Break(audio(subsampling_conv_channels=[0] * 100_000), ConfigError, "$.audio_config.subsampling_conv_channels"),
    "other channels": Break(audio(subsampling_conv_channels=[64, 32]), ConfigError, "$.feature_extractor.feature_size: found 128, allowed is 64"),
    "longer kernel": Break(audio(conv_kernel_size=7), TensorShapeError, SHAPE),
    "audio of another width": Break(audio(output_proj_dims=128), TensorShapeError, SHAPE),
    "frames of another length": Break(audio(audio_embed_dim=320), ConfigError, "feature_size: found 640, allowed is 320", kind="12b"),
    "smaller patch embedder": Break(vision(mm_embed_dim=64), TensorShapeError, SHAPE, kind="12b"),
    "fewer positions": Break(vision(mm_posemb_size=64), TensorShapeError, SHAPE, kind="12b"),
    "per-layer embeddings that the family lacks": Break(words(hidden_size_per_layer_input=64), ConfigError, "hidden_size_per_layer_input", kind="12b"),
    "image token is a word": Break(top(image_token_id="<|image|>"), ConfigError, "$.image_token_id"),
    "image token is another": Break(top(image_token_id=7), ConfigError, "image_token_id"),
    "image token is none": Break(top(image_token_id=100_000), ConfigError, "image_token_id"),
    "sound token is the image's": Break(top(audio_token_id=763), ConfigError, "audio_token_id"),
    "stops at a word": Break(top(eos_token_id=[1, 100]), ConfigError, "the id of a special token"),
    "stops outside of the vocabulary": Break(top(eos_token_id=768), ConfigError, "the id of a special token"),
    "100,000 ends": Break(top(eos_token_id=[1] * 100_000), ConfigError, "$.eos_token_id"),
    "begins with another token": Break(words(bos_token_id=1), ConfigError, "bos_token_id"),
    "weights in int8": Break(top(dtype="int8"), ConfigError, "$.dtype"),
    "100,000 architectures": Break(top(architectures=[""] * 100_000), ConfigError, "$.architectures"),
}  # fmt: skip


def declared(says: str, method: Any, **details: Any) -> Break:
    damage = top(quantization_config={"quant_method": method, **details})
    return Break(damage, QuantizedSourceError, f"already quantized: {says}", loading=False)


def compressed(says: str, **details: Any) -> Break:
    return declared(f"compressed-tensors {says}", "compressed-tensors", **{"format": "pack-quantized", **details})


UNSAID = "pack-quantized, which does not say how weights are packed"

# What a config says of weights that are packed, and are not; the loader does not look at that.
QUANTIZATION: Breaks = {
    "AWQ": declared("awq", "awq"),
    "GPTQ": declared("gptq", "gptq", bits=4),
    "bitsandbytes": declared("bitsandbytes", "bitsandbytes"),
    "a method in a list": declared("['awq']", ["awq"]),
    "a list": Break(top(quantization_config=[]), ConfigError, "$.quantization_config"),
    "compressed-tensors that say nothing": compressed(UNSAID),
    "compressed-tensors of 20,000 groups": compressed(UNSAID, config_groups={f"{i}": {} for i in range(20_000)}),
    "compressed-tensors of a format in a list": compressed("['pack-quantized']", format=["pack-quantized"]),
    "FP8 in blocks of nothing": declared("fp8 with blocks of [0, 0]", "fp8", weight_block_size=[0, 0]),
    "FP8 in blocks of a word": declared("fp8 with blocks of all", "fp8", weight_block_size="all"),
    "MLX": Break(top(quantization={"bits": 4, "group_size": 64}), QuantizedSourceError, "already quantized: MLX 4-bit", False),
    "MLX with a ghost": Break(top(quantization={"bits": 4, "group_size": 64, "ghost": False}), QuantizedSourceError, "MLX 4-bit", Refusal(ConfigError, "quantization names ghost")),
}  # fmt: skip

BREAKS: Breaks = {
    **{f"document: {name}": case for name, case in DOCUMENTS.items()},
    **FIELDS,
    **{f"packed: {name}": case for name, case in QUANTIZATION.items()},
}
