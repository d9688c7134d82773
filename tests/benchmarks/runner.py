"""Load and run one 4-bit checkpoint with g4convert, mlx-lm and mlx-vlm, in one run.

    python tests/benchmarks/runner.py [FOLDER] [--dtypes float32 bfloat16] [--prompts 512 2048] [--tokens 64]
                                      [--repeat 3] [--clock wall] [--no-picture]

The checkpoint has the shape of E2B, scaled down to 294 million random parameters: its head sizes, window, KV-shared
tail, per-layer embeddings and vision layers. It is made in FOLDER, or in a temporary one, converted by g4convert, and
used again where FOLDER has it. Each measurement is a process of its own, the runners take turns, and medians are
printed: seconds to load; while loading, the growth of resident memory after the imports and mlx's own peak, each over
the size of the weights; prompt tokens a second up to the first token, and tokens a second after it. All get the same
ids and patches, answer greedily and make text of it; the vision tower counts as time before the first token. A dtype is
that of activations and of weights that are not packed, in every runner; mlx-lm and mlx-vlm take bfloat16 by default,
g4convert takes float32 on the CPU. The clock `cpu` counts the processor's seconds in place of the wall's, for a machine
without a GPU that others use, too. Below stands whether all answered with the same tokens. Needs the extra `parity`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from g4convert.convert import hf_to_mlx
from g4convert.convert.memory import peak_resident
from g4convert.loaders import Sampling, attachments, load
from g4convert.loaders.config import FULL, SLIDING, ModelConfig
from g4convert.loaders.encoding import encode
from g4convert.loaders.generation import Detokenizer, Sampler, decode
from g4convert.loaders.loading import DTYPES, open_prompt
from g4convert.loaders.merge import merge
from g4convert.loaders.prompt import Prompt
from g4convert.tests.support import CHECKPOINTS, WEIGHTS, headers, read_json
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

KIND = "e2b"
VOCABULARY, LAYERS = 65536, 10
Json = Mapping[str, Any]
TEXT: Json = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": LAYERS,
    "num_kv_shared_layers": 4,
    "layer_types": [FULL if index % 5 == 4 else SLIDING for index in range(LAYERS)],
    "num_attention_heads": 8,
    "head_dim": 256,
    "global_head_dim": 512,
    "hidden_size_per_layer_input": 256,
    "sliding_window": 512,
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
}
VISION: Json = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "global_head_dim": 64,
}
CLIP = 100.0
PICTURE, QUESTION = CHECKPOINTS / "questions" / "picture-1.png", "What is on it?"
# The words of the sample's tokenizer; what stands before them is special.
FIRST_WORD, LAST_WORD = 300, 760
WARM_UP = 8


@dataclass(frozen=True)
class Answer:
    """Tokens of the prompt, seconds up to the first of the answer, seconds from there to the last, the answer."""

    prompt: int
    first: float
    rest: float
    tokens: list[int]


Ask = Callable[[Prompt, int], Iterator[int]]
"""Answers a prompt with a number of tokens, as they come."""

Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def make(folder: Path) -> Path:
    """The converted checkpoint in a folder, made where it is missing."""
    source, output = folder / "source", folder / "4bit"
    if not output.exists():
        shutil.rmtree(source, ignore_errors=True)
        write_source(source)
        hf_to_mlx(source, output)
    return output


def write_source(folder: Path, kind: str = KIND, text: Json = TEXT, vision: Json = VISION) -> None:
    """A random checkpoint in a shard for each tensor, so that no two are in memory together.

    Args:
        folder: where it is made.
        kind: of the sample that it is like.
        text: what its config says otherwise of the language model.
        vision: likewise, of the vision tower.
    """
    shutil.copytree(CHECKPOINTS / kind, folder, ignore=shutil.ignore_patterns(WEIGHTS))
    document = read_json(folder / "config.json")
    document["text_config"].update(text)
    document["vision_config"].update(vision)
    (folder / "config.json").write_text(json.dumps(document))
    extend_vocabulary(folder / "tokenizer.json")
    rng, weight_map = np.random.default_rng(0), {}
    for number, info in enumerate(headers(ModelConfig.from_dict(document))):
        weight_map[info.name] = f"model-{number:05d}.safetensors"
        save_file({info.name: random_weight(info.name, info.shape, rng)}, folder / weight_map[info.name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def extend_vocabulary(file: Path) -> None:
    """Give every row of the tables a token."""
    document = read_json(file)
    words = document["model"]["vocab"]
    words.update({f"token{number}": number for number in range(len(words), VOCABULARY)})
    file.write_text(json.dumps(document))


def random_weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Values that keep activations in their range, and clip bounds beyond it."""
    if not shape:
        return np.array(-CLIP if name.endswith("_min") else CLIP, bfloat16)
    values = rng.standard_normal(shape, np.float32)
    scaled = 1 + 0.2 * values if len(shape) == 1 else values * shape[-1] ** -0.5
    return scaled.astype(bfloat16)


