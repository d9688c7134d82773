"""The recipe `small`: bits for every module, by what they cost in predictions, within a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ...schemas.errors import UsageError
from ..plan import ConversionPlan, OutputTensor, Step, module_path, packed_outputs
from ..recipe import AFFINE_BITS, ROUTER_FLOOR, ListedRecipe, Quantization, Recipe, listing
from ..source import Source
from ..survey import sampled_values
from ..wording import size
from .budget import Candidate, Option, allocate, smallest, spent
from .sensitivity import Progress, groups, measure, round_trip

# The bits at which the cost of a part is measured. From 4 on it falls with the squared error of the weights; below,
# it grows faster than that.
TRIAL_BITS = (3, 4)
# Headers grow with the names of the scales; a few tries find the bytes that are left for the weights.
TRIES = 8

Errors = Mapping[Quantization, float]
"""The relative squared error of a weight by its packing."""


def fit(
    source: Source, recipe: Recipe, target: int, planned: Callable[[Recipe], ConversionPlan], progress: Progress
) -> ListedRecipe:
    """Give every module its bits so that all shards together have at most `target` bytes.

    Args:
        source: what is converted; its predictions are what counts.
        recipe: which modules may be packed, and in which groups.
        target: bytes.
        planned: plans the conversion by a recipe.
        progress: called with what is being done.

    Raises:
        UsageError: even the fewest bits do not fit.
    """
    plan = planned(recipe)
    candidates = list(_candidates(source, plan, progress))
    budget = target - (plan.nbytes - sum(_bytes(step, step.quantization) for step in _packed(plan)))
    for _ in range(TRIES):
        packings = allocate(candidates, budget)
        if packings is None:
            least = smallest(candidates) + target - budget
            raise UsageError(f"the fewest bits take {size(least)}", where="--target-size", fix="give more bytes")
        found = replace(ListedRecipe.of(recipe, packings), text=listing(recipe, packings, plan.unquantized))
        if (nbytes := planned(found).nbytes) <= target:
            return found
        budget = spent(candidates, packings) - (nbytes - target)
    raise AssertionError("headers grow without end")


def _packed(plan: ConversionPlan) -> list[Step]:
    return [step for step in plan.steps if step.quantization is not None]


def _bytes(step: Step, packing: Quantization | None) -> int:
    outputs: Sequence[OutputTensor] = step.outputs
    if packing is not None and packing != step.quantization:
        stored = next((out.dtype for out in step.outputs if out.kind == "scales"), "BF16")
        outputs = packed_outputs(step.name, step.shape, packing, stored)
    return sum(out.nbytes for out in outputs)


def _candidates(source: Source, plan: ConversionPlan, progress: Progress) -> Iterator[Candidate]:
    """Every module that is packed, with the ways to pack it; a cost is a part's, shared out by the weights' errors."""
    steps = {module_path(step.name): step for step in _packed(plan)}
    ways = {module: list(_ways(step)) for module, step in steps.items()}
    errors = {module: _errors(steps[module], ways[module], progress) for module in steps}
    free = {module: step for module, step in steps.items() if len(ways[module]) > 1}
    costs = _unit_costs(source, free, errors, progress)
    for module, step in steps.items():
        unit = costs.get(module, dict.fromkeys(TRIAL_BITS, 0.0))
        options = (Option(way, _bytes(step, way), unit[_trial_bits(way)] * errors[module][way]) for way in ways[module])
        yield Candidate(module, tuple(options))


def _unit_costs(
    source: Source, free: Mapping[str, Step], errors: Mapping[str, Errors], progress: Progress
) -> dict[str, dict[int, float]]:
    """What a unit of relative squared error costs in each module, in nats, by the bits of the trial."""
    layers = source.config.text.num_hidden_layers
    parts = groups(free, layers)
    found: dict[str, dict[int, float]] = {module: {} for module in free}
    for bits in TRIAL_BITS:
        trial = {module: _with_bits(step, bits) for module, step in free.items()}
        # A weight on its own grid loses nothing, so it is not rounded.
        rounded = {module: packing for module, packing in trial.items() if errors[module][packing] > 0}
        costs = measure(source, parts, rounded, partial(_say_bits, progress, bits))
        for part, modules in parts.items():
            total = sum(errors[module][trial[module]] for module in modules)
            for module in modules:
                found[module][bits] = costs[part] / total if total else 0.0
    return found


def _say_bits(progress: Progress, bits: int, what: str) -> None:
    progress(f"what {bits} bits cost, {what}")


def _trial_bits(packing: Quantization) -> int:
    """The trial from which the cost of a packing is inferred."""
    return max(TRIAL_BITS[0], min(packing.bits, TRIAL_BITS[-1]))


def _with_bits(step: Step, bits: int) -> Quantization:
    assert step.quantization is not None
    return Quantization(bits, step.quantization.group_size)


def _ways(step: Step) -> Iterator[Quantization]:
    """How a module may be packed: a router keeps its bits, and a weight on a grid needs no more than the grid."""
    packing = step.quantization
    assert packing is not None
    if packing.bits >= ROUTER_FLOOR.bits:
        yield packing
        return
    most = packing.bits if step.lattice is not None else max(AFFINE_BITS)
    yield from (Quantization(bits, packing.group_size) for bits in AFFINE_BITS if bits <= most)


def _errors(step: Step, ways: Iterable[Quantization], progress: Progress) -> Errors:
    """The relative squared error of some rows of a weight, for every way to pack it; none on its own grid."""
    progress(f"rounding {module_path(step.name)}")
    values = sampled_values(step)
    power = float((values**2).sum()) or 1.0
    exact = step.quantization if step.lattice is not None else None
    return {
        way: 0.0 if way == exact else float(((round_trip(values, way, "BF16") - values) ** 2).sum()) / power
        for way in ways
    }
