"""What `gemma4_unified` has in the place of a vision tower; the names of attributes are the names of weights.

Shapes: B pictures (frames of a video are pictures), N patches of each, the smaller pictures padded. A patch is as large
as a soft token. Positions are (column, row) of a patch in its picture, -1 both where there is none. Sounds need no
module of their own: their frames go through the embedder as they are.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from .config import UnifiedVisionConfig
from .module import Module, rows
from .vision import is_patch


class VisionEmbedder(Module):
    """Norm, projection and norm of each patch, plus one learned embedding for each axis, and a norm of the sum."""

    def __init__(self, config: UnifiedVisionConfig) -> None:
        super().__init__()
        self.patch_ln1 = nn.LayerNorm(config.patch_features)
        self.patch_dense = nn.Linear(config.patch_features, config.mm_embed_dim)
        self.patch_ln2 = nn.LayerNorm(config.mm_embed_dim)
        self.pos_embedding = mx.zeros((config.mm_posemb_size, 2, config.mm_embed_dim))
        self.pos_norm = nn.LayerNorm(config.mm_embed_dim)

    def __call__(self, patches: mx.array, positions: mx.array) -> list[mx.array]:
        """The soft tokens of each picture.

        Args:
            patches: float32 [B, N, patch features], values from 0 to 1.
            positions: int [B, N, 2]; -1 for padding, whose patches may hold any finite value.

        Returns:
            B arrays [patches of the picture, mm_embed_dim], of the weights' dtype.
        """
        pixels = patches.astype(self.pos_embedding.dtype)
        embedded = self.patch_ln2(self.patch_dense(self.patch_ln1(pixels)))
        return rows(self.pos_norm(embedded + self._embed_positions(positions)), is_patch(positions))

    def _embed_positions(self, positions: mx.array) -> mx.array:
        """[B, N, mm_embed_dim]."""
        column, row = mx.moveaxis(mx.maximum(positions, 0), -1, 0)
        return self.pos_embedding[:, 0][column] + self.pos_embedding[:, 1][row]
