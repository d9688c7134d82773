"""What rounding a part of a model costs: measured on the model itself, a text, and one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ...loaders.prompt import Prompt, PromptFormat
from ...loaders.streaming import Parameters, Remembered, Weights
from ..plan import inside_layer, module_path
from ..quantize import dequantize, quantize
from ..recipe import Quantization
from ..source import Source
from ..verification.behaviour import long_text
from ..verification.compare import LogitComparison
from ..verification.numerics import side_by_side
from ..verification.probes import shipped_text
from ..verification.tracing import Runner, make_runner
from ..verification.weights import SourceWeights

# Parts of the depth that are measured apart: the first layers, the middle, the last ones.
PARTS = 3
# Tokens of prose, and of a story in simple words: a source that knows little but chat knows the second better.
TOKENS_EACH = 128

Progress = Callable[[str], object]


@dataclass(frozen=True)
class RoundedWeights:
    """Weights of which some are packed and unpacked again; see `Weights` for the methods.

    Attributes:
        exact: what is rounded.
        packings: of the modules that are rounded.
        storage: dtype of scales and biases.
    """

    exact: Weights
    packings: Mapping[str, Quantization]
    storage: str

    def parameters(self, names: Sequence[str]) -> Parameters:
        """Parameters by their names in the MLX checkpoint, float32."""
        return [(name, self._rounded(module_path(name), array)) for name, array in self.exact.parameters(names)]

    def rows(self, module: str, start: int, stop: int) -> mx.array:
        """Rows of a module's weight: float32 [rows, columns]."""
        return self._rounded(module, self.exact.rows(module, start, stop))

    def _rounded(self, module: str, array: mx.array) -> mx.array:
        packing = self.packings.get(module)
        return array if packing is None else mx.array(round_trip(np.array(array), packing, self.storage))


def round_trip(values: np.ndarray, packing: Quantization, storage: str) -> np.ndarray:
    """What is left of weights, float32 [..., columns], after they were packed."""
    matrix = values.reshape(-1, values.shape[-1])
    return dequantize(quantize(matrix, packing, storage), packing).reshape(values.shape)


def groups(modules: Iterable[str], layers: int) -> dict[str, list[str]]:
    """Modules that do the same in the same part of the depth, by a name for them.

    Args:
        modules: their paths.
        layers: of the language model.
    """
    found: dict[str, list[str]] = {}
    for module in modules:
        found.setdefault(_group(module, layers), []).append(module)
    return found


def _group(module: str, layers: int) -> str:
    index = next((int(part) for part in module.split(".") if part.isdigit()), None)
    kind = inside_layer(module)
    return kind if index is None else f"{kind}, part {index * PARTS // layers + 1} of {PARTS}"


def measure(
    source: Source, parts: Mapping[str, Sequence[str]], packing: Mapping[str, Quantization], progress: Progress
) -> dict[str, float]:
    """What rounding each part alone costs: the mean divergence of the predictions, in nats.

    All variants of the model go through the layers together, so the source is read once.

    Args:
        source: the Hugging Face checkpoint.
        parts: modules by the name of their part.
        packing: of the modules that are rounded.
        progress: called with what is being done.

    Raises:
        ConfigError: the tokenizer cannot be used.
    """
    config = replace(source.config, vision=None, audio=None)
    ids = _text(PromptFormat.open(source.checkpoint.folder, source.config))
    exact = Remembered(SourceWeights.of(source, ("text",)))
    variants: dict[str, Weights] = {
        name: RoundedWeights(exact, {module: packing[module] for module in modules if module in packing}, "BF16")
        for name, modules in parts.items()
    }
    runners = [make_runner(config, exact), *(make_runner(config, weights) for weights in variants.values())]
    states = _last_states(runners, ids, progress)
    return dict(zip(parts, _divergences(runners, states, ids), strict=True))


def _text(prompt: PromptFormat) -> list[int]:
    """A piece of prose, and one of a simple story."""
    return [*prompt.encode(shipped_text())[:TOKENS_EACH], *prompt.encode(long_text(prompt))[1 : TOKENS_EACH + 1]]


def _last_states(runners: Sequence[Runner], ids: Sequence[int], progress: Progress) -> list[mx.array]:
    """What the last layer of each variant hands on, [1, L, hidden]."""
    merged = [runner.merged(Prompt(tuple(ids)), {}) for runner in runners]
    states: tuple[mx.array, ...] = ()
    for index, states in enumerate(side_by_side(list(zip(runners, merged, strict=True)))):  # noqa: B007
        progress(f"layer {index + 1}")
    return list(states)


def _divergences(runners: Sequence[Runner], states: Sequence[mx.array], ids: Sequence[int]) -> list[float]:
    """Of every variant but the first, from the first."""
    comparisons = [LogitComparison(np.array(ids)) for _ in runners[1:]]
    heads = [runner.logits(runner.norm(state)) for runner, state in zip(runners, states, strict=True)]
    for (start, exact), *others in zip(*heads, strict=True):
        for comparison, (_, ours) in zip(comparisons, others, strict=True):
            comparison.add(start, exact, ours)
    return [float(comparison.result().kl.mean()) for comparison in comparisons]
