"""What the trained samples learn before everything else: to see and hear, through throw-away heads.

For the kinds with towers that is the vision tower; for the kind without, the projections of pixels and samples and
the first layers of the language model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tasks
import torch
from collate import IGNORED, TYPES, Batch, Collator, blocks, patches
from numpy.random import Generator
from start import ThrowAwayHead
from tokenizer import token_id
from torch import nn
from training import Log, Model, Schedule, Unified, apply, coarse_tokens, optimizers, with_masks

Taught = list[tuple[torch.Tensor, torch.Tensor]]
EARLY_LAYERS = 4
SILENCE = 0.03
LABELS = (tuple(tasks.COLOURS), tasks.SHAPES, tuple(tasks.PLACES), tuple(tasks.GROUNDS))
SOUND_LABELS = (tasks.NUMBERS[:4] + tasks.GLIDES, tasks.PITCHES)
PICTURE_TITLE = "colour shape place ground"
MARKS = {"image": ("<|image>", "<|image|>", "<image|>"), "audio": ("<|audio>", "<|audio|>", "<audio|>")}


def _labelled_pictures(rng: Generator, count: int, cut: Callable) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels, positions and the numbers of the right answers."""
    pixels, places, answers = [], [], []
    for _ in range(count):
        picture, turns, _ = tasks.draw_picture(rng, tasks.COARSE_SIZE)
        values, positions = cut(picture)
        pixels.append(values)
        places.append(positions)
        answers.append([labels.index(answer) for labels, (_, answer) in zip(LABELS, turns, strict=True)])
    return torch.tensor(np.stack(pixels)), torch.tensor(np.stack(places)), torch.tensor(answers)


@dataclass(frozen=True)
class Lesson:
    """What a warm-up teaches: whose parameters, and for each head its title, its classes and its weight.

    `draw` returns, for each head, states [n, tokens, width] and the numbers of the right answers [n, questions].
    """

    named: list[tuple[str, nn.Parameter]]
    width: int
    titles: tuple[str, ...]
    classes: tuple[list[int], ...]
    weights: tuple[float, ...]
    draw: Callable[[Generator], Taught]


def tower_lesson(model: Model, count: int = 32) -> Lesson:
    """Return what teaches a vision tower."""
    tower, norm = model.model.vision_tower, model.model.embed_vision.embedding_pre_projection_norm

    def draw(rng: Generator) -> Taught:
        pixels, places, answers = _labelled_pictures(rng, count, patches)
        return [(norm(coarse_tokens(model, pixels, places)), answers)]

    classes = ([len(labels) for labels in LABELS],)
    return Lesson(list(tower.named_parameters()), tower.config.hidden_size, (PICTURE_TITLE,), classes, (1.0,), draw)


def _states(model: Unified, medium: str, tokens: list[int], media: Batch) -> tuple[torch.Tensor, ...]:
    """Return the normalized states [n, tokens, width] at a medium and the token after it, behind each layer."""
    start, inner, end = MARKS[medium]
    opening = [token_id(token) for token in ("<bos>", "<|turn>", start)]
    rows = [[*opening, *[token_id(inner)] * number, token_id(end)] for number in tokens]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [token_id("<pad>")] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    batch = {
        "input_ids": ids,
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "mm_token_type_ids": (ids == token_id(inner)).long() * TYPES[inner],
    }
    outputs = model.model(**with_masks(model, batch), **media, use_cache=False, output_hidden_states=True)
    return tuple(nn.functional.layer_norm(s, s.shape[-1:])[:, len(opening) :] for s in outputs.hidden_states)


def _picture_answers(model: Unified, rng: Generator, count: int) -> Taught:
    pixels, places, answers = _labelled_pictures(rng, count, blocks)
    media = {"pixel_values": pixels, "image_position_ids": places}
    states = _states(model, "image", [pixels.shape[1]] * count, media)
    return [(states[EARLY_LAYERS][:, :-1], answers)]


def _sound_answers(model: Unified, collator: Collator, rng: Generator, count: int) -> Taught:
    """Return states and answers: of each frame whether it is loud, begins a beep, the beeps so far; of all, what it is.

    The frames' answers lead to the number of beeps step by step; from the number alone the model learns to go by the
    time that is loud.
    """
    sounds = [tasks.make_sound(rng) for _ in range(count)]
    media, tokens = collator.sounds([tasks.Medium("audio", sound) for sound, _, _ in sounds])
    states = _states(model, "audio", tokens, media)
    valid = media["input_features_mask"]
    loud = (media["input_features"].square().mean(-1).sqrt() > SILENCE) & valid
    begins = loud & ~nn.functional.pad(loud, (1, -1))
    heard = []
    for layer, answers in ((1, loud), (2, begins), (EARLY_LAYERS, begins.cumsum(1))):
        heard.append((states[layer][:, :-1][valid][:, None], answers[valid][:, None].long()))
    answers = [[_number(labels, turns) for labels in SOUND_LABELS] for _, turns, _ in sounds]
    ends = states[EARLY_LAYERS][torch.arange(count), torch.tensor(tokens)]
    return [*heard, (ends[:, None], torch.tensor(answers))]


def _number(labels: tuple[str, ...], turns: list[tasks.Turn]) -> int:
    """Return the place of the answer that is among the labels."""
    return next((labels.index(answer) for _, answer in turns if answer in labels), IGNORED)


def layers_lesson(model: Unified, collator: Collator, count: int = 24) -> Lesson:
    """Return what teaches the projections and the first layers of the kind without towers."""
    inner = model.model
    parts = (inner.embed_vision, inner.embed_audio, inner.language_model.layers[:EARLY_LAYERS])
    named = [(f"{index}.{name}", p) for index, part in enumerate(parts) for name, p in part.named_parameters()]
    width = model.config.text_config.hidden_size

    def draw(rng: Generator) -> Taught:
        return _picture_answers(model, rng, count) + _sound_answers(model, collator, rng, count)

    titles = (PICTURE_TITLE, "loud", "begins", "so far", "sound pitch")
    classes = ([len(labels) for labels in LABELS], [2], [2], [5], [len(labels) for labels in SOUND_LABELS])
    return Lesson(named, width, titles, classes, (1.0, 3.0, 3.0, 3.0, 1.0), draw)


def warm_up(lesson: Lesson, schedule: Schedule, log: Log) -> None:
    """Teach the lesson through throw-away heads."""
    torch.manual_seed(schedule.seed)
    heads = nn.ModuleList([ThrowAwayHead(lesson.width, classes) for classes in lesson.classes])
    rng, shares = np.random.default_rng(schedule.seed), []
    named = [*lesson.named, *heads.named_parameters("head")]
    made = optimizers(named, muon=3.0)
    for step in range(schedule.steps):
        taught = [head(*drawn) for head, drawn in zip(heads, lesson.draw(rng), strict=True)]
        loss = sum(weight * loss for weight, (loss, _) in zip(lesson.weights, taught, strict=True))
        loss.backward()
        apply(made, [p for _, p in named], schedule.rate_at(step))
        shares.append(torch.cat([right for _, right in taught]))
        if (step + 1) % 25 == 0:
            recent = torch.stack(shares[-25:]).mean(0).tolist()
            titles = " ".join(lesson.titles)
            log(f"warm-up {step + 1} {titles} " + " ".join(f"{share:.2f}" for share in recent))
