"""Training of the trained samples, after their warm-up: all tasks, coarse pictures before full ones.

Schedules count steps and every draw is seeded, so a run repeats itself as far as torch's kernels do.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tasks
import torch
from collate import IGNORED, POOL, Batch, Collator
from numpy.random import Generator
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import Gemma4ForConditionalGeneration
from transformers.models.gemma4_unified import Gemma4UnifiedForConditionalGeneration

Log = Callable[[str], None]
Unified = Gemma4UnifiedForConditionalGeneration
Model = Gemma4ForConditionalGeneration | Unified
COARSE_COUNTS = {"image": 8, "audio": 8, "text": 5, "video": 5, "image+audio": 6, "image+audio+video": 4}
FULL_COUNTS = {"image": 5, "audio": 8, "text": 5, "video": 2, "image+audio": 4, "image+audio+video": 2}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a phase trains; the rate rises over `rise` steps and falls as a cosine to `floor`.

    `counts` says how many samples of each task a step draws, once the coarse pictures are over.
    """

    steps: int
    rate: float
    rise: int = 60
    floor: float = 0.02
    coarse_share: float = 0.0
    seed: int = 0
    counts: dict[str, int] = field(default_factory=lambda: FULL_COUNTS)

    def rate_at(self, step: int) -> float:
        """Return the learning rate of the step."""
        fall = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.rate * min(1, (step + 1) / self.rise) * fall


@dataclass
class State:
    """What a stopped run needs to go on."""

    step: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)

    def recent(self, task: str, count: int = 8) -> float:
        """Return the task's mean loss of late."""
        return float(np.mean(self.losses.get(task, [1.0])[-count:]))

    def add(self, task: str, loss: float) -> None:
        """Remember a loss."""
        self.losses.setdefault(task, []).append(loss)

    def summary(self) -> str:
        """Return the mean losses of the last 25 batches."""
        return " ".join(f"{task} {self.recent(task, 25):.3f}" for task in self.losses)


def _learn(loss: torch.Tensor, weight: float) -> float:
    """Add the loss's gradients and return its value."""
    (loss * weight).backward()
    return loss.item()


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    """Tell whether Muon trains the tensor: a weight matrix that is not a table."""
    return tensor.ndim == 2 and not any(word in name for word in ("embed_tokens", "table", "head"))


def optimizers(
    named: Iterable[tuple[str, nn.Parameter]], muon: float, tower: float = 0.1
) -> list[tuple[Optimizer, float]]:
    """Return (optimizer, factor of the learning rate) pairs.

    The vision tower, taught before, moves at a tenth of the rate: at full rate it would forget what the language
    model does not read yet.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        groups.setdefault(("vision_tower" in name, is_matrix(name, parameter)), []).append(parameter)
    made: list[tuple[Optimizer, float]] = []
    for (in_tower, matrices), parameters in groups.items():
        factor = tower if in_tower else 1.0
        if matrices:
            optimizer = Muon(parameters, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
            made.append((optimizer, factor * muon))
        else:
            made.append((AdamW(parameters, weight_decay=0.0, betas=(0.9, 0.98), eps=1e-9), factor))
    return made


def apply(made: list[tuple[Optimizer, float]], parameters: list[nn.Parameter], rate: float) -> None:
    """Apply the gradients."""
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer, factor in made:
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def coarse_tokens(model: Model, pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the soft tokens [pictures, 16, width] of coarse pictures, before the projection.

    The pooler would misread the spread positions, so the patches are averaged by reshaping.
    """
    tower = model.model.vision_tower
    padding = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    embedded = tower.patch_embedder(pixels, places, padding)
    states = tower.encoder(inputs_embeds=embedded, attention_mask=~padding, pixel_position_ids=places)
    width = embedded.shape[-1]
    side = math.isqrt(embedded.shape[1]) // POOL
    grid = states.last_hidden_state.view(-1, side, POOL, side, POOL, width)
    return grid.mean((2, 4)).reshape(len(pixels), -1, width)


def with_masks(model: Unified, batch: Batch) -> dict:
    """Return the batch with Gemma 4's masks: both directions within a picture or frame, on sliding layers only.

    By itself `forward()` makes Gemma 3's, where the full layers see a picture in both directions too.
    """
    mask = batch["attention_mask"]
    masks = model.create_masks_for_generate(
        model.config,
        inputs_embeds=torch.empty((*mask.shape, 1), dtype=model.dtype),
        attention_mask=mask,
        past_key_values=None,
        position_ids=torch.arange(mask.shape[1])[None],
        mm_token_type_ids=batch["mm_token_type_ids"],
    )
    return batch | {"attention_mask": masks}


