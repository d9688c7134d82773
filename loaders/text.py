"""The language model of every Gemma 4 family; the names of attributes are the names of weights.

Shapes: B batch, L tokens of this pass, K keys that they may see, D a head's features, P features of a per-layer
embedding (PLE), E experts, k experts per token. Activations have the dtype of the norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
from mlx import nn

from ..schemas.errors import ConfigError
from .cache import Cache, KeysValues
from .config import LayerConfig, RopeConfig, TextConfig
from .linear import Embedding, Linear, Packed, packed_product, packing_of
from .masks import Blocks, Mask, block_mask, causal_mask
from .module import Module, on_cpu

# From here on, tokens sorted by expert read each expert's weights once.
SORT_FROM = 64

GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = GELU_LINEAR * 0.044715


@dataclass(frozen=True)
class TextInputs:
    """What enters the decoder layers.

    Attributes:
        embeddings: [B, L, hidden], scaled.
        per_layer: [B, L, layers, P], the PLE table's rows, scaled; None where the model has no PLE.
        blocks: [L], which tokens see each other on sliding layers, see `masks.py`; None where all is causal.
    """

    embeddings: mx.array
    per_layer: mx.array | None = None
    blocks: Blocks | None = None


@dataclass
class Pass:
    """What the layers of one forward pass hand to each other.

    Attributes:
        offset: position of the first query.
        window: how many keys a query sees on sliding layers, itself included.
        caches: by layer; empty for a pass without a past.
        blocks: see `TextInputs`.
        shared: keys and values that later layers read, by the layer that computed them, each [B, heads, K, D].
    """

    offset: int
    window: int
    caches: Mapping[int, Cache]
    blocks: Blocks | None = None
    shared: dict[int, KeysValues] = field(default_factory=dict)
    _block_masks: dict[tuple[int, int], mx.array] = field(default_factory=dict)

    def mask(self, layer: LayerConfig, queries: int, keys: int) -> Mask:
        """What the last `queries` of `keys` tokens may see on `layer`."""
        if not layer.is_sliding:
            return causal_mask(queries, keys)
        if self.blocks is None:
            return causal_mask(queries, keys, self.window)
        if (queries, keys) not in self._block_masks:
            self._block_masks[queries, keys] = block_mask(self.blocks, queries, keys, self.window)
        return self._block_masks[queries, keys]


class Rotary:
    """Rotary position embedding that pairs feature i with i + D/2.

    Raises:
        ConfigError: `rope_type` is not one that Gemma 4 uses.
    """

    def __init__(self, config: RopeConfig, head_dim: int) -> None:
        self._head_dim = head_dim
        self._periods = mx.array(rotary_periods(config, head_dim))

    def __call__(self, x: mx.array, offset: int) -> mx.array:
        """Rotate [B, heads, L, D], whose first token is at position `offset`."""
        return mx.fast.rope(
            x, self._head_dim, traditional=False, base=None, scale=1.0, offset=offset, freqs=self._periods
        )


def rotary_periods(config: RopeConfig, head_dim: int) -> np.ndarray:
    """float32 [D/2]: tokens per radian; infinite for the features that do not rotate.

    Raises:
        ConfigError: `rope_type` is not one that Gemma 4 uses.
    """
    if config.rope_type not in ("default", "proportional"):
        raise ConfigError(f"rope_type is {config.rope_type!r}, not default or proportional", where="config.json")
    periods = config.rope_theta ** (np.arange(0, head_dim, 2) / head_dim)
    if config.rope_type == "proportional":
        periods[int(config.partial_rotary_factor * head_dim // 2) :] = np.inf
    return periods.astype(np.float32)


def gelu(x: mx.array) -> mx.array:
    """GELU by its tanh formula, written with the logistic function: (1 + tanh z) / 2 = sigmoid 2z."""
    return x * mx.sigmoid(x * (GELU_LINEAR + GELU_CUBIC * (x * x)))


def gated(gate: mx.array, up: mx.array) -> mx.array:
    """Multiply GELU of `gate` with `up`."""
    # On the CPU, fusing would call a C++ compiler at run time.
    return gelu(gate) * up if on_cpu() else _fused(gate, up)


_fused = mx.compile(lambda gate, up: gelu(gate) * up, shapeless=True)


def value_norm(x: mx.array, eps: float) -> mx.array:
    """RMS norm without a weight, over the last axis."""
    return mx.fast.rms_norm(x, None, eps)


def softcap(logits: mx.array, cap: float | None) -> mx.array:
    """Squeeze logits into (-cap, cap)."""
    return logits if cap is None else mx.tanh(logits / cap) * cap


class Attention(Module):
    """Grouped-query attention; layers of the KV-shared tail have queries only."""

    def __init__(self, text: TextConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.layer, self.eps = layer, text.rms_norm_eps
        self.rope = Rotary(text.rope_parameters[layer.attention], layer.head_dim)
        self.q_proj = Linear(layer.hidden_size, layer.q_size)
        self.o_proj = Linear(layer.q_size, layer.hidden_size)
        self.q_norm = nn.RMSNorm(layer.head_dim, self.eps)
        if layer.owns_kv:
            self.k_proj = Linear(layer.hidden_size, layer.kv_size)
            self.k_norm = nn.RMSNorm(layer.head_dim, self.eps)
        if layer.owns_kv and layer.has_v_proj:
            self.v_proj = Linear(layer.hidden_size, layer.kv_size)

    def __call__(self, x: mx.array, keys_values: KeysValues, step: Pass) -> mx.array:
        """Map x [B, L, hidden], the queries' tokens, to [B, L, hidden]."""
        batch, length, _ = x.shape
        queries = self.rope(self.q_norm(self._heads(self.q_proj(x))), step.offset)
        keys, values = keys_values
        mask = step.mask(self.layer, length, keys.shape[2])
        heads = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask=mask)
        return self.o_proj(heads.transpose(0, 2, 1, 3).reshape(batch, length, -1))

    def keys_values(self, x: mx.array, step: Pass) -> KeysValues:
        """Map x [B, L, hidden], the tokens of the pass, to [B, kv heads, K, D] each; the past comes first."""
        if not self.layer.owns_kv:
            return step.shared[self.layer.kv_source]
        found = self._project(x, step.offset)
        if (cache := step.caches.get(self.layer.index)) is not None:
            found = cache.update(*found)
        if self.layer.lends_kv:
            step.shared[self.layer.index] = found
        return found

    def _project(self, x: mx.array, offset: int) -> KeysValues:
        """[B, kv heads, L, D] each. Without `v_proj` the values are the keys before their norm and rotation."""
        keys = self._heads(self.k_proj(x))
        values = self._heads(self.v_proj(x)) if self.layer.has_v_proj else keys
        return self.rope(self.k_norm(keys), offset), value_norm(values, self.eps)

    def _heads(self, x: mx.array) -> mx.array:
        """[B, L, heads * D] -> [B, heads, L, D]."""
        return x.reshape(*x.shape[:2], -1, self.layer.head_dim).transpose(0, 2, 1, 3)


