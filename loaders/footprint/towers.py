"""The towers' share of a tape: one batch of pictures or of sounds, see `vision.py`, `audio.py` and `unified.py`."""

from __future__ import annotations

from dataclasses import dataclass

from ..audio import context_size
from ..config import AudioConfig, UnifiedVisionConfig, VisionConfig
from ..unified import PARTS
from ..vision import SCORES_AT_ONCE
from .operations import FLOAT32, Operations
from .tape import Buffer
from .weights import Weight, Weights


@dataclass(frozen=True)
class VisionTape:
    """Puts pictures on a tape.

    Attributes:
        config: of the tower.
        weights: by name.
        on: the tape.
        pictures: of the batch.
        patches: of a picture.
    """

    config: VisionConfig
    weights: Weights
    on: Operations
    pictures: int
    patches: int

    @property
    def rows(self) -> int:
        """Patches of all pictures."""
        return self.pictures * self.patches

    def run(self) -> Buffer:
        """The whole tower."""
        on, hidden = self.on, self.config.hidden_size
        pixels = on.tape.make(self.rows * self.config.patch_features * FLOAT32)
        on.tape.rework(pixels, times=2)
        x = on.linear(pixels, self.rows, self.weights["vision_tower.patch_embedder.input_proj"])
        column, row = on.array(self.rows * hidden), on.array(self.rows * hidden)
        x = on.tape.rework(on.tape.rework(on.tape.rework(column, row)), x)
        for index in range(self.config.num_hidden_layers):
            x = self._layer(f"vision_tower.encoder.layers.{index}.", x)
        return self._pool(x)

    def _layer(self, at: str, x: Buffer) -> Buffer:
        on = self.on
        x = on.add(x, self._norm(self._attention(f"{at}self_attn.", self._norm(x))))
        return on.add(x, self._norm(self._feed_forward(f"{at}mlp.", self._norm(x))))

    def _norm(self, x: Buffer) -> Buffer:
        return self.on.norm(x, bound(self.on))

    def _turn(self, x: Buffer) -> Buffer:
        """The rotation of `vision.rotate`, whose angles are there already."""
        on, half = self.on, x.nbytes // 2
        if on.runtime.kernels:
            return on.tape.make(x.nbytes, x)
        one, other = (on.tape.view(x, 2) for _ in range(2))
        turned = on.tape.rework(on.tape.make(half, one), on.tape.make(half, other))
        tilted = on.tape.rework(on.tape.make(half, one), on.tape.make(half, other))
        return on.tape.view(on.tape.make(x.nbytes, on.tape.view(turned), on.tape.view(tilted), pieces=2))

    def _attention(self, at: str, x: Buffer) -> Buffer:
        on = self.on
        queries = self._turn(self._norm(on.tape.view(self._linear(x, f"{at}q_proj"))))
        keys = self._turn(self._norm(on.tape.view(self._linear(x, f"{at}k_proj"))))
        values = on.norm(on.tape.view(self._linear(x, f"{at}v_proj")))
        heads = self._attend(queries, keys, values)
        return self._linear(on.array(self.rows * self.config.q_size, heads), f"{at}o_proj")

    def _attend(self, queries: Buffer, keys: Buffer, values: Buffer) -> Buffer:
        on, heads = self.on, self.config.num_attention_heads
        if on.runtime.kernels and self.config.head_dim in on.runtime.fused_heads:
            return on.tape.make(queries.nbytes, queries, keys, values)
        turned = [on.tape.make(one.nbytes, one) for one in (queries, keys, values)]
        step = max(1, SCORES_AT_ONCE // (self.pictures * heads * self.patches))
        slices = [min(step, self.patches - start) for start in range(0, self.patches, step)]
        found = [self._scores(turned, heads * rows) for rows in slices]
        return found[0] if len(found) == 1 else on.array(self.rows * self.config.q_size, *found)

    def _scores(self, turned: list[Buffer], rows: int) -> Buffer:
        on = self.on
        scores = on.array(self.pictures * rows * self.patches, on.tape.rework(turned[0]), on.tape.view(turned[1], 3))
        on.tape.rework(on.tape.view(scores), times=2)
        return on.array(self.pictures * rows * self.config.head_dim, scores, turned[2])

    def _feed_forward(self, at: str, x: Buffer) -> Buffer:
        gate, up = self._linear(x, f"{at}gate_proj"), self._linear(x, f"{at}up_proj")
        return self._linear(self.on.gated(gate, up), f"{at}down_proj")

    def _linear(self, x: Buffer, name: str) -> Buffer:
        return clipped(self.on, x, self.rows, self.weights[f"{name}.linear"], clips=self.config.use_clipped_linears)

    def _pool(self, x: Buffer) -> Buffer:
        on = self.on
        squares = self.patches // self.config.pooling_kernel_size**2
        wide = on.tape.make(x.nbytes * FLOAT32 // on.runtime.element, x)
        same = on.tape.make(self.rows * squares)
        shares = on.tape.rework(on.tape.make(self.rows * squares * FLOAT32, same))
        return on.tape.rework(on.tape.make(self.pictures * squares * self.config.hidden_size * FLOAT32, shares, wide))


def clipped(on: Operations, x: Buffer, rows: int, weight: Weight, *, clips: bool) -> Buffer:
    """A linear layer that may limit what enters and leaves it, whose weights are read now."""
    fresh = on.read(weight)
    if not clips:
        return on.linear(x, rows, weight, fresh)
    limited = limit(on, on.tape.make(x.nbytes, x, bound(on)), 1)
    limited.in_columns = x.in_columns
    return limit(on, on.linear(limited, rows, weight, fresh), 2)


def limit(on: Operations, x: Buffer, times: int) -> Buffer:
    """Clamp in place, by a bound or by two."""
    for _ in range(times):
        on.tape.rework(x, bound(on))
    return x


def bound(on: Operations) -> Buffer:
    """A number that is read now."""
    return on.tape.view(on.tape.rework(on.tape.make(0)))


def patch_tape(config: UnifiedVisionConfig, weights: Weights, on: Operations, pictures: int, patches: int) -> Buffer:
    """The embedder of `gemma4_unified`."""
    rows = pictures * patches
    pixels = on.tape.make(rows * config.patch_features * FLOAT32)
    centred = on.tape.make(pixels.nbytes, pixels)
    centred = on.tape.make(pixels.nbytes, centred, on.tape.make(rows * FLOAT32, centred))
    squares = on.tape.make(pixels.nbytes, centred)
    normed = on.tape.make(pixels.nbytes, centred, on.tape.make(rows * FLOAT32, squares))
    if on.runtime.element != FLOAT32:
        normed = on.array(rows * config.patch_features, normed)
    turned = on.array(rows * config.patch_features, on.tape.rework(normed, times=2))
    weight = weights["vision_embedder.patch_dense"]
    fresh = on.read(weight)
    products = on.array(PARTS * rows * config.mm_embed_dim, turned, on.array(weight.size, fresh))
    x = on.norm(on.array(rows * config.mm_embed_dim, products))
    positions = on.read(weights["vision_embedder.pos_embedding"])
    return on.norm(on.add(x, on.array(rows * config.mm_embed_dim, positions)))


@dataclass(frozen=True)
class AudioTape:
    """Puts sounds on a tape.

    Attributes:
        config: of the tower.
        weights: by name.
        on: the tape.
        sounds: of the batch.
        frames: log-mel frames of a sound.
        bins: values of a frame.
    """

    config: AudioConfig
    weights: Weights
    on: Operations
    sounds: int
    frames: int
    bins: int

    @property
    def length(self) -> int:
        """Frames of all sounds after the subsampling."""
        return self.sounds * -(-self.frames // 4)

    def run(self) -> Buffer:
        """The whole tower."""
        x = self._subsample()
        for index in range(self.config.num_hidden_layers):
            x = self._layer(f"audio_tower.layers.{index}.", x)
        return self.on.linear(x, self.length, self.weights["audio_tower.output_proj"])

    def _subsample(self) -> Buffer:
        on, (first, second) = self.on, self.config.subsampling_conv_channels
        x = on.tape.make(self.sounds * self.frames * self.bins * FLOAT32)
        x = self._convolve(x, self.sounds * self.frames * self.bins, 1, first)
        x = self._convolve(x, self.sounds * self.frames * self.bins // 4, first, second)
        return on.linear(x, self.length, self.weights["audio_tower.subsample_conv_projection.input_proj_linear"])

    def _convolve(self, x: Buffer, places: int, channels: int, out: int) -> Buffer:
        """A convolution that leaves a quarter of the places; without a kernel, of copied neighbourhoods."""
        on = self.on
        masked = on.array(places * channels, x)
        if on.runtime.kernels:
            unfolded = masked
        else:
            padded = on.array(places * channels, masked)
            unfolded = on.array(places // 4 * channels * 9, padded)
        return on.tape.rework(on.norm(on.array(places // 4 * out, unfolded)))

    def _layer(self, at: str, x: Buffer) -> Buffer:
        on = self.on
        x = self._feed_forward(f"{at}feed_forward1.", x)
        limited = on.tape.rework(on.tape.make(x.nbytes, x))
        x = on.add(x, on.norm(self._attention(f"{at}self_attn.", on.norm(limited))))
        x = self._feed_forward(f"{at}feed_forward2.", self._convolution(f"{at}lconv1d.", x))
        return on.norm(on.tape.rework(on.tape.make(x.nbytes, x)))

    def _feed_forward(self, at: str, x: Buffer) -> Buffer:
        on = self.on
        normed = on.norm(on.tape.rework(on.tape.make(x.nbytes, x)))
        wide = self._linear(normed, f"{at}ffw_layer_1")
        active = on.tape.rework(on.tape.make(wide.nbytes, wide))
        out = on.norm(on.tape.rework(self._linear(active, f"{at}ffw_layer_2"), times=2))
        return on.add(x, on.tape.rework(out))

    def _attention(self, at: str, x: Buffer) -> Buffer:
        on, hidden = self.on, self.config.hidden_size
        chunks = -(-self.length // self.config.attention_chunk_size)
        seen = chunks * context_size(self.config)
        queries = on.tape.rework(self._wide(self._linear(x, f"{at}q_proj"), self.length * hidden))
        queries = on.tape.make(queries.nbytes, queries)
        turned = on.tape.make(queries.nbytes, queries)
        keys, values = (self._in_context(self._linear(x, f"{at}{name}_proj"), seen) for name in "kv")
        scores = self.config.num_attention_heads * seen * self.config.attention_chunk_size * FLOAT32
        found = on.tape.make(scores, turned, on.tape.make(keys.nbytes, keys))
        found = on.tape.rework(found, on.tape.make(scores, turned), times=5)
        out = on.tape.make(self.length * hidden * FLOAT32, found, on.tape.make(values.nbytes, values))
        return self._linear(on.tape.make(out.nbytes, out), f"{at}post")

    def _in_context(self, x: Buffer, seen: int) -> Buffer:
        on, hidden = self.on, self.config.hidden_size
        padded = on.tape.make(self.length * hidden * FLOAT32, self._wide(x, self.length * hidden))
        return on.tape.rework(on.tape.make(seen * hidden * FLOAT32, padded))

    def _wide(self, x: Buffer, elements: int) -> Buffer:
        return x if self.on.runtime.element == FLOAT32 else self.on.tape.make(elements * FLOAT32, x)

    def _convolution(self, at: str, x: Buffer) -> Buffer:
        on = self.on
        both = self._linear(on.norm(x), f"{at}linear_start")
        gate = on.tape.rework(on.tape.make(x.nbytes, both), both)
        padded = on.tape.make(x.nbytes, gate)
        unfolded = padded if on.runtime.kernels else on.tape.make(self.config.conv_kernel_size * x.nbytes, padded)
        out = on.norm(on.tape.rework(on.tape.make(x.nbytes, unfolded), times=2))
        return on.add(x, self._linear(on.tape.rework(on.tape.make(x.nbytes, out)), f"{at}linear_end"))

    def _linear(self, x: Buffer, name: str) -> Buffer:
        weight = self.weights[f"{name}.linear"]
        return clipped(self.on, x, self.length, weight, clips=self.config.use_clipped_linears)
