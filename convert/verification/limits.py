"""How far a conversion may be from its source, and who is told when it is further."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...schemas.errors import UsageError
from ..source import Source
from .compare import LogitDistance
from .outcome import Finding
from .subject import Subject


@dataclass(frozen=True)
class Limits:
    """Beyond what a conversion has failed.

    Attributes:
        nmse: normalised mean squared error of the logits of an unquantized conversion: rounding and nothing else.
        cast_kl: mean divergence in nats of an unquantized conversion into a narrower dtype.
        kl_by_bits: mean divergence in nats of a quantized conversion, by the bits of most of its weights. Several times
            what rounding does to the most fragile of the sample models (0.03 at 8 bits, 1.4 at 4), so that what fails
            is a mistake; below 4 bits rounding alone can reach any value, and there is no limit.
        max_kl: mean divergence in nats of every conversion that rounds, in place of the two above.
    """

    nmse: float = 1e-10
    cast_kl: float = 1e-2
    kl_by_bits: Mapping[int, float] = field(default_factory=lambda: {8: 0.5, 6: 2.0, 5: 3.0, 4: 5.0})
    max_kl: float | None = None

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: a limit below zero, or none at all.
        """
        if self.max_kl is not None and not self.max_kl >= 0:
            raise UsageError(f"{self.max_kl} is no limit", where="--max-kl", fix="give a number of nats, 0 or more")


def judge(subject: Subject, source: Source, limits: Limits, probe: str, found: LogitDistance) -> Iterator[Finding]:
    """What is wrong with the logits of a conversion.

    Args:
        subject: the conversion.
        source: what it was made from.
        limits: what is allowed.
        probe: what the logits are for.
        found: how far they are from those of the source.
    """
    if _is_exact(subject, source):
        yield from _judge_exact(limits, probe, found)
        return
    limit, kl = _kl_limit(subject, limits), float(found.kl.mean())
    if limit is not None and not kl <= limit:
        yield Finding(f"the mean divergence from the source is {kl:.3g} nats, allowed is {limit:.3g}", probe)


def _judge_exact(limits: Limits, probe: str, found: LogitDistance) -> Iterator[Finding]:
    if not found.nmse <= limits.nmse:
        yield Finding(f"the logits differ by NMSE {found.nmse:.1e}, allowed is {limits.nmse:.0e}", probe)
    elif found.top1 < 1:
        yield Finding(f"the most likely token is the source's at {found.top1:.2%} of the positions only", probe)


def _is_exact(subject: Subject, source: Source) -> bool:
    """Whether no weight was rounded: neither packed, nor cast to another dtype than float32."""
    ours = {info.dtype for info in subject.checkpoint.tensors.values()}
    theirs = source.checkpoint.tensors.values()
    decoded = any(info.kept_as != info.dtype for info in theirs)
    kept = {"F32"} if decoded else {"F32", *(info.dtype for info in theirs)}
    return subject.config.quantization is None and ours <= kept


def _kl_limit(subject: Subject, limits: Limits) -> float | None:
    if limits.max_kl is not None:
        return limits.max_kl
    packing = subject.config.quantization
    return limits.cast_kl if packing is None else limits.kl_by_bits.get(packing["bits"])
