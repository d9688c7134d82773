"""Make the questions that the E2B sample answers: `python make_questions.py [checkpoint] [folder]`.

Each is answered by `generate()` in bfloat16 from the files as stored, and again at 4 bits; only questions answered
rightly both times are kept.  Given the 12B sample, the script asks it those questions and writes the places in the
lists of those that it answers rightly both times, to `12b.json`.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import media_files
import numpy as np
import tasks
import torch
from measure import generated, load, quantize_text
from numpy.random import Generator
from tasks import Medium, Sample, Turn
from tokenizer import write_json
from training import Unified
from transformers import AutoProcessor

SEED = 2026
TEXTS = {"capital": 6, "repeat": 6, "reverse": 6, "count": 6, "code": 6}
MEDIA = {"image": 5, "audio": 5, "video": 4, "image+audio": 2, "image+audio+video": 2}
MOST_TIMES = 2


class Judge:
    """Answers questions with the sample in bfloat16 and at 4 bits."""

    def __init__(self, folder: Path) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.models = [load(folder) for _ in range(2)]
        quantize_text(self.models[1])

    def agrees(self, sample: Sample) -> bool:
        """Tell whether both give the right answer."""
        return all(generated(model, self.processor, sample) == sample.turns[0][1] for model in self.models)


def text_questions(judge: Judge, rng: Generator) -> list[dict]:
    """Return questions without media, no question twice."""
    found: dict[str, dict] = {}
    for kind, count in TEXTS.items():
        wanted = len(found) + count
        while len(found) < wanted:
            question, answer = tasks.make_text(rng, kind)
            if judge.agrees(Sample("text", [], [(question, answer)])):
                found[question] = {"kind": kind, "question": question, "answer": answer}
    return list(found.values())


def media_questions(judge: Judge, rng: Generator, folder: Path) -> list[dict]:
    """Write the media and return the questions about them."""
    entries, numbers = [], dict.fromkeys(media_files.STEMS, 0)
    for task, count in MEDIA.items():
        kept: list[Turn] = []
        for _ in range(count):
            media = []
            for kind in task.split("+"):
                numbers[kind] += 1
                name = f"{media_files.STEMS[kind]}-{numbers[kind]}{media_files.SUFFIXES[kind]}"
                media.append({"type": kind, "file": name})
            kept.append(_stored(judge, _draws(rng, task, kept), folder, media))
            entries.append({"media": media, "question": kept[-1][0], "answer": kept[-1][1]})
    return entries


def _draws(rng: Generator, task: str, kept: list[Turn]) -> Iterator[Sample]:
    """Draw samples; the same question comes at most twice, and then with another answer."""
    while True:
        sample = tasks.draw(rng, task)
        times = [question for question, _ in kept].count(sample.turns[0][0])
        if times < MOST_TIMES and sample.turns[0] not in kept:
            yield sample


def _stored(judge: Judge, draws: Iterator[Sample], folder: Path, media: list[dict]) -> Turn:
    """Store the first sample that is answered rightly from its files."""
    for sample in draws:
        for medium, entry in zip(sample.media, media, strict=True):
            media_files.write(folder / entry["file"], medium)
        stored = [media_files.read(folder / entry["file"], entry["type"]) for entry in media]
        _check(sample.media, stored)
        if judge.agrees(Sample(sample.task, stored, sample.turns)):
            return sample.turns[0]
    raise AssertionError


def _check(written: list[Medium], read: list[Medium]) -> None:
    """Raise if a file does not give back what was written (to 16 bits, for sounds)."""
    for before, after in zip(written, read, strict=True):
        np.testing.assert_allclose(before.data, after.data, rtol=0, atol=2**-15 if before.kind == "audio" else 0)


def _asked(question: dict, folder: Path) -> Sample:
    """Return a stored question."""
    media = [media_files.read(folder / entry["file"], entry["type"]) for entry in question.get("media", [])]
    task = "+".join(medium.kind for medium in media) or "text"
    return Sample(task, media, [(question["question"], question["answer"])])


def answered(judge: Judge, folder: Path, name: str) -> list[int]:
    """Return the places of the stored questions that get the right answers."""
    questions = json.loads((folder / f"{name}.json").read_text())["questions"]
    return [index for index, question in enumerate(questions) if judge.agrees(_asked(question, folder))]


def make(judge: Judge, folder: Path) -> None:
    """Make all questions."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    write_json(folder / "text.json", {"questions": text_questions(judge, rng)})
    write_json(folder / "media.json", {"questions": media_questions(judge, rng, folder)})


def main() -> None:
    """Make the questions, or find those that the 12B sample answers."""
    root = Path(__file__).parents[1]
    checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "e2b"
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else root / "questions"
    torch.set_num_threads(1)
    judge = Judge(checkpoint)
    if isinstance(judge.models[0], Unified):
        write_json(folder / "12b.json", {name: answered(judge, folder, name) for name in ("text", "media")})
    else:
        make(judge, folder)


if __name__ == "__main__":
    main()
