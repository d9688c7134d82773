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

# The pixels of three channels divide by it, whatever the size of a patch.
PARTS = 3


class PatchNorm(nn.LayerNorm):
    """Layer norm of the pixels of a patch, which may be nearly of one colour.

    One float32 sum over all pixels is wrong by as much as such a patch varies, so means are taken of the pixel rows
    first; and the variance is that of the centred pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__(3 * side**2)
        self._side = side

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., 3 * side * side] to the same."""
        # From the first pixel on, a patch of one colour is exactly zero.
        centred = x.astype(mx.float32) - x[..., :1]
        centred = centred - self._mean(centred)
        normed = centred * mx.rsqrt(self._mean(mx.square(centred)) + self.eps)
        out: mx.array = normed.astype(x.dtype) * self.weight + self.bias
        return out

    def _mean(self, x: mx.array) -> mx.array:
        """[..., 1]."""
        return mx.unflatten(x, -1, (self._side, -1)).mean(-1).mean(-1, keepdims=True)


class PatchDense(nn.Linear):
    """Projection of a patch: partial products, for one float32 sum over all pixels loses digits on the CPU."""

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [B, N, in] to [B, N, out]."""
        rows = x.reshape(-1, PARTS, x.shape[-1] // PARTS).transpose(1, 0, 2)  # [parts, B * N, in / parts]
        weights = mx.unflatten(self.weight, -1, (PARTS, -1)).transpose(1, 2, 0)  # [parts, in / parts, out]
        return (rows @ weights).sum(0).reshape(*x.shape[:-1], -1) + self.bias


class VisionEmbedder(Module):
    """Norm, projection and norm of each patch, plus one learned embedding for each axis, and a norm of the sum."""

    def __init__(self, config: UnifiedVisionConfig) -> None:
        super().__init__()
        self.patch_ln1 = PatchNorm(config.patch_size * config.pooling_kernel_size)
        self.patch_dense = PatchDense(config.patch_features, config.mm_embed_dim)
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
        dtype = self.pos_embedding.dtype
        embedded = self.patch_ln2(self.patch_dense(self.patch_ln1(patches).astype(dtype)))
        return rows(self.pos_norm(embedded + self._embed_positions(positions)), is_patch(positions))

    def _embed_positions(self, positions: mx.array) -> mx.array:
        """[B, N, mm_embed_dim]."""
        column, row = mx.moveaxis(mx.maximum(positions, 0), -1, 0)
        return self.pos_embedding[:, 0][column] + self.pos_embedding[:, 1][row]
