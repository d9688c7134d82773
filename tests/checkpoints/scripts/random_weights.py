"""Seeded random weights in which no tensor is trivial.

A model straight from its constructor has norms at one, layer scalars at one, infinite clip bounds and logits near
zero: most mistakes of a converter would not show.  Here every tensor has values of its own, at sizes that keep the
logits spread over several units, where the soft cap bends them.
"""

import math

import torch
from clip_bounds import observe, set_bounds
from torch import nn

FINAL_NORM = 3.5
ROUTER_SCALE = 2.0
# The end of a tensor's name, how it is drawn, and the two numbers for that; the first line that fits counts.
RULES = (
    ("layer_scalar", "between", 0.7, 1.2),
    ("q_norm.weight", "attention", 1.2, 0.1),
    ("k_norm.weight", "attention", 1.2, 0.1),
    ("per_dim_scale", "around", 0.0, 0.4),
    ("std_bias", "around", 0.0, 0.5),
    ("std_scale", "around", 1.0, 0.3),
    ("router.scale", "around", ROUTER_SCALE, 0.5),
    ("per_expert_scale", "between", 0.5, 1.5),
    ("position_embedding_table", "around", 0.0, 0.5),
    ("embed_tokens_per_layer.weight", "around", 0.0, 0.1),
    ("language_model.norm.weight", "around", FINAL_NORM, 0.5),
    ("model.norm.weight", "around", FINAL_NORM, 0.5),
    ("router.proj.weight", "around", 0.0, 1.0),
    ("gate_up_proj", "expert", 0.0, 1.0),
    ("experts.down_proj", "expert", 0.0, 1.0),
    ("bias", "around", 0.0, 0.2),
    ("norm.weight", "around", 1.0, 0.15),
    ("norm_out.weight", "around", 1.0, 0.15),
    ("weight", "weight", 1.0, 0.15),
)


def _between(shape: torch.Size, generator: torch.Generator, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _around(shape: torch.Size, generator: torch.Generator, mean: float, spread: float) -> torch.Tensor:
    return mean + spread * torch.randn(shape, generator=generator)


def _attention(shape: torch.Size, generator: torch.Generator, scale: float, spread: float) -> torch.Tensor:
    """Draw the norm of queries or keys: attention has no 1/sqrt(d) of its own."""
    return scale * shape[0] ** -0.25 * _around(shape, generator, 1.0, spread)


def _expert(shape: torch.Size, generator: torch.Generator, mean: float, scale: float) -> torch.Tensor:
    return _around(shape, generator, mean, scale / math.sqrt(shape[-1]))


def _weight(shape: torch.Size, generator: torch.Generator, mean: float, spread: float) -> torch.Tensor:
    """Draw a matrix that keeps the size of what it multiplies, or a norm."""
    if len(shape) == 1:
        return _around(shape, generator, mean, spread)
    return _around(shape, generator, 0.0, 1 / math.sqrt(math.prod(shape[1:])))


DRAWS = {"between": _between, "around": _around, "attention": _attention, "expert": _expert, "weight": _weight}


def randomize(model: nn.Module, seed: int) -> None:
    """Give every parameter and every stored buffer a value of its own, the bounds of clipping layers excepted."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            rule = next((rule for rule in RULES if name.endswith(rule[0])), None)
            if rule and name != "lm_head.weight":
                tensor.copy_(DRAWS[rule[1]](tensor.shape, generator, *rule[2:]))
    model.tie_weights()


def _noise_through_towers(model: nn.Module, generator: torch.Generator) -> None:
    """Run random pictures and random spectra through the towers."""
    grid = torch.stack(torch.meshgrid(torch.arange(24), torch.arange(24), indexing="xy"), -1).reshape(1, -1, 2)
    model.vision_tower(torch.rand((1, 576, 768), generator=generator), grid)
    spectrum = torch.randn((1, 96, 128), generator=generator) - 2
    model.audio_tower(spectrum, torch.ones((1, 96), dtype=torch.bool))


def bound(model: nn.Module, seed: int) -> None:
    """Set the clip bounds at half the ranges that random media reach."""
    generator = torch.Generator().manual_seed(seed)
    set_bounds(model, observe(model, lambda: _noise_through_towers(model.model, generator)), 0.5)
