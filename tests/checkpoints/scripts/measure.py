"""Measure a trained sample: `python measure.py [folder] [questions a task]`.

Answers come from `generate()` through the chat template and the processors, greedily, on fresh draws: once in
bfloat16 and once with the language model's matrices and tables at 4 bits in groups of 64.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import tasks
import torch
from collate import processed
from make_e2b import trials
from tokenizer import token_id
from training import Model, Unified
from transformers import AutoModelForMultimodalLM, AutoProcessor, ProcessorMixin

BITS, GROUP = 4, 64
LONGEST_ANSWER = 12
# Only beside a static cache does `generate()` make the masks of Gemma 4 for the 12B kind, and not those of Gemma 3.
RIGHT_MASKS = {"cache_implementation": "static", "disable_compile": True}


def load(folder: Path) -> Model:
    """Return the model in bfloat16."""
    return AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def generated(model: Model, processor: ProcessorMixin, sample: tasks.Sample) -> str:
    """Return the model's greedy answer."""
    dtype = next(model.parameters()).dtype
    inputs = {name: v.to(dtype) if name.startswith("pixel") else v for name, v in processed(processor, sample).items()}
    stop = [token_id("<eos>"), token_id("<turn|>")]
    caching = RIGHT_MASKS if isinstance(model, Unified) else {}
    output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False, eos_token_id=stop, **caching)
    return processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def accuracy(model: Model, processor: ProcessorMixin, samples: list[tasks.Sample]) -> float:
    """Return the share of right answers."""
    answers = [generated(model, processor, sample) == sample.turns[-1][1] for sample in samples]
    return float(np.mean(answers))


def quantized_and_back(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor as 4-bit groups hold it."""
    array = mx.array(tensor.float().numpy()).astype(mx.bfloat16)
    packed = mx.quantize(array, group_size=GROUP, bits=BITS)
    restored = mx.dequantize(*packed, group_size=GROUP, bits=BITS)
    return torch.tensor(np.array(restored.astype(mx.float32))).to(tensor.dtype)


def quantize_text(model: Model) -> int:
    """Pass every matrix and table of the language model through 4 bits; return how many there were."""
    matrices = [p for p in model.model.language_model.parameters() if p.ndim == 2]
    with torch.no_grad():
        for matrix in matrices:
            matrix.copy_(quantized_and_back(matrix))
    return len(matrices)


def main() -> None:
    """Print both accuracies."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "e2b"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(folder)
    model = load(folder)
    for title in ("bfloat16", f"{BITS} bits in groups of {GROUP}"):
        if title != "bfloat16":
            print(f"{quantize_text(model)} tensors quantized")
        found = {task: round(accuracy(model, processor, samples), 3) for task, samples in trials(count, 9000).items()}
        print(f"{title}, {count} a task: {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
