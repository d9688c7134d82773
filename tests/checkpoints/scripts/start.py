"""The trained sample's starting point: values from which a tiny Gemma 4 learns, and fixed ones it learns around.

Gemma 4's attention has no 1/sqrt(d), so the query and key norms start at 1.2 * d^-1/4; post-norms at one would drown
the embeddings; a vision position table of ones, transformers' own start, says nothing about places.  What no gradient
reaches (layer scalars, the pad row of both tables, read at every media position) gets values of its own here, or a
mistake there would stay unseen.
"""

import math

import torch
import torchvision_on_cpu  # noqa: F401 (before transformers imports torchvision)
from torch import nn
from torch.nn import functional
from transformers import Gemma4ForConditionalGeneration

SCALARS = (0.7, 1.3)
PAD_ROW_SPREAD = 0.3
CONSTANTS = {
    "post_attention_layernorm.weight": 0.3,
    "post_feedforward_layernorm.weight": 0.3,
    "post_per_layer_input_norm.weight": 0.1,
}


def position_table(shape: torch.Size) -> torch.Tensor:
    """Return sines and cosines of x in the first half of the channels, of y in the second."""
    axes, places, channels = shape
    quarter = channels // 4
    waves = 0.9 * 50.0 ** (-torch.arange(quarter) / quarter)
    angles = torch.arange(places)[:, None] * waves
    wave = torch.cat([angles.sin(), angles.cos()], -1)
    table = torch.zeros(axes, places, channels)
    table[0, :, : 2 * quarter], table[1, :, 2 * quarter :] = wave, wave
    return table


def _spread(name: str, shape: torch.Size) -> float:
    """Return the standard deviation of a matrix."""
    if name.endswith("embed_tokens_per_layer.weight"):
        return 0.05
    inputs = shape[1] if name.endswith("embed_tokens.weight") else math.prod(shape[1:])
    return inputs**-0.5


def _initial(name: str, tensor: torch.Tensor, generator: torch.Generator) -> "torch.Tensor | None":
    """Return the starting value of a parameter, or none where the constructor's is right."""
    if name.endswith("position_embedding_table"):
        return position_table(tensor.shape)
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return torch.full_like(tensor, 1.2 * len(tensor) ** -0.25)
    for end, constant in CONSTANTS.items():
        if name.endswith(end):
            return torch.full_like(tensor, constant)
    return _spread(name, tensor.shape) * torch.randn(tensor.shape, generator=generator) if tensor.ndim > 1 else None


def initialize(model: Gemma4ForConditionalGeneration, seed: int) -> None:
    """Set all parameters, and the values that training leaves alone."""
    generator = torch.Generator().manual_seed(seed)
    text = model.model.language_model
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            value = _initial(name, tensor, generator)
            if value is not None:
                tensor.copy_(value)
        for layer in text.layers:
            layer.layer_scalar.uniform_(*SCALARS, generator=generator)
        text.embed_tokens_per_layer.weight[0].normal_(0, PAD_ROW_SPREAD, generator=generator)
    model.tie_weights()


class PictureHead(nn.Module):
    """A throw-away classifier on the mean of a picture's soft tokens.

    Through the language model, place and shape stay at chance for hundreds of steps; this teaches them to the tower
    in a minute or two.
    """

    def __init__(self, width: int, classes: list[int]) -> None:
        super().__init__()
        self.classes = classes
        self.linear = nn.Linear(width, sum(classes))

    def forward(self, soft_tokens: torch.Tensor, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and, for each question, the share of right answers."""
        scores = self.linear(soft_tokens.mean(1)).split(self.classes, -1)
        pairs = list(zip(scores, answers.T, strict=True))
        loss = sum(functional.cross_entropy(score, answer) for score, answer in pairs)
        return loss, torch.stack([(score.argmax(-1) == answer).float().mean() for score, answer in pairs])