def unified_loss(model: Unified, batch: Batch) -> torch.Tensor:
    """Return the loss; logits are made where they are needed only."""
    labels = batch.pop("labels")[:, 1:]
    states = model.model(**with_masks(model, batch), use_cache=False).last_hidden_state[:, :-1]
    cap = model.config.text_config.final_logit_softcapping
    logits = cap * torch.tanh(model.lm_head(states[labels != IGNORED]) / cap)
    return nn.functional.cross_entropy(logits, labels[labels != IGNORED])


def loss_of(model: Model, batch: Batch, coarse: bool) -> torch.Tensor:
    """Return the loss; coarse pictures of a model with a tower are encoded here and handed over as features."""
    if isinstance(model, Unified):
        return unified_loss(model, batch)
    features = {}
    for kind, pixels, places in (
        ("image", "pixel_values", "image_position_ids"),
        ("video", "pixel_values_videos", "video_position_ids"),
    ):
        if coarse and pixels in batch:
            tokens = coarse_tokens(model, batch.pop(pixels), batch.pop(places)).flatten(0, 1)
            tokens = tokens * tokens.shape[-1] ** 0.5
            features[kind] = SimpleNamespace(pooler_output=[model.model.embed_vision(inputs_embeds=tokens)])
    if "video" in features:
        del batch["num_frames_per_video"]
    arguments = {"mm_encoder_outputs": features} if features else {}
    return model(**batch, use_cache=False, **arguments).loss


def adapted(base: dict[str, int], state: State) -> dict[str, int]:
    """Return how many samples of each task the next step draws: more of what is not learned yet."""
    counts = {}
    for task, count in base.items():
        loss = state.recent(task)
        factor = next(share for limit, share in ((0.1, 1.5), (0.03, 1.0), (0.01, 0.5), (0.0, 1 / 3)) if loss >= limit)
        if factor > 0.4 or state.step % 3 == 0:
            counts[task] = max(1, round(count * factor))
    return counts


def train(model: Model, collator: Collator, schedule: Schedule, save: Path, log: Log) -> None:
    """Train all tasks together; the state is saved every 50 steps and taken up again if it is there."""
    parameters = dict(model.named_parameters())
    made, state = optimizers(parameters.items(), muon=2.0), State()
    rng = np.random.default_rng(schedule.seed)
    if save.exists():
        _restore(save, model, made, state, rng)
    model.train()
    while state.step < schedule.steps:
        coarse = state.step < schedule.coarse_share * schedule.steps
        for task, count in adapted(COARSE_COUNTS if coarse else schedule.counts, state).items():
            batch = collator([tasks.draw(rng, task, training=True, coarse=coarse) for _ in range(count)])
            state.add(task, _learn(loss_of(model, batch, coarse), 0.5 if "+" in task else 1.0))
        apply(made, list(parameters.values()), schedule.rate_at(state.step))
        state.step += 1
        if state.step % 25 == 0:
            log(f"step {state.step} {state.summary()}")
        if state.step % 50 == 0 or state.step == schedule.steps:
            _keep(save, model, made, state, rng)
    model.eval()


def _keep(save: Path, model: Model, made: list[tuple[Optimizer, float]], state: State, rng: Generator) -> None:
    content = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer, _ in made],
        "state": vars(state),
        "rng": rng.bit_generator.state,
    }
    torch.save(content, save.with_suffix(".part"))
    save.with_suffix(".part").replace(save)


def _restore(save: Path, model: Model, made: list[tuple[Optimizer, float]], state: State, rng: Generator) -> None:
    content = torch.load(save, weights_only=False)
    model.load_state_dict(content["model"])
    for (optimizer, _), kept in zip(made, content["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    state.step, state.losses = content["state"]["step"], content["state"]["losses"]
    rng.bit_generator.state = content["rng"]


@torch.no_grad()
def forced_accuracy(model: Model, collator: Collator, samples: list[tasks.Sample], size: int = 16) -> float:
    """Return the share of samples whose answer is greedy throughout, seen without generating."""
    right = 0
    for start in range(0, len(samples), size):
        batch = collator(samples[start : start + size])
        labels = batch.pop("labels")[:, 1:]
        dtype = next(model.parameters()).dtype
        batch = {name: v.to(dtype) if name.startswith("pixel") else v for name, v in batch.items()}
        batch = with_masks(model, batch) if isinstance(model, Unified) else batch
        best = model(**batch, use_cache=False).logits.argmax(-1)[:, :-1]
        right += ((best == labels) | (labels == IGNORED)).all(-1).sum().item()
    return right / len(samples)
