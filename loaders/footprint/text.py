"""The language model's share of a tape: one pass over some tokens, see `loaders/text.py`."""

from __future__ import annotations

from dataclasses import dataclass

from ..cache import SLACK
from ..config import LayerConfig, TextConfig
from .operations import FLOAT32, Operations
from .tape import Buffer
from .weights import PLE_TABLE, Weight, Weights

ROOT = "language_model."


@dataclass(frozen=True)
class Span:
    """The tokens of a pass.

    Attributes:
        past: tokens before them.
        length: how many they are.
        last: whether a token is to follow, so that the tail of the network is computed as well.
        media: how many of them stand for media.
    """

    past: int
    length: int
    last: bool
    media: int = 0


Pair = tuple[Buffer, Buffer]
"""Keys and values."""


@dataclass
class Held:
    """The buffer of a layer's keys, or of its values: what `cache.Buffer` counts.

    Attributes:
        capacity: places.
        end: those in use.
    """

    capacity: int = 0
    end: int = 0

    def append(self, length: int, keep: int) -> int:
        """Write behind the last token; returns the places of a buffer that had to be made for it, or 0."""
        made = 0
        if self.end + length > self.capacity:
            made = self.capacity = keep + length + SLACK
            self.end = keep
        self.end += length
        return made


@dataclass
class TextTape:
    """Puts the passes of a prompt on tapes, one after the other."""

    config: TextConfig
    weights: Weights

    def __post_init__(self) -> None:
        self.stored: dict[int, Pair] = {}
        self.held = {layer.index: Held() for layer in self.config.layers if layer.owns_kv}

    def cache_bytes(self, element: int) -> int:
        """What the caches hold now."""
        return sum(2 * self.config.layers[index].kv_size * held.capacity * element for index, held in self.held.items())

    def skip(self, span: Span) -> None:
        """Let the caches take a pass that is not looked at."""
        for index, held in self.held.items():
            held.append(span.length, self._kept(self.config.layers[index], span))

    def _kept(self, layer: LayerConfig, span: Span) -> int:
        """Tokens of the past that a layer can still see."""
        return min(span.past, self.config.sliding_window - 1) if layer.is_sliding else span.past

    def masks(self, span: Span) -> int:
        """Bytes of the masks of sliding layers, see `masks.sliding_mask`: of this pass, and of the first one."""
        window = self.config.sliding_window
        seen = span.length + min(span.past, window - 1)
        first = span.length**2 if span.past and span.length > window else 0
        return first + (span.length * seen if seen > window else 0)

    def run(self, on: Operations, span: Span) -> list[Buffer]:
        """One pass; afterwards the caches hold its tokens. Returns what is to be computed."""
        hidden = self.config.hidden_size
        element = on.runtime.element
        sizes = {i: self.config.layers[i].kv_size * held.capacity * element for i, held in self.held.items()}
        self.stored = {i: (on.tape.hold(size), on.tape.hold(size)) for i, size in sizes.items() if size}
        x = on.rows(span.length, self._weight("embed_tokens"))
        on.tape.rework(x)
        table = self._rows_per_layer(on, span)
        if span.media:
            x = on.array(span.length * hidden, x)
        per_layer = None if table is None else self._project(on, span, x, table)
        shared: dict[int, Pair] = {}
        rows = span.length
        for layer in self.config.layers:
            narrow = layer.index == self.config.first_shared_layer - 1
            if narrow and not span.last:
                self._keys_values(on, layer, on.norm(x), span, shared)
                return [buffer for pair in shared.values() for buffer in pair]
            x, rows = self._layer(on, layer, (x, rows), span, shared, per_layer, narrow=narrow)
        return [self._head(on, x)]

    def _weight(self, name: str) -> Weight:
        return self.weights[ROOT + name]

    def _rows_per_layer(self, on: Operations, span: Span) -> Buffer | None:
        if not self.config.has_ple:
            return None
        return on.tape.rework(on.rows(span.length, self.weights[PLE_TABLE]))

    def _project(self, on: Operations, span: Span, x: Buffer, table: Buffer) -> Buffer:
        projected = on.linear(x, span.length, self._weight("per_layer_model_projection"))
        normed = on.norm(on.tape.rework(projected))
        return on.tape.rework(on.tape.rework(normed, table))

    def _layer(
        self,
        on: Operations,
        layer: LayerConfig,
        stream: tuple[Buffer, int],
        span: Span,
        shared: dict[int, Pair],
        per_layer: Buffer | None,
        *,
        narrow: bool,
    ) -> tuple[Buffer, int]:
        x, rows = stream
        normed = on.norm(x)
        keys, values = self._keys_values(on, layer, normed, span, shared)
        if narrow:
            rows = 1
            x, normed = on.array(layer.hidden_size, x), on.array(layer.hidden_size, normed)
        seen = span.length + self._kept(layer, span)
        at = f"layers.{layer.index}."
        queries = on.rotate(on.norm(on.tape.view(on.linear(normed, rows, self._weight(f"{at}self_attn.q_proj")), 2)))
        heads = on.attend(
            queries, keys, values, heads=layer.num_attention_heads, rows=rows, seen=seen, head_dim=layer.head_dim
        )
        merged = on.array(rows * layer.q_size, on.tape.view(heads))
        x = on.add(x, on.norm(on.linear(merged, rows, self._weight(f"{at}self_attn.o_proj"))))
        x = on.add(x, on.norm(self._feed_forward(on, layer, x, rows)))
        if per_layer is not None:
            x = on.add(x, on.norm(self._per_layer(on, at, x, rows, per_layer)))
        return on.tape.rework(x), rows

    def _keys_values(self, on: Operations, layer: LayerConfig, x: Buffer, span: Span, shared: dict[int, Pair]) -> Pair:
        if not layer.owns_kv:
            return shared[layer.kv_source]
        at = f"layers.{layer.index}.self_attn."
        projected = on.linear(x, span.length, self._weight(f"{at}k_proj"))
        before = on.linear(x, span.length, self._weight(f"{at}v_proj")) if layer.has_v_proj else projected
        keys, values = on.rotate(on.norm(projected)), on.norm(before)
        shared[layer.index] = self._append(on, layer, (keys, values), span)
        return shared[layer.index]

    def _append(self, on: Operations, layer: LayerConfig, new: Pair, span: Span) -> Pair:
        """Behind the past, in a new buffer where the old one is full."""
        keep = self._kept(layer, span)
        made = self.held[layer.index].append(span.length, keep)
        old = self.stored.get(layer.index)
        if not made and old is not None:
            return on.tape.rework(old[0], new[0]), on.tape.rework(old[1], new[1])
        keys, values = old or (None, None)
        fresh, kept = (made - keep) * layer.kv_size, keep * layer.kv_size
        return _replaced(on, new[0], keys, fresh, kept), _replaced(on, new[1], values, fresh, kept)

    def _feed_forward(self, on: Operations, layer: LayerConfig, x: Buffer, rows: int) -> Buffer:
        at = f"layers.{layer.index}."
        normed = on.norm(x)
        gate = on.linear(normed, rows, self._weight(f"{at}mlp.gate_proj"))
        up = on.linear(normed, rows, self._weight(f"{at}mlp.up_proj"))
        dense = on.linear(on.gated(gate, up), rows, self._weight(f"{at}mlp.down_proj"))
        if not layer.has_experts:
            return dense
        return on.add(on.norm(dense), on.norm(self._mixture(on, layer, x, rows)))

    def _mixture(self, on: Operations, layer: LayerConfig, x: Buffer, rows: int) -> Buffer:
        at = f"layers.{layer.index}."
        scores = on.linear(on.norm(x), rows, self._weight(f"{at}router.proj"))
        chosen = on.tape.make(2 * scores.nbytes, scores)
        experts = rows * self.config.top_k_experts
        spread = on.array(experts * layer.hidden_size, on.norm(x), chosen)
        wide = experts * layer.moe_intermediate_size
        expert = self._weight(f"{at}experts.switch_glu.gate_proj")
        gate, up = on.array(wide, spread, weights=expert.nbytes), on.array(wide, spread, weights=expert.nbytes)
        down = on.array(experts * layer.hidden_size, on.gated(gate, up), weights=expert.nbytes)
        back = on.array(experts * layer.hidden_size, down)
        return on.array(rows * layer.hidden_size, on.tape.rework(back))

    def _per_layer(self, on: Operations, at: str, x: Buffer, rows: int, per_layer: Buffer) -> Buffer:
        gate = on.linear(x, rows, self._weight(f"{at}per_layer_input_gate"))
        gated = on.gated(gate, per_layer)
        if gated.in_columns:  # the rows of the table do not lie so
            gated = on.tape.make(gated.nbytes, gated)
        return on.linear(gated, rows, self._weight(f"{at}per_layer_projection"))

    def _head(self, on: Operations, x: Buffer) -> Buffer:
        table = self._weight("embed_tokens")
        logits = on.array(self.config.vocab_size, on.norm(x), weights=table.nbytes)
        if self.config.final_logit_softcapping is not None:
            on.tape.rework(logits, times=3)
        return on.tape.make(self.config.vocab_size * FLOAT32, logits)


def _replaced(on: Operations, new: Buffer, past: Buffer | None, fresh: int, kept: int) -> Buffer:
    """A larger buffer: what is kept of the past, then zeros, then `new` in their place."""
    whole = on.array(fresh)
    if past is not None:
        past.kept = False
        whole = on.array(kept + fresh, past, whole)
    whole.kept = True
    return on.tape.view(on.tape.rework(whole, new))