def prompts(model: Path, arguments: argparse.Namespace) -> dict[str, Prompt]:
    """What is asked, by name."""
    rng = np.random.default_rng(1)
    drawn = {length: rng.integers(FIRST_WORD, LAST_WORD, length) for length in arguments.prompts}
    found = {f"{length} tokens": Prompt(tuple(ids.tolist())) for length, ids in drawn.items()}
    if not arguments.no_picture and arguments.measure != "mlx-lm":
        found["picture"] = open_prompt(model).prepare(QUESTION, attachments=attachments(images=[PICTURE]))
    return found


def g4convert(folder: Path, dtype: str) -> Ask:
    """Load with our own loader."""
    model = load(folder, dtype=dtype)

    def ask(prompt: Prompt, count: int) -> Iterator[int]:
        detokenizer = Detokenizer(model.prompt.tokenizer)
        merged = merge(model.config, np.array(prompt.ids), encode(model.network, prompt))
        sampler = Sampler.make(Sampling(), model.prompt, model.config.text.vocab_size)
        for token in decode(model.text, merged, sampler, count=count):
            detokenizer.add(token)
            yield token

    return ask


def mlx_lm(folder: Path, dtype: str) -> Ask:
    """Load the language model alone."""
    peer: Any = import_module("mlx_lm")
    model, tokenizer = peer.load(str(folder), lazy=True)
    compute_in(model, dtype)

    def ask(prompt: Prompt, count: int) -> Iterator[int]:
        responses = peer.stream_generate(model, tokenizer, list(prompt.ids), max_tokens=count)
        return (response.token for response in responses)

    return ask


def mlx_vlm(folder: Path, dtype: str) -> Ask:
    """Load the model with its towers."""
    peer: Any = import_module("mlx_vlm")
    model, processor = peer.load(str(folder), lazy=True)
    compute_in(model, dtype)

    def ask(prompt: Prompt, count: int) -> Iterator[int]:
        inputs = {"input_ids": mx.array(prompt.ids)[None], **picture_of(prompt)}
        responses = peer.stream_generate(model, processor, "", max_tokens=count, temperature=0.0, **inputs)
        # It closes with the last token once more.
        return (response.token for response in islice(responses, count))

    return ask


RUNNERS: Mapping[str, Callable[[Path, str], Ask]] = {"g4convert": g4convert, "mlx-lm": mlx_lm, "mlx-vlm": mlx_vlm}


def compute_in(model: Any, dtype: str) -> None:
    """Do to a peer's model what `dtype` does to ours, and read its weights."""
    model.set_dtype(DTYPES[dtype])
    mx.eval(model.parameters())


def picture_of(prompt: Prompt) -> dict[str, mx.array]:
    """What mlx-vlm takes for the picture of a prompt."""
    if not prompt.images:
        return {}
    (image,) = prompt.images
    return {"pixel_values": mx.array(image.patches)[None], "image_position_ids": mx.array(image.positions)[None]}


