"""What a `config.json` says, as frozen dataclasses; what follows from a field is a property.

Two spellings of the text geometry exist. Published checkpoints carry `global_head_dim` and
`num_global_key_value_heads`; transformers 5.15 and later save `per_layer_config` instead, a map from a layer's number
to what differs there. Both become the same `LayerConfig` objects here, so nothing else needs to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

from ..schemas.errors import ConfigError, UnsupportedModelError

SLIDING, FULL = "sliding_attention", "full_attention"

# Towers feed the language model's embedding space in `gemma4`; `gemma4_unified` has none.
GEMMA4, UNIFIED = "gemma4", "gemma4_unified"
TEXT_TYPES = {"gemma4_text": GEMMA4, "gemma4_unified_text": UNIFIED}
DRAFTER_TYPES = frozenset({"gemma4_assistant", "gemma4_unified_assistant"})

Json = Mapping[str, Any]


def _known(cls: type, document: Json) -> dict[str, Any]:
    """The entries of `document` that `cls` has a field for; null counts as absent where the field has a default."""
    names = {field.name for field in fields(cls)}
    return {key: value for key, value in document.items() if key in names and value is not None}


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding of one kind of layer.

    `partial_rotary_factor` is the share of the head dimension that rotates; the exponents' denominator stays the whole
    head dimension ("proportional" in transformers' `modeling_rope_utils`).
    """

    rope_theta: float
    rope_type: str = "default"
    partial_rotary_factor: float = 1.0

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read one entry of `rope_parameters`."""
        return cls(**_known(cls, document))


class _Heads:
    """Sizes that follow from the attention heads."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int

    @property
    def q_size(self) -> int:
        """Output size of `q_proj`, input size of `o_proj`."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Output size of `k_proj` and `v_proj`."""
        return self.num_key_value_heads * self.head_dim


class _Clipping:
    """What follows from `use_clipped_linears`."""

    use_clipped_linears: bool

    @property
    def unclipped(self) -> bool:
        """Whether the linear layers do not clip."""
        return not self.use_clipped_linears


@dataclass(frozen=True)
class LayerConfig(_Heads):
    """The geometry of one decoder layer.

    Attributes:
        kv_source: the layer whose keys and values it reads.
        lends_kv: whether later layers read its keys and values.
    """

    index: int
    attention: str
    kv_source: int
    lends_kv: bool
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    attention_k_eq_v: bool
    hidden_size_per_layer_input: int
    num_experts: int
    moe_intermediate_size: int

    @property
    def is_sliding(self) -> bool:
        """Whether the layer sees a window of the past only."""
        return self.attention == SLIDING

    @property
    def owns_kv(self) -> bool:
        """Whether the layer computes keys and values itself, not reading those of `kv_source`."""
        return self.kv_source == self.index

    @property
    def shares_kv(self) -> bool:
        """Whether the layer belongs to the KV-shared tail."""
        return not self.owns_kv

    @property
    def has_v_proj(self) -> bool:
        """Whether values have a projection of their own (full layers may reuse the keys' one)."""
        return self.is_sliding or not self.attention_k_eq_v

    @property
    def owns_v_proj(self) -> bool:
        """Whether the checkpoint holds a `v_proj` for the layer."""
        return self.owns_kv and self.has_v_proj

    @property
    def has_ple(self) -> bool:
        """Whether per-layer embeddings feed the layer."""
        return self.hidden_size_per_layer_input > 0

    @property
    def has_experts(self) -> bool:
        """Whether a mixture of experts stands beside the dense MLP."""
        return self.num_experts > 0

    @property
    def moe_fused_size(self) -> int:
        """Gate and up projections of an expert, one above the other."""
        return 2 * self.moe_intermediate_size