class MLP(Module):
    """Gated feed-forward block."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size)
        self.up_proj = Linear(hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [B, L, hidden] to [B, L, hidden]."""
        return self.down_proj(gated(self.gate_proj(x), self.up_proj(x)))


class ExpertLinear(Module):
    """One matrix [out, in] for each expert, stacked: `weight` [E, out, in]."""

    def __init__(self, num_experts: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = mx.zeros((num_experts, out_features, in_features))

    def __call__(self, x: mx.array, experts: mx.array, *, is_sorted: bool) -> mx.array:
        """Map x [..., 1, in], experts [...] to [..., 1, out]."""
        return mx.gather_mm(x, self.weight.swapaxes(-1, -2), rhs_indices=experts, sorted_indices=is_sorted)

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> PackedExpertLinear:
        """The module that `nn.quantize` puts in this one's place."""
        return PackedExpertLinear(self.weight, group_size, bits, mode)


class PackedExpertLinear(Packed):
    """`ExpertLinear` with packed weights."""

    def __call__(self, x: mx.array, experts: mx.array, *, is_sorted: bool) -> mx.array:
        """Map x [..., 1, in], experts [...] to [..., 1, out]."""
        parts = self.weight, self.scales, self.get("biases")

        def multiply(x: mx.array) -> mx.array:
            return mx.gather_qmm(x, *parts, rhs_indices=experts, sorted_indices=is_sorted, **packing_of(self))

        return packed_product(multiply, x)


class SwitchGLU(Module):
    """The gated feed-forward blocks of all experts."""

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = ExpertLinear(num_experts, hidden_size, intermediate_size)
        self.up_proj = ExpertLinear(num_experts, hidden_size, intermediate_size)
        self.down_proj = ExpertLinear(num_experts, intermediate_size, hidden_size)

    def __call__(self, x: mx.array, experts: mx.array) -> mx.array:
        """Map x [B, L, hidden], experts [B, L, k] to [B, L, k, hidden]."""
        if experts.size < SORT_FROM:
            return self._run(x[..., None, None, :], experts).squeeze(-2)
        order = mx.argsort(experts.flatten())
        rows = x.reshape(-1, 1, x.shape[-1])[order // experts.shape[-1]]  # [B * L * k, 1, hidden]
        out = self._run(rows, experts.flatten()[order], is_sorted=True)
        return out[mx.argsort(order)].reshape(*experts.shape, -1)

    def _run(self, x: mx.array, experts: mx.array, *, is_sorted: bool = False) -> mx.array:
        gate = self.gate_proj(x, experts, is_sorted=is_sorted)
        up = self.up_proj(x, experts, is_sorted=is_sorted)
        return self.down_proj(gated(gate, up), experts, is_sorted=is_sorted)


class Experts(Module):
    """The mixture: each token's experts, weighted."""

    def __init__(self, layer: LayerConfig) -> None:
        super().__init__()
        self.switch_glu = SwitchGLU(layer.num_experts, layer.hidden_size, layer.moe_intermediate_size)

    def __call__(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """Map x [B, L, hidden], experts and weights [B, L, k] to [B, L, hidden]."""
        return (self.switch_glu(x, experts) * weights[..., None]).sum(-2)


class Router(Module):
    """Chooses the experts of each token."""

    def __init__(self, text: TextConfig) -> None:
        super().__init__()
        self.eps, self.top_k = text.rms_norm_eps, text.top_k_experts
        self.proj = Linear(text.hidden_size, text.num_experts)
        self.scale = mx.ones(text.hidden_size)
        self.per_expert_scale = mx.ones(text.num_experts)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Map x [B, L, hidden] to experts and their weights, each [B, L, k]."""
        x = mx.fast.rms_norm(x, self.scale, self.eps) * x.shape[-1] ** -0.5
        probabilities = mx.softmax(self.proj(x).astype(mx.float32), axis=-1)
        experts = mx.argpartition(-probabilities, self.top_k - 1, axis=-1)[..., : self.top_k]
        weights = renormalise(mx.take_along_axis(probabilities, experts, axis=-1))
        return experts, (weights * self.per_expert_scale[experts]).astype(x.dtype)


def renormalise(weights: mx.array) -> mx.array:
    """Make the weights of each token's experts sum to 1."""
    return weights / weights.sum(-1, keepdims=True)


class DecoderLayer(Module):
    """Attention, then a dense block with or without experts beside it, then PLE where the model has it."""

    def __init__(self, text: TextConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.layer = layer
        self.self_attn = Attention(text, layer)
        self.mlp = MLP(layer.hidden_size, layer.intermediate_size)
        self.layer_scalar = mx.ones(1)
        for name in _norm_names(layer):
            self[name] = nn.RMSNorm(layer.hidden_size, text.rms_norm_eps)
        if layer.has_experts:
            self.router, self.experts = Router(text), Experts(layer)
        if layer.has_ple:
            self.per_layer_input_gate = Linear(layer.hidden_size, layer.hidden_size_per_layer_input)
            self.per_layer_projection = Linear(layer.hidden_size_per_layer_input, layer.hidden_size)

    def __call__(self, x: mx.array, step: Pass, per_layer: mx.array | None, *, narrow: bool = False) -> mx.array:
        """Map x [B, L, hidden], per_layer [B, L, P] to [B, L, hidden].

        With `narrow` the last position goes on alone: per_layer [B, 1, P] to [B, 1, hidden].
        """
        normed = self.input_layernorm(x)
        keys_values = self.self_attn.keys_values(normed, step)
        if narrow:
            step.offset += x.shape[1] - 1
            x, normed = x[:, -1:], normed[:, -1:]
        x = x + self.post_attention_layernorm(self.self_attn(normed, keys_values, step))
        x = x + self.post_feedforward_layernorm(self._feed_forward(x))
        if per_layer is not None:
            x = x + self._per_layer(x, per_layer)
        return x * self.layer_scalar

    def _feed_forward(self, x: mx.array) -> mx.array:
        dense = self.mlp(self.pre_feedforward_layernorm(x))
        if not self.layer.has_experts:
            return dense
        # The router sees the residual stream itself, the experts a norm of it.
        mixture = self.experts(self.pre_feedforward_layernorm_2(x), *self.router(x))
        out: mx.array = self.post_feedforward_layernorm_1(dense) + self.post_feedforward_layernorm_2(mixture)
        return out

    def _per_layer(self, x: mx.array, per_layer: mx.array) -> mx.array:
        out = self.per_layer_projection(gated(self.per_layer_input_gate(x), per_layer))
        normed: mx.array = self.post_per_layer_input_norm(out)
        return normed


def _norm_names(layer: LayerConfig) -> list[str]:
    names = [
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ]
    if layer.has_experts:
        names += ["post_feedforward_layernorm_1", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2"]
    if layer.has_ple:
        names.append("post_per_layer_input_norm")
    return names


class TextModel(Module):
    """Embeddings, decoder layers, final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, layer) for layer in config.layers]
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        if config.has_ple:
            self.embed_tokens_per_layer = Embedding(config.vocab_size_per_layer_input, config.ple_size)
            self.per_layer_model_projection = Linear(config.hidden_size, config.ple_size)
            self.per_layer_projection_norm = nn.RMSNorm(config.hidden_size_per_layer_input, config.rms_norm_eps)

    def embed(self, ids: mx.array) -> TextInputs:
        """Map ids [B, L] to the inputs of a pass over text alone."""
        return TextInputs(self.embed_ids(ids), self.embed_ids_per_layer(ids))

    def embed_ids(self, ids: mx.array) -> mx.array:
        """Map ids [B, L] to [B, L, hidden]."""
        return self._rows(self.embed_tokens, ids) * math.sqrt(self.config.hidden_size)

    def embed_ids_per_layer(self, ids: mx.array) -> mx.array | None:
        """Map ids [B, L] to the PLE table's rows [B, L, layers, P]; media positions must hold `pad_token_id`."""
        if not self.config.has_ple:
            return None
        width = self.config.hidden_size_per_layer_input
        rows = self._rows(self.embed_tokens_per_layer, ids) * math.sqrt(width)
        return mx.unflatten(rows, -1, (self.config.num_hidden_layers, width))

    def _rows(self, table: Callable[[mx.array], mx.array], ids: mx.array) -> mx.array:
        """Rows come in the dtype of the table or of its scales; activations have that of the norms."""
        return table(ids).astype(self.norm.weight.dtype)

    def __call__(
        self, inputs: TextInputs, caches: Mapping[int, Cache] | None = None, *, last_only: bool = False
    ) -> mx.array:
        """Hidden states after the final norm.

        Args:
            inputs: the tokens that follow those in `caches`.
            caches: by layer, of all layers that compute keys and values; None for a pass without a past.
            last_only: leave out what the last position does not need; the caches are complete all the same.

        Returns:
            [B, L, hidden], or [B, 1, hidden] with `last_only`.
        """
        x = inputs.embeddings
        for x in self.layer_outputs(inputs, caches, last_only=last_only):  # noqa: B007  # the last one counts
            pass
        out: mx.array = self.norm(x)
        return out

    def layer_outputs(
        self, inputs: TextInputs, caches: Mapping[int, Cache] | None = None, *, last_only: bool = False
    ) -> Iterator[mx.array]:
        """What each decoder layer hands to the next, layer by layer; see `__call__`."""
        caches = caches or {}
        offset = next(iter(caches.values())).offset if caches else 0
        step = Pass(offset, self.config.sliding_window, caches, inputs.blocks)
        x, per_layer = inputs.embeddings, self._project_per_layer(inputs)
        for index, layer in enumerate(self.layers):
            # The layers after this one write no keys and values, so what precedes the last position can stop here.
            narrow = last_only and index == self.config.first_shared_layer - 1
            if narrow and per_layer is not None:
                per_layer = per_layer[:, -1:]
            x = layer(x, step, None if per_layer is None else per_layer[:, :, index], narrow=narrow)
            yield x

    def _project_per_layer(self, inputs: TextInputs) -> mx.array | None:
        """[B, L, layers, P]: the table's rows mixed with a projection of the embeddings.

        Raises:
            ValueError: the inputs lack the table's rows.
        """
        if not self.config.has_ple:
            return None
        if inputs.per_layer is None:
            raise ValueError("the model has per-layer embeddings, the inputs lack them")
        context = self.per_layer_model_projection(inputs.embeddings) * self.config.hidden_size**-0.5
        projected: mx.array = self.per_layer_projection_norm(context.reshape(inputs.per_layer.shape))
        return (projected + inputs.per_layer) * 2**-0.5


class LanguageModel(Module):
    """The text model with its output head; the whole of a `gemma4_text` checkpoint."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.model = TextModel(config)
        if config.untied:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def __call__(
        self, inputs: mx.array | TextInputs, caches: Mapping[int, Cache] | None = None, *, last_only: bool = False
    ) -> mx.array:
        """Logits of the next token.

        Args:
            inputs: ids [B, L], or what the decoder layers take.
            caches: the past, see `make_caches`; None for a pass without one.
            last_only: only the last position's logits; one row is 1 MiB at the published vocabulary.

        Returns:
            [B, L, vocabulary], or [B, 1, vocabulary] with `last_only`.
        """
        ready = self.model.embed(inputs) if isinstance(inputs, mx.array) else inputs
        hidden = self.model(ready, caches, last_only=last_only)
        logits = self.lm_head(hidden) if self.config.untied else self.model.embed_tokens.as_linear(hidden)
        return softcap(logits, self.config.final_logit_softcapping)
