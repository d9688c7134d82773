"""What carries media into the language model: the embedders of every family, and the 12B's patch embedder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...loaders.config import ModelConfig, UnifiedVisionConfig
from .rules import Role, Rule, Table


@dataclass(frozen=True)
class _Projection:
    """From a tower's soft tokens to the language model's width."""

    hidden_size: int
    output_size: int


def _projection(config: ModelConfig, part: str) -> Sequence[_Projection]:
    media = getattr(config, part)
    return () if media is None else (_Projection(config.text.hidden_size, media.output_size),)


def _vision(config: ModelConfig) -> Sequence[_Projection]:
    return _projection(config, "vision")


def _audio(config: ModelConfig) -> Sequence[_Projection]:
    return _projection(config, "audio")


def _patches(config: ModelConfig) -> Sequence[UnifiedVisionConfig]:
    return (config.vision,) if isinstance(config.vision, UnifiedVisionConfig) else ()


PROJECTION_RULES = (Rule("embedding_projection.weight", "hidden_size output_size", Role.LINEAR),)


def _layer_norm(name: str, dims: str) -> tuple[Rule, Rule]:
    return Rule(f"{name}.weight", dims), Rule(f"{name}.bias", dims)


PATCH_RULES = (
    *_layer_norm("patch_ln1", "patch_features"),
    # Runtimes have no quantized path for it.
    Rule("patch_dense.weight", "mm_embed_dim patch_features", Role.TOWER),
    Rule("patch_dense.bias", "mm_embed_dim"),
    *_layer_norm("patch_ln2", "mm_embed_dim"),
    Rule("pos_embedding", "mm_posemb_size 2 mm_embed_dim", Role.TOWER),
    *_layer_norm("pos_norm", "mm_embed_dim"),
)

EMBEDDER_TABLES = (
    Table("vision", "embed_vision.", _vision, PROJECTION_RULES),
    Table("audio", "embed_audio.", _audio, PROJECTION_RULES),
)

PATCH_TABLES = (Table("vision", "vision_embedder.", _patches, PATCH_RULES),)