@dataclass(frozen=True)
class TextConfig:
    """The language model. Names are transformers'; sizes are numbers of features."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_types: tuple[str, ...]
    sliding_window: int
    rms_norm_eps: float
    rope_parameters: Mapping[str, RopeConfig]
    overrides: Mapping[int, Mapping[str, int]]
    """What differs from `head_dim` and `num_key_value_heads`, by layer."""
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: str | None = None
    vocab_size_per_layer_input: int = 0
    hidden_size_per_layer_input: int = 0
    attention_k_eq_v: bool = False
    num_kv_shared_layers: int = 0
    use_double_wide_mlp: bool = False
    enable_moe_block: bool = False
    num_experts: int = 0
    top_k_experts: int = 0
    moe_intermediate_size: int = 0
    pad_token_id: int = 0
    bos_token_id: int = 2
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 131_072
    """The longest context."""

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read a `text_config` that its schema has passed.

        Raises:
            ConfigError: fields contradict each other.
        """
        known = _known(cls, document)
        known["layer_types"] = tuple(document["layer_types"])
        known["rope_parameters"] = {kind: RopeConfig.from_dict(p) for kind, p in document["rope_parameters"].items()}
        known["overrides"] = _layer_overrides(document)
        if not known.get("enable_moe_block", False):
            known.update(num_experts=0, top_k_experts=0, moe_intermediate_size=0)
        config = cls(**known)
        _check_text(config)
        return config

    @property
    def has_ple(self) -> bool:
        """Whether the model has per-layer embeddings (PLE)."""
        return self.hidden_size_per_layer_input > 0

    @property
    def has_vision_blocks(self) -> bool:
        """Whether the tokens of a picture, or of a frame, see each other on sliding layers."""
        return self.use_bidirectional_attention == "vision"

    @property
    def ple_size(self) -> int:
        """Width of the PLE table: all layers side by side."""
        return self.num_hidden_layers * self.hidden_size_per_layer_input

    @property
    def untied(self) -> bool:
        """Whether the output head has a weight of its own."""
        return not self.tie_word_embeddings

    @property
    def full_layer(self) -> LayerConfig:
        """A layer with full attention; all of them have the same heads."""
        return self.layers[-1]

    @property
    def first_shared_layer(self) -> int:
        """The first layer of the KV-shared tail."""
        return self.num_hidden_layers - self.num_kv_shared_layers

    @cached_property
    def layers(self) -> tuple[LayerConfig, ...]:
        """The decoder layers, in order."""
        return tuple(self._layer(index) for index in range(self.num_hidden_layers))

    def _layer(self, index: int) -> LayerConfig:
        override = self.overrides.get(index, {})
        wide = self.use_double_wide_mlp and index >= self.first_shared_layer
        return LayerConfig(
            index=index,
            attention=self.layer_types[index],
            kv_source=self._kv_source(index),
            lends_kv=index in self._lenders,
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=override.get("num_key_value_heads", self.num_key_value_heads),
            head_dim=override.get("head_dim", self.head_dim),
            intermediate_size=self.intermediate_size * (2 if wide else 1),
            attention_k_eq_v=self.attention_k_eq_v,
            hidden_size_per_layer_input=self.hidden_size_per_layer_input,
            num_experts=self.num_experts,
            moe_intermediate_size=self.moe_intermediate_size,
        )

    @cached_property
    def _lenders(self) -> frozenset[int]:
        return frozenset(self._kv_source(index) for index in range(self.first_shared_layer, self.num_hidden_layers))

    def _kv_source(self, index: int) -> int:
        """A shared layer reads the last layer of its kind that computes keys and values."""
        if index < self.first_shared_layer:
            return index
        kind = self.layer_types[index]
        return max(i for i in range(self.first_shared_layer) if self.layer_types[i] == kind)


def _layer_overrides(document: Json) -> dict[int, dict[str, int]]:
    """`per_layer_config` where there is one, else what the two `global_*` keys mean (transformers 5.23's own rule)."""
    if (saved := document.get("per_layer_config")) is not None:
        if len({int(index) for index in saved}) != len(saved):
            raise ConfigError("per_layer_config names a layer twice", where="config.json")
        return {int(index): dict(override) for index, override in saved.items()}
    override = {"head_dim": document["global_head_dim"]}
    if document.get("attention_k_eq_v") and document.get("num_global_key_value_heads") is not None:
        override["num_key_value_heads"] = document["num_global_key_value_heads"]
    full = (index for index, kind in enumerate(document["layer_types"]) if kind == FULL)
    return dict.fromkeys(full, override)


def _check_text(config: TextConfig) -> None:
    """Relations between fields that a schema cannot say."""
    layers, types = config.num_hidden_layers, config.layer_types
    if len(types) != layers:
        raise ConfigError(f"layer_types has {len(types)} entries, num_hidden_layers is {layers}", where="config.json")
    if types[-1] != FULL:
        raise ConfigError(f"the last entry of layer_types is {types[-1]}, it must be {FULL}", where="config.json")
    if not 0 <= config.num_kv_shared_layers < layers:
        raise ConfigError(
            f"num_kv_shared_layers is {config.num_kv_shared_layers}, the model has {layers} layers", where="config.json"
        )
    if orphans := set(types[config.first_shared_layer :]) - set(types[: config.first_shared_layer]):
        raise ConfigError(
            f"KV-shared layers of kind {', '.join(sorted(orphans))} have no layer before the tail to share with",
            where="config.json",
        )
    if missing := set(types) - set(config.rope_parameters):
        raise ConfigError(f"rope_parameters has no entry for {', '.join(sorted(missing))}", where="config.json")
    _check_layers(config)
    _check_experts(config)


