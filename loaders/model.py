"""The whole network of a checkpoint: the language model and what its config says it can see and hear."""

from __future__ import annotations

import mlx.core as mx

from .audio import AudioTower
from .config import AudioConfig, ModelConfig, UnifiedAudioConfig, UnifiedVisionConfig, VisionConfig
from .module import Module, rows
from .text import LanguageModel
from .unified import VisionEmbedder
from .vision import MultimodalEmbedder, VisionTower

Medium = VisionConfig | UnifiedVisionConfig | AudioConfig | UnifiedAudioConfig


class MultimodalModel(Module):
    """`gemma4` and `gemma4_unified`; a modality that the config lacks has no modules."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
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
        """The features of pictures, see `VisionTower`: one array [soft tokens of the picture, hidden] each."""
        return [self.embed_vision(tokens) for tokens in self.vision_tower(patches, positions)]

    def hear(self, features: mx.array, mask: mx.array) -> list[mx.array]:
        """The features of clips, see `AudioTower`: one array [soft tokens of the clip, hidden] each."""
        return [self.embed_audio(tokens) for tokens in rows(*self.audio_tower(features, mask))]


def _embedder(config: ModelConfig, medium: Medium) -> MultimodalEmbedder:
    return MultimodalEmbedder(medium.output_size, config.text.hidden_size, medium.rms_norm_eps)


Network = LanguageModel | MultimodalModel


def build(config: ModelConfig) -> Network:
    """The network of a checkpoint, with weights yet to be loaded."""
    return LanguageModel(config.text) if config.text_only else MultimodalModel(config)


def language_model(network: Network) -> LanguageModel:
    """The part of a network that reads and writes text."""
    return network if isinstance(network, LanguageModel) else network.language_model
