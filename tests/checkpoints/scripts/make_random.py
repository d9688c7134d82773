"""Make the samples with random weights: `python make_random.py [folder]` (all four take about ten seconds)."""

import shutil
import sys
from pathlib import Path

import google_form
import kinds
import tasks
import tokenizer
import torch
from random_weights import bound, randomize
from transformers import Gemma4ForCausalLM, Gemma4ForConditionalGeneration

SAMPLES = {
    "e4b": (kinds.e4b, Gemma4ForConditionalGeneration, 41),
    "26b-a4b": (kinds.a4b, Gemma4ForConditionalGeneration, 26),
    "31b": (kinds.dense, Gemma4ForConditionalGeneration, 31),
    "text": (kinds.text_only, Gemma4ForCausalLM, 7),
}
EMPTY_THOUGHT = ("26b-a4b", "31b")


def make(name: str, folder: Path) -> None:
    """Write one sample."""
    configuration, model_class, seed = SAMPLES[name]
    torch.manual_seed(seed)
    config = configuration()
    model = model_class._from_config(config).eval()
    randomize(model, seed)
    if getattr(config, "audio_config", None):
        bound(model, seed)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    write_companions(name, folder)
    if name != "text":
        google_form.to_google_form(folder, config, seed)


def write_companions(name: str, folder: Path) -> None:
    """Write the files beside config.json and the weights."""
    settings = google_form.processor_settings(unified=False, frames=tasks.FRAMES)
    tokenizer.write(folder, settings["processor_class"], name in EMPTY_THOUGHT)
    if name != "text":
        tokenizer.write_json(folder / "processor_config.json", settings)


def main() -> None:
    """Make all samples."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    for name in SAMPLES:
        make(name, root / name)
        size = (root / name / "model.safetensors").stat().st_size
        print(f"{name}: {size:,} bytes of weights")


if __name__ == "__main__":
    main()