def _check_layers(config: TextConfig) -> None:
    if stray := [index for index in config.overrides if not 0 <= index < config.num_hidden_layers]:
        raise ConfigError(f"per_layer_config names layer {stray[0]}, which does not exist", where="config.json")
    for layer in config.layers:
        if layer.num_attention_heads % layer.num_key_value_heads:
            raise ConfigError(
                f"layer {layer.index} has {layer.num_attention_heads} attention heads for "
                f"{layer.num_key_value_heads} key-value heads; the first must be a multiple of the second",
                where="config.json",
            )
    _check_runtimes(config)


def _check_runtimes(config: TextConfig) -> None:
    """MLX runtimes know one geometry for sliding layers and one for full ones, spelled by two keys."""
    full = (config.full_layer.head_dim, config.full_layer.num_key_value_heads)
    for layer in config.layers:
        heads = (layer.head_dim, layer.num_key_value_heads)
        if heads != ((config.head_dim, config.num_key_value_heads) if layer.is_sliding else full):
            raise ConfigError(
                f"per_layer_config gives layer {layer.index} heads of its own, which no MLX runtime can load",
                where="config.json",
            )
    if not config.attention_k_eq_v and config.full_layer.num_key_value_heads != config.num_key_value_heads:
        raise ConfigError(
            "per_layer_config changes the key-value heads without attention_k_eq_v, which no MLX runtime can load",
            where="config.json",
        )


def _check_experts(config: TextConfig) -> None:
    if not config.enable_moe_block:
        return
    if not (config.num_experts and config.moe_intermediate_size):
        raise ConfigError("enable_moe_block calls for num_experts and moe_intermediate_size", where="config.json")
    if not 1 <= config.top_k_experts <= config.num_experts:
        raise ConfigError(
            f"top_k_experts is {config.top_k_experts}, num_experts is {config.num_experts}", where="config.json"
        )


def _divides(part: int, whole: int, name: str, of: str) -> None:
    if whole % part:
        raise ConfigError(f"{name} are {part}, which does not divide the {of}, {whole}", where="config.json")


@dataclass(frozen=True)
class VisionConfig(_Heads, _Clipping):
    """The vision tower of E2B and E4B (clipped linears) and of 26B-A4B and 31B (`standardize`)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    patch_size: int
    pooling_kernel_size: int
    position_embedding_size: int
    rms_norm_eps: float = 1e-6
    use_clipped_linears: bool = False
    standardize: bool = False
    rope_theta: float = 100.0

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read a `vision_config` that its schema has passed.

        Raises:
            ConfigError: the heads do not fit each other.
        """
        rope = document.get("rope_parameters") or {}
        config = cls(**{"rope_theta": rope.get("rope_theta", 100.0), **_known(cls, document)})
        _divides(config.num_key_value_heads, config.num_attention_heads, "vision_config: key-value heads", "heads")
        return config

    @property
    def patch_features(self) -> int:
        """Values in one RGB patch."""
        return 3 * self.patch_size**2

    @property
    def output_size(self) -> int:
        """Width of a soft token before it is projected into the language model."""
        return self.hidden_size


@dataclass(frozen=True)
class AudioConfig(_Clipping):
    """The audio tower of E2B and E4B, a Conformer."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    subsampling_conv_channels: tuple[int, int]
    conv_kernel_size: int
    output_proj_dims: int
    attention_chunk_size: int
    attention_context_left: int
    attention_context_right: int
    attention_logit_cap: float = 50.0
    attention_invalid_logits_value: float = -1.0e9
    residual_weight: float = 0.5
    gradient_clipping: float = 1e10
    rms_norm_eps: float = 1e-6
    use_clipped_linears: bool = True
    hidden_act: str = "silu"

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read an `audio_config` that its schema has passed.

        Raises:
            ConfigError: the heads do not divide the hidden size.
        """
        known = _known(cls, document)
        config = cls(**{**known, "subsampling_conv_channels": tuple(known["subsampling_conv_channels"])})
        _divides(config.num_attention_heads, config.hidden_size, "audio_config: attention heads", "hidden size")
        return config

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def feed_forward_size(self) -> int:
        """Width of the feed-forward blocks."""
        return 4 * self.hidden_size

    @property
    def gated_size(self) -> int:
        """Width before the gated linear unit of the light convolution."""
        return 2 * self.hidden_size

    @property
    def conv_channels_0(self) -> int:
        """Output channels of the first subsampling convolution."""
        return self.subsampling_conv_channels[0]

    @property
    def conv_channels_1(self) -> int:
        """Output channels of the second subsampling convolution."""
        return self.subsampling_conv_channels[1]

    @property
    def subsampled_size(self) -> int:
        """Features of a frame after the two convolutions: transformers ties the mel bins to the first channel count."""
        return self.conv_channels_0 // 4 * self.conv_channels_1

    @property
    def output_size(self) -> int:
        """Width of a soft token before it is projected into the language model."""
        return self.output_proj_dims


