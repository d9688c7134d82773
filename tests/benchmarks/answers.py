"""Share of right answers of a trained sample to fresh questions, before and after quantization.

    python tests/benchmarks/answers.py [--kind e2b] [--draws 400] [--tasks image audio ...]

Every question is drawn anew from `tests/checkpoints/scripts/tasks.py`, its media are written to files, and the files go
through the front ends and the converted checkpoint as a user's would. Greedy answers, counted as right if equal. Prints
one line a task: unquantized, 4 bits (recipe `uniform`), and the difference in points. Needs no torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from g4convert.convert import Options, hf_to_mlx
from g4convert.loaders import LoadedModel, generate, load
from g4convert.loaders.messages import Attachment
from g4convert.loaders.prompt import Prompt
from g4convert.tests.support import CHECKPOINTS

sys.path.append(str(CHECKPOINTS / "scripts"))

import media_files
import tasks

FORMS = {"unquantized": Options(quantize=False), "4 bits": Options(recipe="uniform")}
LONGEST_ANSWER = 12
SEED = 77_000


def questions(task: str, draws: int) -> Iterator[tasks.Sample]:
    """Fresh samples, the same for every form."""
    rng = np.random.default_rng(SEED + tasks.TASKS.index(task))
    for _ in range(draws):
        yield tasks.draw(rng, task)


def prompt(model: LoadedModel, sample: tasks.Sample, folder: Path) -> Prompt:
    """The question about media in files."""
    attachments = []
    for index, medium in enumerate(sample.media):
        path = folder / f"{index}{media_files.SUFFIXES[medium.kind]}"
        media_files.write(path, medium)
        attachments.append(Attachment(medium.kind, path))
    return model.prompt.prepare(sample.turns[0][0], attachments=attachments)


def rights(models: dict[str, LoadedModel], task: str, draws: int) -> dict[str, int]:
    """How many answers of each form are right."""
    found = dict.fromkeys(models, 0)
    with tempfile.TemporaryDirectory() as folder:
        for sample in questions(task, draws):
            for form, model in models.items():
                answer = generate(model, prompt(model, sample, Path(folder)), max_tokens=LONGEST_ANSWER).text
                found[form] += answer.strip() == sample.turns[0][1]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="e2b")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--tasks", nargs="+", default=list(tasks.TASKS), choices=tasks.TASKS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for form, options in FORMS.items():
            hf_to_mlx(CHECKPOINTS / arguments.kind, Path(folder) / form, options=options)
            models[form] = load(Path(folder) / form)
        for task in arguments.tasks:
            shares = {form: 100 * n / arguments.draws for form, n in rights(models, task, arguments.draws).items()}
            plain, packed = shares.values()
            print(f"{task:18s} unquantized {plain:6.2f} %   4 bits {packed:6.2f} %   {packed - plain:+.2f}", flush=True)


if __name__ == "__main__":
    main()
