"""What mlx-swift-lm would miss in an output, found from its table of parameter paths and config keys."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from g4convert.loaders.config import (
    FULL,
    AudioConfig,
    ModelConfig,
    TextConfig,
    UnifiedAudioConfig,
    UnifiedVisionConfig,
    VisionConfig,
)

Json = Mapping[str, Any]
Values = dict[str, dict[str, Any]]

# How a loader that reads a media section is named among its groups of parameters.
SECTION_OF_GROUP = {"vision": "vision_config", "unified_vision": "vision_config", "unified_audio": "audio_config"}

# Keys that the loader would make up for another model.
MODEL_SHAPING = frozenset({"layer_types", "rope_parameters"})


def unmet(table: Json, tensor_names: Iterable[str], config: Json) -> list[str]:
    """Everything that keeps mlx-swift-lm from loading an output, or makes it read another model.

    Args:
        table: the parsed `mlx_swift_lm.json`.
        tensor_names: the names in the output's shards.
        config: the output's parsed `config.json`.

    Returns:
        One line for each defect, with the loader's name in front; the VLM loader of `gemma4` is left out where the
        output has no vision tower, for it cannot load that.
    """
    names = set(tensor_names)
    loaders = {
        name: loader
        for name, loader in table["loaders"].items()
        if config["model_type"] in loader["model_types"]
        and not ("vision" in loader["parameters"] and config.get("vision_config") is None)
    }
    if not loaders:
        return [f"no loader takes the model_type {config['model_type']}"]
    lines = []
    for name, loader in loaders.items():
        values, problems = _values(loader, config)
        problems += _other_meaning(values, _meaning(ModelConfig.from_dict(config)))
        problems += _demands(loader, values)
        wanted = _wanted(table, loader, values)
        problems += _differences(wanted, _seen(names, loader, values), config.get("quantization"))
        lines += [f"{name}: {problem}" for problem in problems]
    return lines


def _values(loader: Json, config: Json) -> tuple[Values, list[str]]:
    """What the loader takes every key for, its defaults included; and the keys that it cannot do without."""
    values: Values = {}
    problems = []
    for section, keys in loader["config_keys"].items():
        given = _section(config, section)
        if given is None:
            continue
        values[section] = {key: _read(key, given, keys) for key in keys if key in given or not _computed(keys, key)}
        needed = [key for key, entry in keys.items() if entry["required"] or key in MODEL_SHAPING]
        problems += [f"{section}.{key} is absent" for key in needed if given.get(key) is None and key in keys]
    if "overrides" in loader["config_keys"].get("top", {}).get("vocab_size", {}):
        values["text_config"]["vocab_size"] = values["top"]["vocab_size"]
    return values, problems


def _section(config: Json, section: str) -> Json | None:
    if section == "top" or (section == "text_config" and section not in config):
        return config
    return config.get(section)


def _computed(keys: Json, key: str) -> bool:
    """Whether the loader works a missing key out from others."""
    return "derived" in keys[key] and keys[key]["derived"] not in keys


def _read(key: str, given: Json, keys: Json) -> Any:
    entry = keys[key]
    if given.get(key) is not None:
        return given[key]
    if "default_unified" in entry and str(given.get("model_type")).startswith("gemma4_unified"):
        return entry["default_unified"]
    if entry.get("derived") in keys:
        return _read(entry["derived"], given, keys)
    return entry.get("default")


def _meaning(config: ModelConfig) -> Values:
    """What the config says, in the keys that the runtime reads."""
    values: Values = {"text_config": _text_meaning(config.text), "top": {}}
    tokens = config.media_tokens
    values["top"] |= {f"{name}_token_id": getattr(tokens, f"{name}_token_id") for name in ("image", "boi")}
    match config.vision:
        case VisionConfig():
            keys = (
                "num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim "
                "patch_size rms_norm_eps position_embedding_size pooling_kernel_size use_clipped_linears standardize"
            )
            values["vision_config"] = {key: getattr(config.vision, key) for key in keys.split()}
        case UnifiedVisionConfig():
            keys = "patch_size pooling_kernel_size mm_embed_dim mm_posemb_size rms_norm_eps output_proj_dims"
            values["vision_config"] = {key: getattr(config.vision, key) for key in keys.split()}
            values["vision_config"]["model_patch_size"] = config.vision.patch_size * config.vision.pooling_kernel_size
        case None:
            pass
    match config.audio:
        case UnifiedAudioConfig():
            same = ("audio_samples_per_token", "audio_embed_dim", "hidden_size", "output_proj_dims")
            values["audio_config"] = dict.fromkeys(same, config.audio.audio_embed_dim)
            values["audio_config"]["rms_norm_eps"] = config.audio.rms_norm_eps
        case AudioConfig() | None:
            pass
    return values


def _text_meaning(text: TextConfig) -> dict[str, Any]:
    keys = (
        "hidden_size num_hidden_layers intermediate_size num_attention_heads head_dim rms_norm_eps vocab_size "
        "num_key_value_heads num_kv_shared_layers hidden_size_per_layer_input sliding_window attention_k_eq_v "
        "final_logit_softcapping enable_moe_block use_bidirectional_attention tie_word_embeddings"
    )
    values = {key: getattr(text, key) for key in keys.split()}
    full = next(layer for layer in text.layers if layer.attention == FULL)
    values["global_head_dim"] = full.head_dim
    if text.attention_k_eq_v:
        values["num_global_key_value_heads"] = full.num_key_value_heads
    if text.num_kv_shared_layers:
        values["use_double_wide_mlp"] = text.use_double_wide_mlp
    if text.has_ple:
        values["vocab_size_per_layer_input"] = text.vocab_size_per_layer_input
    if text.enable_moe_block:
        values |= {key: getattr(text, key) for key in ("num_experts", "top_k_experts", "moe_intermediate_size")}
    return values


def _other_meaning(values: Values, meaning: Values) -> list[str]:
    return [
        f"{section}.{key} is read as {read[key]}, and the config means {meant}"
        for section, read in values.items()
        for key, meant in meaning.get(section, {}).items()
        if key in read and read[key] != meant
    ]


def _demands(loader: Json, values: Values) -> list[str]:
    found = {path: values[path.partition(".")[0]][path.partition(".")[2]] for path in loader["demands"]}
    return [
        f"{path} is {found[path]}, and it takes {only} only"
        for path, only in loader["demands"].items()
        if found[path] != only
    ]


def _wanted(table: Json, loader: Json, values: Values) -> dict[str, bool]:
    """Every parameter that the loader's modules have, and whether it may be packed."""
    return {
        prefix + path: entry.get("quantizable", False)
        for group, prefix in loader["parameters"].items()
        if group == "text" or SECTION_OF_GROUP[group] in values
        for entry in table["parameters"][group]
        for path in _expand(entry, values, values["text_config" if group == "text" else SECTION_OF_GROUP[group]])
    }


