"""Train the E2B sample: `python make_e2b.py WORK [folder]` (about half an hour on one core).

WORK keeps the state of the three phases (the tower alone, everything, everything with tight clip bounds) and lets a
stopped run go on; each phase is skipped once its file is complete.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import clip_bounds
import google_form
import kinds
import numpy as np
import start
import tasks
import tokenizer
import torch
import training
from collate import Collator, compare
from training import Schedule
from transformers import AutoProcessor, Gemma4ForConditionalGeneration, ProcessorMixin
from warm_up import Lesson, tower_lesson, warm_up

SEED = 2
WARM_UP = Schedule(steps=600, rate=2e-3, rise=30, floor=0.05, seed=5)
TOGETHER = Schedule(steps=700, rate=2e-3, coarse_share=0.65, seed=11)
CLIPPED = Schedule(steps=400, rate=1e-3, rise=20, seed=12, counts=training.FULL_COUNTS | {"image": 8})
TIGHTNESS = (0.5, 0.7)
TRIALS = 64
TRIAL_SEED = 31337
BEGIN = time.time()
Model = Gemma4ForConditionalGeneration


def log(line: str) -> None:
    """Print the line with the seconds since the start."""
    print(f"{time.time() - BEGIN:6.0f} s  {line}", flush=True)


def companions(folder: Path, unified: bool = False) -> ProcessorMixin:
    """Write the tokenizer's and processor's files and return the processor that they make."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = google_form.processor_settings(unified, frames=tasks.FRAMES)
    suppressed = tokenizer.UNIFIED_SUPPRESSED if unified else ()
    tokenizer.write(folder, settings["processor_class"], unified, suppressed)
    tokenizer.write_json(folder / "processor_config.json", settings)
    return AutoProcessor.from_pretrained(folder)


def trials(count: int, seed: int = TRIAL_SEED) -> dict[str, list[tasks.Sample]]:
    """Return fresh samples of every task, that training does not draw."""
    sets = {}
    for index, task in enumerate(tasks.TASKS):
        rng = np.random.default_rng(seed + index)
        sets[task] = [tasks.draw(rng, task) for _ in range(count)]
    return sets


def compare_all(collator: Collator) -> None:
    """Raise if a fast batch of any task differs from what the processors make."""
    for samples in trials(2).values():
        compare(collator, samples[0])


def report(title: str, model: training.Model, collator: Collator, count: int = TRIALS) -> None:
    """Log the accuracies."""
    found = {task: training.forced_accuracy(model, collator, samples) for task, samples in trials(count).items()}
    log(f"{title}: " + json.dumps({task: round(share, 3) for task, share in found.items()}))


def observe_media(model: Model, collator: Collator) -> clip_bounds.Ranges:
    """Return the ranges that the clipping layers see on fresh media."""
    rng = np.random.default_rng(4242)

    def run() -> None:
        for task in ("image", "audio", "video") * 4:
            batch = collator([tasks.draw(rng, task) for _ in range(4)])
            del batch["labels"]
            model(**batch, use_cache=False)

    return clip_bounds.observe(model, run)


def tighten(model: Model, collator: Collator) -> None:
    """Set the clip bounds: half of what media reach, and then less than what still reaches a layer behind others."""
    for factor in TIGHTNESS:
        clip_bounds.set_bounds(model, observe_media(model, collator), factor)
        clip_bounds.set_clipping(model, True)


def warmed_up(model: training.Model, lesson: Lesson, schedule: Schedule, seed: int, kept: Path) -> None:
    """Initialize the model and teach it the lesson, or take up the result."""
    if kept.exists():
        model.load_state_dict(torch.load(kept))
        return
    start.initialize(model, seed)
    warm_up(lesson, schedule, log)
    torch.save(model.state_dict(), kept)


def trained(collator: Collator, work: Path) -> Model:
    """Return the trained model, its clip bounds tight."""
    model = Model._from_config(kinds.e2b())
    log(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    clip_bounds.set_clipping(model, False)
    warmed_up(model, tower_lesson(model), WARM_UP, SEED, work / "tower.pt")
    training.train(model, collator, TOGETHER, work / "together.pt", log)
    report("without clipping", model, collator)
    tighten(model, collator)
    report("clipped, before training with it", model, collator)
    training.train(model, collator, CLIPPED, work / "clipped.pt", log)
    report("float32", model, collator)
    return model


def publish(model: training.Model, collator: Collator, folder: Path, seed: int, unified: bool = False) -> None:
    """Write the sample in the published form."""
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    report("bfloat16", model, collator)
    companions(folder, unified)
    google_form.to_google_form(folder, model.config, seed)


def main() -> None:
    """Train and write the sample."""
    work = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[1] / "e2b"
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    collator = Collator(companions(work))
    compare_all(collator)
    publish(trained(collator, work), collator, folder, SEED)


if __name__ == "__main__":
    main()
