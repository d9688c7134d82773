"""What the command line prints about a checkpoint: its parts, what media and context take, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..verification.figures import printable
from ..wording import count, size, table
from .budget import Fit
from .outcome import Attention, Inspection, Media
from .parts import Part

BILLION, MILLION = 10**9, 10**6
HEADS = ("stage", "weights", "keys, values", "features", "at work", "together")
UNMEASURED = (
    "An estimate. Its formulas are within 10 % of what mlx takes on a CPU; on Metal it has not been",
    "measured. What the app itself takes, and what mlx keeps for reuse (its cache limit), come on top.",
)


def text(found: Inspection) -> str:
    """All of it, readable."""
    blocks = [_head(found), _parts(found.parts), *_planned(found), _facts(found), *_notes(found)]
    if found.fit is not None:
        blocks.append(_fit(found.fit))
    return "\n\n".join(blocks)


def _head(found: Inspection) -> str:
    takes = ", ".join(found.modalities)
    return f"{printable(found.name)}: {found.model_type}\n{printable(found.origin)}; takes {takes}"


def _parts(parts: Sequence[Part]) -> str:
    rows = [("part", "parameters", "bytes", "stored as")]
    rows += [(part.name, number(part.parameters), size(part.nbytes), shares(part)) for part in parts]
    rows.append(("total", number(sum(p.parameters for p in parts)), size(sum(p.nbytes for p in parts)), ""))
    return "\n".join(_aligned(rows))


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Columns; the last is text, too."""
    for line, row in zip(table([row[:-1] for row in rows]), rows, strict=True):
        yield f"{line}  {row[-1]}".rstrip()


def number(parameters: int) -> str:
    """Parameters for people."""
    if parameters >= BILLION:
        return f"{parameters / BILLION:.2f} B"
    return f"{parameters / MILLION:.2f} M" if parameters >= MILLION else f"{parameters:,}"


def shares(part: Part) -> str:
    """How a part is stored, the largest share first."""
    whole = sum(part.formats.values())
    if len(part.formats) == 1 or not whole:
        return next(iter(part.formats), "")
    return ", ".join(f"{form} {share(amount, whole)}" for form, amount in part.formats.most_common())


def share(amount: int, whole: int) -> str:
    """A share in per cent."""
    percent = 100 * amount / whole
    return f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"  # one digit


def _planned(found: Inspection) -> Iterator[str]:
    if found.planned:
        yield "Converted with the defaults, it would be\n\n" + _parts(found.planned)


def _facts(found: Inspection) -> str:
    rows = [*_text_facts(found), *_media_facts(found.media)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _text_facts(found: Inspection) -> Iterator[tuple[str, str]]:
    if found.active is not None:
        yield "active for a token", f"{number(found.active)} parameters of the language model"
    attention = found.attention
    if attention.context is not None:
        yield "context", f"{attention.context:,} tokens"
    yield "layers", _layers(attention)
    window = size(attention.windows)
    yield "keys and values", f"{attention.token:,} bytes a token, and {window} of full windows, in bfloat16"


def _layers(attention: Attention) -> str:
    shared = f", {attention.shared} that share theirs" if attention.shared else ""
    return f"{attention.full} full, {attention.sliding} sliding over {attention.window:,} tokens{shared}"


def _media_facts(media: Media) -> Iterator[tuple[str, str]]:
    if media.picture is not None:
        others = ", ".join(map(str, media.budgets))
        yield "picture", f"{media.picture} tokens at most; can be {others}"
    if media.frame is not None:
        yield "frame of a clip", f"{media.frame} tokens at most; {media.frames} frames to a clip by default"
    if media.second is not None:
        yield "second of sound", f"{media.second:g} tokens; a sound has {media.seconds:g} s at most"


def _notes(found: Inspection) -> Iterator[str]:
    if found.notes:
        yield "\n".join(printable(f"Note: {note}") for note in found.notes)


def _fit(fit: Fit) -> str:
    budget, peak = size(fit.budget), size(fit.estimate.peak)
    verdict = f"fits {budget}, {size(fit.left)} are left"
    if not fit.fits:
        verdict = f"does not fit {budget}, {size(-fit.left)} are missing"
    return "\n".join(
        [
            f"{_asked(fit)}:",
            f"{verdict}. It takes up to {peak} with {fit.runtime}.",
            "",
            *(f"  {line}" for line in table([HEADS, *_stages(fit)])),
            "",
            f"Would fit, all else as asked: {', '.join(_largest(fit))}",
            *UNMEASURED,
        ]
    )


def _stages(fit: Fit) -> Iterator[tuple[str, ...]]:
    for moment in fit.estimate.moments:
        terms = (moment.weights, moment.cache, moment.features, moment.activations, moment.total)
        yield moment.name, *map(size, terms)


def _asked(fit: Fit) -> str:
    load = fit.load
    media = [
        count(load.images, "picture") + f" of {load.image_tokens} tokens" if load.images else "",
        count(load.frames, "frame") if load.frames else "",
        f"{count(sum(load.sounds), 'token')} of sound" if load.sounds else "",
    ]
    return ", ".join([f"A context of {count(load.context, 'token')}", *filter(None, media)])


def _largest(fit: Fit) -> Iterator[str]:
    yield f"a context of {fit.context:,} tokens" if fit.context else "no context"
    if fit.frames is not None:
        yield count(fit.frames, "frame") if fit.frames else "no frames"
    if fit.image_tokens is not None:
        yield f"pictures of {fit.image_tokens} tokens" if fit.image_tokens else "no pictures"
