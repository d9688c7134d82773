"""The step `numerics`: what the checkpoint computes, by itself and beside its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from .tracing import Runner, converted_runner, source_runners

# Relative error of hidden states in float32 that two orders of the same sums may have.
SAME = 1e-4
# Media that change the last hidden state by less might as well not be there.
SENSITIVE = 1e-3
# How many tokens are taken one at a time, at the end of the text.
SINGLE_TOKENS = 4

# What the others are compared with.
EXACT = "exact"

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


# A probe's name, and whether it is the variant with other media.
Key = tuple[str, bool]


class _Numerics:
    """The probes, and what the checkpoint makes of them; they go through the layers together, so each is read once."""

    def __init__(self, subject: Subject, limits: Limits) -> None:
        self.subject, self.limits = subject, limits
        self.hidden: dict[Key, Hidden] = {}

    @cached_property
    def runner(self) -> Runner:
        return converted_runner(self.subject)

    @cached_property
    def probes(self) -> list[Probe]:
        return make_probes(self.subject.prompt)

    def finite(self, notes: Notes) -> Iterator[Finding]:
        """Every layer gives finite numbers for every probe; what is wrong with both variants is said once."""
        yield from dict.fromkeys(self._finite(notes))

    def _finite(self, notes: Notes) -> Iterator[Finding]:
        ready: dict[Key, Merged] = {}
        for key, prompt in self._prompts().items():
            notes.at(key[0])
            features = self.runner.features(prompt)
            infinite = [kind for kind, array in features.items() if not _is_finite(array)]
            yield from (Finding(f"the features of {kind} are not finite", key[0]) for kind in infinite)
            if not infinite:
                ready[key] = self.runner.merged(prompt, features)
        yield from self._finite_layers(ready)
        notes.figures["tokens"] = {probe.name: len(probe.prompt.ids) for probe in self.probes}

    def _prompts(self) -> dict[Key, Prompt]:
        """Every probe, and every probe with other media."""
        found: dict[Key, Prompt] = {}
        for probe in self.probes:
            found[probe.name, False] = probe.prompt
            if probe.other is not None:
                found[probe.name, True] = probe.other
        return found

    def _finite_layers(self, ready: Mapping[Key, Merged]) -> Iterator[Finding]:
        last: dict[Key, mx.array] = {}
        broken: set[Key] = set()
        for index, outputs in enumerate(side_by_side([(self.runner, merged) for merged in ready.values()])):
            last = dict(zip(ready, outputs, strict=True))
            for key in [key for key in last if key not in broken and not _is_finite(last[key])]:
                broken.add(key)
                yield Finding(f"layer {index} gives numbers that are not finite", key[0])
        normed = {key: self.runner.norm(hidden) for key, hidden in last.items() if key not in broken}
        for key, hidden in normed.items():
            if all(np.isfinite(logits).all() for _, logits in self.runner.logits(hidden)):
                self.hidden[key] = np.array(hidden[0])
            else:
                yield Finding("the logits are not finite", key[0])

    def orders(self) -> Iterator[Finding]:
        """The text in chunks, and its end one token at a time, is the text in one pass."""
        text = self.probes[0]
        merged = self.runner.merged(text.prompt, {})
        (whole,) = (self.hidden[probe.name, False] for probe in self._finite_among([text]))
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
        for probe in self._finite_among(with_media):
            one, other = (self.hidden[probe.name, variant][-1] for variant in (False, True))
            change = distance(other, one).relative_error
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
        exact, rounded = source_runners(source, self.subject.config)
        others = {"bfloat16": rounded, "converted": self.runner}
        measured = follow(self._finite_among(self.probes), exact, others)
        for name, traces in measured.items():
            notes.figures[name] = {other: trace.figures() for other, trace in traces.items()}
            yield from judge(self.subject, source, self.limits, name, traces["converted"].logits)

    def _finite_among(self, probes: list[Probe]) -> list[Probe]:
        """Those that can be compared."""
        found = [
            probe for probe in probes if {(probe.name, False), (probe.name, probe.other is not None)} <= {*self.hidden}
        ]
        if not found:
            raise SkipError("no probe gave finite numbers")
        return found


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


def follow(probes: Sequence[Probe], exact: Runner, others: Mapping[str, Runner]) -> dict[str, dict[str, Trace]]:
    """Run networks and probes side by side, one layer of each network in memory at a time.

    Args:
        probes: what they are given.
        exact: what the others are compared with.
        others: by name.

    Returns:
        By probe and by network.
    """
    runners = {EXACT: exact, **others}
    features = {key: runners[key[0]].features(probe.prompt) for key, probe in _keys(runners, probes)}
    passes = {
        key: (runners[key[0]], runners[key[0]].merged(probe.prompt, features[key]))
        for key, probe in _keys(runners, probes)
    }
    layers: dict[tuple[str, str], list[Distance]] = {key: [] for key in passes}
    states: dict[tuple[str, str], mx.array] = {}
    for outputs in side_by_side(list(passes.values())):
        states = dict(zip(passes, outputs, strict=True))
        for (name, probe), state in states.items():
            layers[name, probe].append(distance(np.array(state), np.array(states[EXACT, probe])))
    logits = _compare_logits(probes, runners, states)
    return {
        probe.name: {
            name: Trace(
                _feature_distances(features[name, probe.name], features[EXACT, probe.name]),
                tuple(layers[name, probe.name]),
                logits[name, probe.name],
            )
            for name in others
        }
        for probe in probes
    }


def side_by_side(passes: Sequence[tuple[Runner, Merged]]) -> Iterator[tuple[mx.array, ...]]:
    """What each layer makes of every prompt; those of one runner follow each other, so that it reads a layer once."""
    return zip(*(runner.layers(merged) for runner, merged in passes), strict=True)


def _compare_logits(
    probes: Sequence[Probe], runners: Mapping[str, Runner], states: Mapping[tuple[str, str], mx.array]
) -> dict[tuple[str, str], LogitDistance]:
    """The logits of each network against the exact one's, piece by piece of the vocabulary."""
    comparisons = {key: LogitComparison(np.array(probe.prompt.ids)) for key, probe in _keys(runners, probes)}
    heads = [runners[name].logits(runners[name].norm(states[name, probe])) for name, probe in comparisons]
    for found in zip(*heads, strict=True):
        pieces = dict(zip(comparisons, found, strict=True))
        for (name, probe), (start, piece) in pieces.items():
            comparisons[name, probe].add(start, pieces[EXACT, probe][1], piece)
    return {key: comparison.result() for key, comparison in comparisons.items()}


def _keys(runners: Mapping[str, Runner], probes: Sequence[Probe]) -> Iterator[tuple[tuple[str, str], Probe]]:
    """Every network with every probe, network by network."""
    return (((name, probe.name), probe) for name in runners for probe in probes)


def _feature_distances(ours: Mapping[Kind, mx.array], theirs: Mapping[Kind, mx.array]) -> dict[Kind, Distance]:
    return {kind: distance(np.array(array), np.array(theirs[kind])) for kind, array in ours.items()}
