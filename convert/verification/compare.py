"""How far one model is from another: hidden states layer by layer, then logits, a piece of the vocabulary at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """How far an array is from the one that it should be.

    Attributes:
        relative_error: root of the squared error over the squared norm.
        cosine: of the two arrays as vectors.
    """

    relative_error: float
    cosine: float


def distance(found: NDArray[np.floating], expected: NDArray[np.floating]) -> Distance:
    """Compare two arrays of the same shape, in float64."""
    ours, theirs = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    norm = np.linalg.norm(theirs)
    error = np.linalg.norm(ours - theirs)
    scale = np.linalg.norm(ours) * norm
    return Distance(float(error / norm) if norm else float(error), float(ours @ theirs / scale) if scale else 1.0)


@dataclass(frozen=True)
class LogitDistance:
    """How far logits are from those of the source.

    Attributes:
        nmse: squared error over squared norm, of all logits.
        kl: [L], the Kullback-Leibler divergence of each position's prediction from the source's, in nats.
        top1: share of positions whose most likely token is the source's.
        perplexity: of the text under the model that is compared.
        source_perplexity: of the text under the source.
    """

    nmse: float
    kl: Doubles
    top1: float
    perplexity: float
    source_perplexity: float

    def figures(self) -> dict[str, float]:
        """The numbers that a report shows."""
        return {
            "nmse": self.nmse,
            "kl_mean": float(self.kl.mean()),
            "kl_median": float(np.median(self.kl)),
            "kl_p99": float(np.quantile(self.kl, 0.99)),
            "kl_max": float(self.kl.max()),
            "top1": self.top1,
            "perplexity": self.perplexity,
            "source_perplexity": self.source_perplexity,
        }


class LogitComparison:
    """Gathers a `LogitDistance` from pieces of the vocabulary, so that no row of logits is ever whole.

    Args:
        ids: [L], the tokens; the prediction at a position is for the next one.
    """

    def __init__(self, ids: NDArray[np.int64]) -> None:
        length = len(ids)
        self._targets = np.append(ids[1:], -1)
        self._source, self._ours = _Normalizer(length), _Normalizer(length)
        self._cross = np.zeros(length)  # sum of exp(source - its maximum) * (source - ours)
        self._error = self._power = 0.0

    def add(self, start: int, source: NDArray[np.floating], ours: NDArray[np.floating]) -> None:
        """Take in the logits [L, n] of both for the tokens from `start` on."""
        theirs, mine = source.astype(np.float64), ours.astype(np.float64)
        shrink = self._source.add(start, theirs, self._targets)
        self._ours.add(start, mine, self._targets)
        weights = np.exp(theirs - self._source.maximum[:, None])
        self._cross = self._cross * shrink + (weights * (theirs - mine)).sum(-1)
        self._error += float(((theirs - mine) ** 2).sum())
        self._power += float((theirs**2).sum())

    def result(self) -> LogitDistance:
        """What all pieces together say."""
        source, ours = self._source, self._ours
        kl = self._cross / source.total - (source.log_total - ours.log_total)
        return LogitDistance(
            nmse=self._error / self._power if self._power else self._error,
            kl=np.maximum(kl, 0.0),
            top1=float((source.best == ours.best).mean()),
            perplexity=ours.perplexity,
            source_perplexity=source.perplexity,
        )


class _Normalizer:
    """The softmax of L rows, piece by piece."""

    def __init__(self, length: int) -> None:
        self.maximum = np.full(length, -np.inf)
        self.total = np.zeros(length)
        self.best = np.zeros(length, np.int64)
        self._target = np.full(length, np.nan)

    def add(self, start: int, logits: Doubles, targets: NDArray[np.int64]) -> Doubles:
        """Take in a piece; what the sums so far have been multiplied with, for the maximum may have grown."""
        highest = logits.max(-1)
        self.best = np.where(highest > self.maximum, start + logits.argmax(-1), self.best)
        maximum = np.maximum(self.maximum, highest)
        shrink: Doubles = np.exp(self.maximum - maximum)
        self.total = self.total * shrink + np.exp(logits - maximum[:, None]).sum(-1)
        self.maximum = maximum
        inside = np.flatnonzero((targets >= start) & (targets < start + logits.shape[-1]))
        self._target[inside] = logits[inside, targets[inside] - start]
        return shrink

    @property
    def log_total(self) -> Doubles:
        """The logarithm of the softmax's denominator."""
        return self.maximum + np.log(self.total)

    @property
    def perplexity(self) -> float:
        """Of the targets."""
        return float(np.exp(np.nanmean(self.log_total - self._target)))