def _expand(entry: Json, values: Values, section: Mapping[str, Any]) -> Iterator[str]:
    layers = range(section["num_hidden_layers"]) if "{}" in entry["path"] else (0,)
    for index in layers:
        if "when" not in entry or _holds(entry["when"], index, values):
            yield entry["path"].replace("{}", str(index))


def _holds(condition: str, index: int, values: Values) -> bool:
    text, vision = values["text_config"], values.get("vision_config", {})
    owns_kv = index < text["num_hidden_layers"] - text["num_kv_shared_layers"]
    conditions: dict[str, bool] = {
        "owns_kv": owns_kv,
        "owns_v": owns_kv and not (text["attention_k_eq_v"] and FULL in text.get("layer_types", ())[index : index + 1]),
        "ple": text["hidden_size_per_layer_input"] > 0,
        "moe": text["enable_moe_block"],
        "untied": not text["tie_word_embeddings"],
        "clipped": vision.get("use_clipped_linears", False),
        "standardize": vision.get("standardize", False),
    }
    return conditions[condition]


def _seen(names: set[str], loader: Json, values: Values) -> set[str]:
    """The tensors that are left after the loader's own filter."""
    drops = loader["drops"]
    prefixes = list(drops["prefixes"])
    for section, dropped in drops.get("without", {}).items():
        prefixes += [] if section in values else dropped
    kept = (name for name in names if not name.startswith(tuple(prefixes)))
    return {name for name in kept if not any(part in name for part in drops["parts"])}


def _differences(wanted: dict[str, bool], seen: set[str], block: Json | None) -> list[str]:
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - seen)]
    packed = {name.removesuffix(".scales") for name in seen if name.endswith(".scales")}
    for module in sorted(packed):
        problems += _packing(module, wanted, seen, block)
    beside = {f"{module}.{part}" for module in packed for part in ("scales", "biases")}
    return problems + [f"{name} is not a parameter" for name in sorted(seen - wanted.keys() - beside)]


def _packing(module: str, wanted: dict[str, bool], seen: set[str], block: Json | None) -> Iterator[str]:
    if not wanted.get(f"{module}.weight", False):
        yield f"{module} is packed, and it is no module that can be"
    if block is None:
        yield f"{module} is packed, and config.json has no quantization"
        return
    entry = block.get(module, block)
    if entry is False or not {"bits", "group_size"} <= entry.keys():
        yield f"{module} is packed, and quantization says {entry}"
        return
    mode, biases = entry.get("mode", "affine"), f"{module}.biases" in seen
    if (mode == "affine") != biases:
        yield f"{module} has the mode {mode}, and {'has' if biases else 'lacks'} biases"
