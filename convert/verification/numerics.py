"""The step `numerics`: what the checkpoint computes, by itself and beside its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...loaders.cache import make_caches
from ...loaders.media import Kind
from ...loaders.merge import Merged
from ...loaders.prompt import Prompt
from .checking import CheckFunction, Notes, SkipError
from .compare import Distance, LogitComparison, LogitDistance, distance
from .limits import Limits, judge
from .outcome import Finding
from .probes import Probe, make_probes
from .subject import Subject
from .tracing import Runner, converted_runner, source_runner

# Relative error of hidden states in float32 that two orders of the same sums may have.
SAME = 1e-4
# Media that change the last hidden state by less might as well not be there.
SENSITIVE = 1e-3
# How many tokens are taken one at a time, at the end of the text.
SINGLE_TOKENS = 4

Hidden = NDArray[np.float32]


def numerics(subject: Subject, limits: Limits) -> Mapping[str, CheckFunction]:
    """The checks of the step, which share what they compute."""
    work = _Numerics(subject, limits)
    return {
        "finite": lambda _, notes: work.finite(notes),
        "chunks and single tokens": lambda _, __: work.orders(),
        "media matter": lambda _, notes: work.sensitivity(notes),
        "beside the source": lambda _, notes: work.fidelity(notes),
    }


class _Numerics:
    """The probes, and what the checkpoint makes of them."""

    def __init__(self, subject: Subject, limits: Limits) -> None:
        self.subject, self.limits = subject, limits
        self.hidden: dict[str, Hidden] = {}

    @cached_property
    def runner(self) -> Runner:
        return converted_runner(self.subject)

    @cached_property
    def probes(self) -> list[Probe]:
        return make_probes(self.subject.prompt)

    def finite(self, notes: Notes) -> Iterator[Finding]:
        """Every layer gives finite numbers for every probe."""
        for probe in self.probes:
            notes.at(probe.name)
            yield from self._finite(probe)
        notes.figures["tokens"] = {probe.name: len(probe.prompt.ids) for probe in self.probes}

    def _finite(self, probe: Probe) -> Iterator[Finding]:
        features = self.runner.features(probe.prompt)
        for kind, array in features.items():
            if not _is_finite(array):
                yield Finding(f"the features of {kind} are not finite", probe.name)
                return
        hidden = mx.zeros(0)
        for index, hidden in enumerate(self.runner.layers(self.runner.merged(probe.prompt, features))):
            if not _is_finite(hidden):
                yield Finding(f"layer {index} gives numbers that are not finite", probe.name)
                return
        normed = self.runner.norm(hidden)
        if not all(np.isfinite(logits).all() for _, logits in self.runner.logits(normed)):
            yield Finding("the logits are not finite", probe.name)
            return
        self.hidden[probe.name] = np.array(normed[0])

    def orders(self) -> Iterator[Finding]:
        """The text in chunks, and its end one token at a time, is the text in one pass."""
        text = self.probes[0]
        merged = self.runner.merged(text.prompt, {})
        (whole,) = (self.hidden[probe.name] for probe in self._finite_among([text]))
        length, chunk = len(whole), self.subject.config.text.sliding_window // 2 + 1
        chunks = [(start, min(start + chunk, length)) for start in range(0, length, chunk)]
        singles = [(start, start + 1) for start in range(length - SINGLE_TOKENS, length)]
        for name, passes in (("chunks", chunks), ("single tokens", [(0, length - SINGLE_TOKENS), *singles])):
            error = distance(self._in_passes(merged, passes), whole).relative_error
            if not error <= SAME:
                yield Finding(f"in {name} the hidden states differ from one pass by {error:.1e}", text.name)

    def _in_passes(self, merged: Merged, passes: list[tuple[int, int]]) -> Hidden:
        caches = make_caches(self.subject.config.text)
        return np.concatenate([np.array(self.runner.last(merged, caches, *span)[0]) for span in passes])

    def sensitivity(self, notes: Notes) -> Iterator[Finding]:
        """Other media, other hidden states."""
        with_media = [probe for probe in self.probes if probe.other is not None]
        if not with_media:
            raise SkipError("the model takes text only")
        runner = self.runner
        for probe in self._finite_among(with_media):
            notes.at(probe.name)
            change = distance(_last(runner, probe.other), self.hidden[probe.name][-1]).relative_error
            notes.figures[probe.name] = change
            if not change >= SENSITIVE:
                yield Finding(
                    f"other media change the hidden state by {change:.1e} only: they have no effect", probe.name
                )

    def fidelity(self, notes: Notes) -> Iterator[Finding]:
        """The probes side by side with the source, in float32."""
        source = self.subject.source
        if source is None:
            raise SkipError("no source was given")
        config = self.subject.config
        exact, rounded = (source_runner(source, config, rounded=flag) for flag in (False, True))
        others = {"converted": self.runner, "bfloat16": rounded}
        for probe in self._finite_among(self.probes):
            notes.at(probe.name)
            measured = follow(probe, exact, others)
            notes.figures[probe.name] = {name: trace.figures() for name, trace in measured.items()}
            yield from judge(self.subject, source, self.limits, probe.name, measured["converted"].logits)

    def _finite_among(self, probes: list[Probe]) -> list[Probe]:
        """Those that can be compared."""
        found = [probe for probe in probes if probe.name in self.hidden]
        if not found:
            raise SkipError("no probe gave finite numbers")
        return found


def _last(runner: Runner, prompt: Prompt | None) -> Hidden:
    """The last position [hidden]."""
    assert prompt is not None
    merged = runner.merged(prompt, runner.features(prompt))
    return np.array(runner.last(merged, {}, 0, len(prompt.ids))[0, -1])


def _is_finite(array: mx.array) -> bool:
    return bool(mx.isfinite(array).all().item())


@dataclass(frozen=True)
class Trace:
    """How far a network is from another one on a probe: its features, its layers, its logits."""

    features: Mapping[Kind, Distance]
    layers: tuple[Distance, ...]
    logits: LogitDistance

    def figures(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "features": {kind: asdict(found) for kind, found in self.features.items()},
            "layers": [asdict(found) for found in self.layers],
            "logits": self.logits.figures(),
            "kl": self.logits.kl.tolist(),
        }


def follow(probe: Probe, exact: Runner, others: Mapping[str, Runner]) -> dict[str, Trace]:
    """Run networks side by side, one layer of each in memory at a time.

    Args:
        probe: what they are given.
        exact: what the others are compared with.
        others: by name.
    """
    runners = {"": exact, **others}
    features = {name: runner.features(probe.prompt) for name, runner in runners.items()}
    merged = {name: runner.merged(probe.prompt, features[name]) for name, runner in runners.items()}
    layers: dict[str, list[Distance]] = {name: [] for name in others}
    states: tuple[mx.array, ...] = ()
    for states in zip(*(runner.layers(merged[name]) for name, runner in runners.items()), strict=True):
        for name, state in zip(others, states[1:], strict=True):
            layers[name].append(distance(np.array(state), np.array(states[0])))
    logits = _compare_logits(probe, list(runners.values()), states)
    return {
        name: Trace(_feature_distances(features[name], features[""]), tuple(layers[name]), found)
        for name, found in zip(others, logits, strict=True)
    }


def _compare_logits(probe: Probe, runners: list[Runner], states: tuple[mx.array, ...]) -> list[LogitDistance]:
    """The first runner's logits against each of the others'."""
    ids = np.array(probe.prompt.ids)
    comparisons = [LogitComparison(ids) for _ in runners[1:]]
    heads = [runner.logits(runner.norm(state)) for runner, state in zip(runners, states, strict=True)]
    for (start, expected), *found in zip(*heads, strict=True):
        for comparison, (_, piece) in zip(comparisons, found, strict=True):
            comparison.add(start, expected, piece)
    return [comparison.result() for comparison in comparisons]


def _feature_distances(ours: Mapping[Kind, mx.array], theirs: Mapping[Kind, mx.array]) -> dict[Kind, Distance]:
    return {kind: distance(np.array(array), np.array(theirs[kind])) for kind, array in ours.items()}