@dataclass(frozen=True)
class UnifiedVisionConfig:
    """The 12B's patch embedder, which replaces a tower."""

    patch_size: int
    pooling_kernel_size: int
    mm_embed_dim: int
    mm_posemb_size: int
    output_proj_dims: int
    rms_norm_eps: float = 1e-6

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read a `vision_config` that its schema has passed."""
        return cls(**_known(cls, document))

    @property
    def patch_features(self) -> int:
        """Values in one merged RGB patch: 48 x 48 x 3 as published."""
        return 3 * (self.patch_size * self.pooling_kernel_size) ** 2

    @property
    def output_size(self) -> int:
        """Width of a soft token before it is projected into the language model."""
        return self.output_proj_dims


@dataclass(frozen=True)
class UnifiedAudioConfig:
    """The 12B's waveform frames: `audio_embed_dim` samples each, projected as they are."""

    audio_embed_dim: int
    rms_norm_eps: float = 1e-6

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read an `audio_config` that its schema has passed."""
        return cls(**_known(cls, document))

    @property
    def output_size(self) -> int:
        """Width of a soft token before it is projected into the language model."""
        return self.audio_embed_dim


@dataclass(frozen=True)
class MediaTokens:
    """Ids of the placeholder tokens and of the tokens that frame them; None where the config has no such id."""

    image_token_id: int | None = None
    video_token_id: int | None = None
    audio_token_id: int | None = None
    boi_token_id: int | None = None
    eoi_token_id: int | None = None
    boa_token_id: int | None = None
    eoa_token_id: int | None = None

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read the ids; the end-of-audio id is spelled `eoa_token_index` by some."""
        known = {"eoa_token_id": document.get("eoa_token_index"), **_known(cls, document)}
        return cls(**known)


@dataclass(frozen=True)
class ModelConfig:
    """A whole `config.json`. `vision` and `audio` are None where the checkpoint lacks the modality."""

    model_type: str
    text: TextConfig
    vision: VisionConfig | UnifiedVisionConfig | None
    audio: AudioConfig | UnifiedAudioConfig | None
    media_tokens: MediaTokens
    eos_token_ids: tuple[int, ...]
    quantization: Mapping[str, Any] | None

    @classmethod
    def from_dict(cls, document: Json) -> Self:
        """Read a config that its schema has passed.

        Raises:
            UnsupportedModelError: `model_type` is not one of ours.
            ConfigError: fields contradict each other.
        """
        model_type = check_model_type(document)
        text_only = model_type in TEXT_TYPES
        text = dict(document if text_only else document["text_config"])
        # The top level decides, as in transformers; mlx-lm looks at the text config alone.
        text["tie_word_embeddings"] = document.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
        unified = model_type == UNIFIED
        vision = None if text_only else document.get("vision_config")
        audio = None if text_only else document.get("audio_config")
        vision_type: type[VisionConfig | UnifiedVisionConfig] = UnifiedVisionConfig if unified else VisionConfig
        audio_type: type[AudioConfig | UnifiedAudioConfig] = UnifiedAudioConfig if unified else AudioConfig
        return cls(
            model_type=model_type,
            text=TextConfig.from_dict(text),
            vision=None if vision is None else vision_type.from_dict(vision),
            audio=None if audio is None else audio_type.from_dict(audio),
            media_tokens=MediaTokens.from_dict(document),
            eos_token_ids=token_ids(document.get("eos_token_id", text.get("eos_token_id"))),
            quantization=document.get("quantization"),
        )

    @property
    def text_only(self) -> bool:
        """Whether the checkpoint holds a language model and nothing else, without the `language_model.` prefix."""
        return self.model_type in TEXT_TYPES

    @property
    def family(self) -> str:
        """`gemma4` or `gemma4_unified`."""
        return TEXT_TYPES.get(self.model_type, self.model_type)


def check_model_type(document: Json) -> str:
    """The config's `model_type`, if it is one that we know.

    Raises:
        UnsupportedModelError: it is not, or it is a drafter.
    """
    model_type = document.get("model_type")
    if isinstance(model_type, str) and model_type in DRAFTER_TYPES:
        raise UnsupportedModelError(
            f"model_type {model_type} is a drafter, which borrows its target's keys and values",
            where="config.json",
            fix="convert the target model; drafters are not supported yet",
        )
    known = (GEMMA4, UNIFIED, *TEXT_TYPES)
    if not isinstance(model_type, str) or model_type not in known:
        raise UnsupportedModelError(
            f"model_type is {model_type!r}", where="config.json", fix=f"g4convert takes {', '.join(known)}"
        )
    return model_type


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """A config's ids, which may be one number, several, or none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
