"""Bounds for the linear layers that clip: observed ranges, tightened so that ignoring a bound shows."""

from collections.abc import Callable

import torch
import torchvision_on_cpu  # noqa: F401 (before transformers imports torchvision)
from torch import nn
from transformers.models.gemma4.modeling_gemma4 import Gemma4ClippableLinear

BOUNDS = ("input_min", "input_max", "output_min", "output_max")
Ranges = dict[str, list[float]]


def clipping_layers(model: nn.Module) -> dict[str, Gemma4ClippableLinear]:
    """Return the layers that clip, by name."""
    layers = model.named_modules()
    return {name: m for name, m in layers if isinstance(m, Gemma4ClippableLinear) and hasattr(m, "input_min")}


def set_clipping(model: nn.Module, active: bool) -> None:
    """Switch clipping on or off; training runs without, because infinite bounds only cost time."""
    for layer in clipping_layers(model).values():
        layer.use_clipped_linears = active


def observe(model: nn.Module, run: Callable[[], object]) -> Ranges:
    """Return the smallest and largest input and output of each clipping layer, unclipped, while `run` runs."""
    ranges: Ranges = {}

    def watch(name: str) -> Callable:
        def hook(module: Gemma4ClippableLinear, inputs: tuple, _: torch.Tensor) -> None:
            output = module.linear(inputs[0].clamp(module.input_min, module.input_max))
            low, high, least, most = ranges.get(name, [0.0, 0.0, 0.0, 0.0])
            low, high = min(low, inputs[0].min().item()), max(high, inputs[0].max().item())
            ranges[name] = [low, high, min(least, output.min().item()), max(most, output.max().item())]

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in clipping_layers(model).items()]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return ranges


def set_bounds(model: nn.Module, ranges: Ranges, factor: float) -> None:
    """Store the ranges times the factor, rounded to bfloat16; a bound that is tighter already stays."""
    layers = clipping_layers(model)
    for name, values in ranges.items():
        for bound, value in zip(BOUNDS, values, strict=True):
            stored, wanted = getattr(layers[name], bound), torch.tensor(value * factor).bfloat16().float()
            stored.copy_(wanted if wanted.abs() < stored.abs() else stored)