def timed(ask: Ask, prompt: Prompt, count: int, clock: Clock) -> Answer:
    """An answer, and when its tokens came."""
    start = clock()
    found = [(clock() - start, int(token)) for token in ask(prompt, count)]
    mx.synchronize()  # what a runner has begun beyond them is not the next answer's
    times, tokens = zip(*found, strict=True)
    return Answer(len(prompt.ids), times[0], times[-1] - times[0], list(tokens))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load and answer in this process."""
    runner, (dtype,) = arguments.measure, arguments.dtypes
    asked = prompts(arguments.folder, arguments)
    if runner != "g4convert":
        import_module("g4convert.tests.parity.reference")  # lets transformers import
        import_module(runner.replace("-", "_"))
    clock = CLOCKS[arguments.clock]
    before, start = peak_resident(), clock()
    ask = RUNNERS[runner](arguments.folder, dtype)
    loaded = {"load": clock() - start, "resident": peak_resident() - before, "mlx": mx.get_peak_memory()}
    timed(ask, Prompt(next(iter(asked.values())).ids[:WARM_UP]), WARM_UP, clock)
    answers = {name: timed(ask, prompt, arguments.tokens, clock) for name, prompt in asked.items()}
    return {**loaded, "answers": {name: asdict(answer) for name, answer in answers.items()}}


def measured(runner: str, dtype: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What `measure` finds in a process of its own."""
    call = [sys.executable, __file__, str(folder), "--measure", runner, "--dtypes", dtype]
    call += ["--clock", arguments.clock, "--tokens", str(arguments.tokens), "--prompts", *map(str, arguments.prompts)]
    call += ["--no-picture"] if arguments.no_picture else []
    done = subprocess.run(call, capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(f"{runner} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(runs: Mapping[str, Sequence[Mapping[str, Any]]], weights: int) -> Iterator[str]:
    """The lines of a dtype: a runner each, then whether they agree."""
    asked = list(runs["g4convert"][0]["answers"])
    yield f"{'':10s}{'load':>8s}{'resident':>11s}{'mlx':>8s}" + "".join(f"{name:>24s}" for name in asked)
    for runner, found in runs.items():
        load, resident, peak = (statistics.median(run[key] for run in found) for key in ("load", "resident", "mlx"))
        speeds = "".join(f"{speed(answers_to(name, found)):>24s}" for name in asked)
        yield f"{runner:10s}{load:6.2f} s{resident / weights:9.2f} x{peak / weights:6.2f} x{speeds}"
    for name in asked:
        different = {tuple(answer["tokens"]) for found in runs.values() for answer in answers_to(name, found)}
        yield f"{name}: {'the same answer' if len(different) == 1 else f'{len(different)} answers'}"


def answers_to(name: str, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All answers of a runner to a prompt; none where it was not asked."""
    return [run["answers"][name] for run in runs if name in run["answers"]]


def speed(answers: Sequence[Mapping[str, Any]]) -> str:
    """Tokens a second, before and after the first one of the answer."""
    if not answers:
        return ""
    before = statistics.median(answer["prompt"] / answer["first"] for answer in answers)
    after = statistics.median((len(answer["tokens"]) - 1) / answer["rest"] for answer in answers)
    return f"{before:.1f}, {after:.2f} /s"


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    """Print a table for each dtype."""
    model = make(folder)
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    for dtype in arguments.dtypes:
        runs: dict[str, list[dict[str, Any]]] = {runner: [] for runner in RUNNERS}
        for _ in range(arguments.repeat):
            for runner, found in runs.items():
                found.append(measured(runner, dtype, model, arguments))
        print(f"{dtype}, {weights / 1e6:.0f} MB", *table(runs, weights), sep="\n", flush=True)


def main() -> None:
    """Compare the runners, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    parser.add_argument("--prompts", nargs="+", type=int, default=[512, 2048])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--no-picture", action="store_true")
    parser.add_argument("--measure", choices=RUNNERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        compare(arguments.folder or Path(temporary), arguments)


if __name__ == "__main__":
    main()
