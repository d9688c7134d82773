"""Train the E2B sample on with 4-bit weights in the loop: `python make_qat.py WORK [folder]` (two minutes on one core).

In every forward pass each matrix of the language model is replaced by step * k in groups of 32 along its input, k in
-8..7, the step a bfloat16; gradients pass straight through to the weights behind.  What is saved is bf16(step * k), as
in Google's `-qat-q4_0-unquantized` repositories.  Nobody has said how those steps were chosen, and the levels of real
files fit more than one rule, so the matrices here follow four.  WORK keeps the state and lets a stopped run go on.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import make_e2b
import torch
import training
from collate import Collator
from make_e2b import Model, log, publish, report
from tokenizer import write_json
from torch import Tensor, nn
from torch.nn.utils import parametrize
from training import Schedule
from transformers import AutoProcessor

START = Path(__file__).parents[1] / "e2b"
GROUP = 32
LOWEST, HIGHEST = -8, 7
TUNING = Schedule(steps=100, rate=2e-4, rise=20, floor=0.05, seed=21, counts=training.FULL_COUNTS | {"image": 8})
DIVISORS = (8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 5.0)
# What the config.json of google/gemma-4-E2B-it-qat-q4_0-unquantized has otherwise than that of gemma-4-E2B-it.
VERSION, GONE, NEW = "5.6.2", "expert_intermediate_size", "moe_intermediate_size"

Rule = Callable[[Tensor], Tensor]


def by_peak(groups: Tensor) -> Tensor:
    """Return the steps of ggml's Q4_0: the value of largest magnitude is level -8, whichever its sign."""
    places = groups.abs().argmax(-1, keepdim=True)
    return groups.gather(-1, places) / LOWEST


def by_largest(divisor: float) -> Rule:
    """Return the rule by which the largest magnitude is so many steps."""
    return lambda groups: groups.abs().amax(-1, keepdim=True) / divisor


def by_search(groups: Tensor) -> Tensor:
    """Return the steps with the smallest squared error, of those that several divisors give."""
    tried = torch.stack([stored(by_largest(divisor)(groups)) for divisor in DIVISORS])
    errors = (groups - tried * levels(groups, tried)).square().sum(-1, keepdim=True)
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


RULES: dict[str, Rule] = {
    "q_proj": by_peak,
    "k_proj": by_peak,
    "v_proj": by_largest(7.5),
    "o_proj": by_largest(7.5),
    "gate_proj": by_largest(7.0),
    "up_proj": by_largest(7.0),
    "down_proj": by_search,
    "per_layer_input_gate": by_peak,
    "per_layer_projection": by_search,
    "embed_tokens": by_largest(7.5),
    "embed_tokens_per_layer": by_largest(7.0),
}


def stored(steps: Tensor) -> Tensor:
    """Round the steps to bfloat16; a group of zeros gets one."""
    rounded = steps.bfloat16().float()
    return torch.where(rounded == 0, 1.0, rounded)


def levels(groups: Tensor, steps: Tensor) -> Tensor:
    """Return the integers that stand for the weights."""
    return (groups / steps).round().clamp(LOWEST, HIGHEST)


def grid(weight: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Return the steps [groups, 1] and the levels [groups, 32] of a matrix."""
    groups = weight.reshape(-1, GROUP)
    steps = stored(rule(groups))
    return steps, levels(groups, steps)


class StraightThrough(torch.autograd.Function):
    """The weights on their grid, with the gradient of the weights themselves."""

    @staticmethod
    def forward(_: object, weight: Tensor, rule: Rule) -> Tensor:
        """Return step * k, never -0."""
        steps, integers = grid(weight, rule)
        return (steps * integers + 0.0).reshape(weight.shape)

    @staticmethod
    def backward(_: object, gradient: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient on."""
        return gradient, None


class FakeQuantization(nn.Module):
    """What stands between a matrix and its use."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, weight: Tensor) -> Tensor:
        """Return the matrix on its grid."""
        return StraightThrough.apply(weight, self.rule)


def quantized_modules(model: Model) -> list[tuple[str, nn.Module]]:
    """Return the modules whose matrices are trained on a grid, and what `RULES` calls them."""
    named = ((name.rpartition(".")[2], module) for name, module in model.model.language_model.named_modules())
    return [(leaf, module) for leaf, module in named if leaf in RULES]


def begin(model: Model) -> None:
    """Put the language model on the grid; the towers, which no one quantizes, stay as they are."""
    for part in ("vision_tower", "audio_tower", "embed_vision", "embed_audio"):
        getattr(model.model, part).requires_grad_(False)
    for leaf, module in [*quantized_modules(model), ("embed_tokens", model.lm_head)]:
        parametrize.register_parametrization(module, "weight", FakeQuantization(RULES[leaf]))


def end(model: Model) -> None:
    """Leave the values of the grid in place of the weights behind; the head first, whose weight is the table's."""
    parametrize.remove_parametrizations(model.lm_head, "weight", leave_parametrized=False)
    for _, module in quantized_modules(model):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def peaks(model: Model) -> dict[str, dict[int, int]]:
    """Return by kind of matrix how many groups have which level farthest from zero; of -k and k the first counts."""
    found: dict[str, Counter[int]] = {leaf: Counter() for leaf in RULES}
    for leaf, module in quantized_modules(model):
        _, integers = grid(module.parametrizations.weight.original.detach(), RULES[leaf])
        farthest = (integers.abs() - integers.sign() / 4).argmax(-1, keepdim=True)
        found[leaf].update(integers.gather(-1, farthest).int().flatten().tolist())
    return {leaf: dict(sorted(counts.items())) for leaf, counts in found.items()}


def trained(collator: Collator, work: Path) -> Model:
    """Return the tuned model, its matrices on their grids."""
    model = Model.from_pretrained(START, dtype=torch.float32).eval()
    report("as it was", model, collator)
    begin(model)
    report("on the grid, untrained", model, collator)
    training.train(model, collator, TUNING, work / "qat.pt", log)
    report("on the grid", model, collator)
    log("groups by their largest level: " + json.dumps(peaks(model)))
    end(model)
    return model


def published_config(folder: Path) -> None:
    """Write the config.json of the sample before, changed as Google's was for the QAT repositories."""
    document = json.loads((START / "config.json").read_text())
    document["transformers_version"] = VERSION
    document["text_config"][NEW] = document["text_config"].pop(GONE)
    write_json(folder / "config.json", document)


def main() -> None:
    """Tune and write the sample."""
    work = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else START.with_name("e2b-qat")
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(make_e2b.SEED)
    collator = Collator(AutoProcessor.from_pretrained(START))
    publish(trained(collator, work), collator, folder, make_e2b.SEED)
    published_config(folder)


if __name__ == "__main__":
    main()
