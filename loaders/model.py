"""The whole network of a checkpoint: the language model and what its config says it can see and hear."""

from __future__ import annotations

import mlx.core as mx

from .audio import AudioTower
from .config import UNIFIED, AudioConfig, ModelConfig, UnifiedAudioConfig, UnifiedVisionConfig, VisionConfig
from .module import Module, rows
from .text import LanguageModel
from .unified import VisionEmbedder
from .vision import MultimodalEmbedder, VisionTower

Medium = VisionConfig | UnifiedVisionConfig | AudioConfig | UnifiedAudioConfig


class MultimodalModel(Module):
    """`gemma4` and `gemma4_unified`; a modality that the config lacks has no modules."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.unified = config.family == UNIFIED
        self.language_model = LanguageModel(config.text)
        if isinstance(config.vision, VisionConfig):
            self.vision_tower = VisionTower(config.vision)
        if isinstance(config.vision, UnifiedVisionConfig):
            self.vision_embedder = VisionEmbedder(config.vision)
        if isinstance(config.audio, AudioConfig):
            self.audio_tower = AudioTower(config.audio)
        if config.vision is not None:
            self.embed_vision = _embedder(config, config.vision)
        if config.audio is not None:
            self.embed_audio = _embedder(config, config.audio)

    def see(self, patches: mx.array, positions: mx.array) -> list[mx.array]:
        """The features of pictures: one array [soft tokens of the picture, hidden] each.

        Args:
            patches: float32 [B, N, patch features], see `VisionTower` and `VisionEmbedder`.
            positions: int [B, N, 2], -1 for padding.
        """
        vision = self.vision_embedder if self.unified else self.vision_tower
        return [self.embed_vision(tokens) for tokens in vision(patches, positions)]

    def hear(self, features: mx.array, mask: mx.array) -> list[mx.array]:
        """The features of sounds: one array [soft tokens of the sound, hidden] each.

        Args:
            features: float32 [B, T, mel bins], see `AudioTower`; for `gemma4_unified` [B, T, samples of a frame].
            mask: bool [B, T], True = a frame, False = padding.
        """
        tokens, mask = (features, mask) if self.unified else self.audio_tower(features, mask)
        return [self.embed_audio(one) for one in rows(tokens, mask)]


def _embedder(config: ModelConfig, medium: Medium) -> MultimodalEmbedder:
    return MultimodalEmbedder(medium.output_size, config.text.hidden_size, medium.rms_norm_eps)


Network = LanguageModel | MultimodalModel


def build(config: ModelConfig) -> Network:
    """The network of a checkpoint, with weights yet to be loaded."""
    return LanguageModel(config.text) if config.text_only else MultimodalModel(config)


def language_model(network: Network) -> LanguageModel:
    """The part of a network that reads and writes text."""
    return network if isinstance(network, LanguageModel) else network.language_model


def text_prefix(network: Network) -> str:
    """What the names of the language model's parameters begin with."""
    return "" if isinstance(network, LanguageModel) else "language_model."
