"""The trained sample's starting point: values from which a tiny Gemma 4 learns, and fixed ones it learns around.

Gemma 4's attention has no 1/sqrt(d), so the query and key norms start at 1.2 * d^-1/4; post-norms at one would drown
the embeddings; a vision position table of ones, transformers' own start, says nothing about places.  Where pixels and
samples enter through one projection each, it starts as a bank of waves.  What no gradient reaches (layer scalars, the
pad row of both tables, read at every media position) gets values of its own here, or a mistake there would stay
unseen.
"""

import math

import torch
import torchvision_on_cpu  # noqa: F401 (before transformers imports torchvision)
from collate import BLOCK, IGNORED
from tasks import SAMPLE_RATE
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

SCALARS = (0.7, 1.3)
PAD_ROW_SPREAD = 0.3
BIAS_SPREAD = 0.2
LOWEST, HIGHEST = 200.0, 7600.0
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


def sound_bank(shape: torch.Size) -> torch.Tensor:
    """Return windowed sines in the first half of the rows, cosines in the second, their pitches even on the mel scale.

    The highest lie above every tone of the tasks: they catch noise alone, and that tells silence from sound where
    every frame is normalized.
    """
    rows, samples = shape
    mels = torch.linspace(*(math.log1p(pitch / 700) for pitch in (LOWEST, HIGHEST)), rows // 2)
    angles = 2 * math.pi * 700 * mels.expm1()[:, None] * torch.arange(samples) / SAMPLE_RATE
    waves = torch.cat([angles.sin(), angles.cos()]) * torch.hann_window(samples, periodic=False)
    return functional.normalize(waves, dim=1) / 4


def picture_bank(shape: torch.Size) -> torch.Tensor:
    """Return the cosine waves of lowest frequency over a block, each once a colour channel, in orthonormal rows."""
    rows, values = shape
    waves = (torch.arange(BLOCK) + 0.5) * torch.arange(BLOCK)[:, None] * math.pi / BLOCK
    basis = functional.normalize(waves.cos(), dim=1)
    order = sorted(((u, v) for u in range(BLOCK) for v in range(BLOCK)), key=lambda pair: (sum(pair), pair))
    flat = torch.stack([torch.outer(basis[u], basis[v]).flatten() for u, v in order[: -(-rows // 3)]])
    return torch.einsum("wp,cd->wcpd", flat, torch.eye(3)).reshape(-1, values)[:rows]


def swapped_position_table(shape: torch.Size) -> torch.Tensor:
    """Return the position table with places first, then axes, then channels."""
    places, axes, channels = shape
    return position_table((axes, places, channels)).transpose(0, 1)


TOWER_BANKS = {"position_embedding_table": position_table}
RAW_BANKS = {
    "pos_embedding": swapped_position_table,
    "patch_dense.weight": picture_bank,
    "embed_audio.embedding_projection.weight": sound_bank,
}


def _spread(name: str, shape: torch.Size) -> float:
    """Return the standard deviation of a matrix."""
    if name.endswith("embed_tokens_per_layer.weight"):
        return 0.05
    inputs = shape[1] if name.endswith("embed_tokens.weight") else math.prod(shape[1:])
    return inputs**-0.5


def _initial(name: str, tensor: torch.Tensor, banks: dict, generator: torch.Generator) -> "torch.Tensor | None":
    """Return the starting value of a parameter, or none where the constructor's is right."""
    for end, bank in banks.items():
        if name.endswith(end):
            return bank(tensor.shape)
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return torch.full_like(tensor, 1.2 * len(tensor) ** -0.25)
    for end, constant in CONSTANTS.items():
        if name.endswith(end):
            return torch.full_like(tensor, constant)
    return _spread(name, tensor.shape) * torch.randn(tensor.shape, generator=generator) if tensor.ndim > 1 else None


def initialize(model: PreTrainedModel, seed: int) -> None:
    """Set all parameters, and the values that training leaves alone."""
    generator = torch.Generator().manual_seed(seed)
    text = model.model.language_model
    banks = TOWER_BANKS if hasattr(model.model, "vision_tower") else RAW_BANKS
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            value = _initial(name, tensor, banks, generator)
            if value is not None:
                tensor.copy_(value)
        for layer in text.layers:
            layer.layer_scalar.uniform_(*SCALARS, generator=generator)
        if hasattr(text, "embed_tokens_per_layer"):
            text.embed_tokens_per_layer.weight[0].normal_(0, PAD_ROW_SPREAD, generator=generator)
    model.tie_weights()


def _spread_norm(norm: nn.Module, behind: list[nn.Linear], generator: torch.Generator) -> None:
    scale = torch.empty_like(norm.weight).uniform_(*SCALARS, generator=generator)
    for values in norm.parameters():
        values.mul_(scale)
    for matrix in behind:
        matrix.weight.div_(scale)


@torch.no_grad()
def spread_norms(model: PreTrainedModel, seed: int) -> None:
    """Scale the channels of norms at random, and the matrices behind them the other way: the answers stay the same.

    A short training leaves norms near one and biases near zero, where ignoring them would hardly show.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.language_model.layers:
        projections = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        _spread_norm(layer.input_layernorm, [matrix for matrix in projections if matrix is not None], generator)
        _spread_norm(layer.pre_feedforward_layernorm, [layer.mlp.gate_proj, layer.mlp.up_proj], generator)
    norm, dense = model.model.embed_vision.patch_ln1, model.model.embed_vision.patch_dense
    _spread_norm(norm, [dense], generator)
    shift = torch.empty_like(norm.bias).normal_(0, BIAS_SPREAD, generator=generator)
    norm.bias.add_(shift)
    dense.bias.sub_(dense.weight @ shift)


class ThrowAwayHead(nn.Module):
    """A classifier on the mean of states, for a warm-up only.

    Through the language model, place and shape stay at chance for hundreds of steps; this teaches them to what sees
    pictures in a minute or two.
    """

    def __init__(self, width: int, classes: list[int]) -> None:
        super().__init__()
        self.classes = classes
        self.linear = nn.Linear(width, sum(classes))

    def forward(self, states: torch.Tensor, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and, for each question, the share of right answers."""
        scores = self.linear(states.mean(1)).split(self.classes, -1)
        pairs = list(zip(scores, answers.T, strict=True))
        loss = sum(functional.cross_entropy(score, answer, ignore_index=IGNORED) for score, answer in pairs)
        asked = [(score.argmax(-1) == answer)[answer != IGNORED] for score, answer in pairs]
        return loss, torch.stack([right.float().mean() for right in asked])
