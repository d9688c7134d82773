"""The output's `config.json`: every key of the source, and what MLX runtimes need besides."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..loaders.config import GEMMA4, ModelConfig, UnifiedAudioConfig, UnifiedVisionConfig
from ..schemas.errors import ConfigError
from .inventory import NOT_REQUESTED
from .plan import ConversionPlan, wanted_parts

Json = dict[str, Any]


@dataclass(frozen=True)
class OutputConfig:
    """The config of the output, and how it differs from the source's.

    Attributes:
        document: what `config.json` will hold.
        additions: keys that were added, with their values, by JSON path.
        removals: keys of the source that are gone or null, with the reason, by JSON path.
    """

    document: Json
    additions: Json
    removals: dict[str, str]


def output_config(source: Mapping[str, Any], plan: ConversionPlan) -> OutputConfig:
    """Rewrite a config for the output.

    Args:
        source: the parsed `config.json` of the source.
        plan: what is converted.

    Raises:
        ConfigError: a key that runtimes read contradicts the rest, so they would load another model.
    """
    document = copy.deepcopy(dict(source))
    additions = _add_missing(document, plan.config)
    removals = {**_close_sections(document, plan), **_drop_metadata(document)}
    if plan.recipe.default is not None:
        block = quantization_block(plan)
        document["quantization"] = block
        document["quantization_config"] = copy.deepcopy(block)
    return OutputConfig(document, additions, removals)


def quantization_block(plan: ConversionPlan) -> Json:
    """MLX's `quantization`: the default, then every module by its path, `false` where it is not quantized."""
    assert plan.recipe.default is not None
    modules: Json = {module: packing.as_dict() for module, packing in plan.quantized.items()}
    modules.update({module: False for module in plan.unquantized if module not in plan.bare})
    return {**plan.recipe.default.as_dict(), **dict(sorted(modules.items()))}


def _add_missing(document: Json, config: ModelConfig) -> Json:
    additions: Json = {}
    for section, key, value in runtime_keys(config):
        place = document if section is None else document[section]
        path = f"$.{key}" if section is None else f"$.{section}.{key}"
        if place.get(key) is None:
            place[key] = additions[path] = value
        elif place[key] != value:
            raise ConfigError(f"{path} is {place[key]}, the rest of the config means {value}", where="config.json")
    return additions


def runtime_keys(config: ModelConfig) -> Iterator[tuple[str | None, str, Any]]:
    """Keys that a runtime would otherwise default to another model's value: (section, key, value).

    Read from mlx-lm 0.32.2, mlx-vlm 0.7.10 and mlx-swift-lm 14414441: `per_layer_config` is unknown to all three, the
    first and the last overwrite `text_config.vocab_size` with 262144 where the top level has none.
    """
    text = config.text
    section = None if config.text_only else "text_config"
    yield None, "vocab_size", text.vocab_size
    yield section, "global_head_dim", text.full_layer.head_dim
    yield section, "hidden_size_per_layer_input", text.hidden_size_per_layer_input
    yield section, "tie_word_embeddings", text.tie_word_embeddings
    if text.attention_k_eq_v:
        yield section, "num_global_key_value_heads", text.full_layer.num_key_value_heads
    if config.media_tokens.eoa_token_id is not None:
        yield None, "eoa_token_id", config.media_tokens.eoa_token_id
    if isinstance(config.vision, UnifiedVisionConfig):
        yield "vision_config", "model_patch_size", config.vision.patch_size * config.vision.pooling_kernel_size
    if isinstance(config.audio, UnifiedAudioConfig):
        for key in ("hidden_size", "output_proj_dims", "audio_samples_per_token"):
            yield "audio_config", key, config.audio.audio_embed_dim


def _close_sections(document: Json, plan: ConversionPlan) -> dict[str, str]:
    """A modality that was left out has no section; its token ids stay, for the tokenizer still knows them."""
    if plan.config.text_only:
        return {}
    left_out = {"vision", "audio"} - wanted_parts(plan.modalities)
    closed = sorted(f"{part}_config" for part in left_out if document.get(f"{part}_config") is not None)
    document.update(dict.fromkeys(closed))
    if plan.config.family == GEMMA4 and document.get("vision_config") is None:
        # mlx-vlm 0.7.10 fails on null; it, mlx-lm and transformers all take absence for it.
        document.pop("vision_config", None)
    return {f"$.{section}": NOT_REQUESTED for section in closed}


def _drop_metadata(document: Json) -> dict[str, str]:
    """How the source's weights were packed does not say how ours are.

    Google's QAT repositories carry a `quantization_config` without a method, which mlx-lm fails on.
    """
    blocks = {f"$.{key}": document.pop(key, None) for key in ("quantization", "quantization_config")}
    if isinstance(text := document.get("text_config"), dict):
        blocks["$.text_config.quantization_config"] = text.pop("quantization_config", None)
    return {path: _was(block) for path, block in blocks.items() if block is not None}


def _was(block: Any) -> str:
    method = block.get("quant_method") if isinstance(block, dict) else None
    return f"the source's {method} weights are decoded" if method else "metadata that names no quantization"
