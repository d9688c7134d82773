"""The 12B's patch embedder, which replaces a tower, as a parameter tree.

The names and shapes are those of the MLX checkpoint, so that loading is strict about it too; its forward pass belongs
to the part that brings pictures.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from .config import UnifiedVisionConfig
from .module import Module


class VisionEmbedder(Module):
    """Norm, projection and norm of each merged patch, plus one learned embedding for each axis."""

    def __init__(self, config: UnifiedVisionConfig) -> None:
        super().__init__()
        self.patch_ln1 = nn.LayerNorm(config.patch_features)
        self.patch_dense = nn.Linear(config.patch_features, config.mm_embed_dim)
        self.patch_ln2 = nn.LayerNorm(config.mm_embed_dim)
        self.pos_embedding = mx.zeros((config.mm_posemb_size, 2, config.mm_embed_dim))
        self.pos_norm = nn.LayerNorm(config.mm_embed_dim)
