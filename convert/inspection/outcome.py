"""What an inspection found. Data only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .budget import Fit
from .parts import Part


@dataclass(frozen=True)
class Media:
    """What media take in a prompt; None where the model, or its processor config, has nothing to say.

    Attributes:
        picture: most tokens of a picture.
        budgets: what can be asked for instead.
        frame: most tokens of a frame.
        frames: frames of a clip, by default.
        second: tokens of a second of sound.
        seconds: the longest sound.
    """

    picture: int | None = None
    budgets: tuple[int, ...] = ()
    frame: int | None = None
    frames: int | None = None
    second: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Attention:
    """How the layers attend, and what their keys and values take in bfloat16.

    Attributes:
        context: tokens of the longest context; None where the config does not say.
        window: keys that a sliding layer sees.
        full, sliding: layers that hold keys and values of their own.
        shared: layers that read those of others.
        token: bytes for each token of the context.
        windows: bytes of all sliding layers, once their windows are full.
    """

    context: int | None
    window: int
    full: int
    sliding: int
    shared: int
    token: int
    windows: int


@dataclass(frozen=True)
class Inspection:
    """All of it.

    Attributes:
        name: of the checkpoint.
        converted: whether it is an MLX checkpoint.
        origin: what made it, in words.
        model_type, family: what the config says.
        modalities: those that it declares and holds.
        parts: as stored.
        active: parameters of the language model that a token is computed with, of a mixture of experts.
        planned: the parts of its conversion by default; empty for what is converted, or cannot be.
        media: what media take.
        attention: what the context takes.
        notes: what a user should know besides.
        fit: beside a budget, if one was given.
    """

    name: str
    converted: bool
    origin: str
    model_type: str
    family: str
    modalities: tuple[str, ...]
    parts: tuple[Part, ...]
    active: int | None
    planned: tuple[Part, ...]
    media: Media
    attention: Attention
    notes: tuple[str, ...]
    fit: Fit | None

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "name": self.name,
            "kind": "converted" if self.converted else "source",
            "origin": self.origin,
            "model_type": self.model_type,
            "family": self.family,
            "modalities": list(self.modalities),
            "parts": [_part(part) for part in self.parts],
            "parameters": sum(part.parameters for part in self.parts),
            "active_parameters": self.active,
            "bytes": sum(part.nbytes for part in self.parts),
            "converted_by_default": [_part(part) for part in self.planned],
            "media": asdict(self.media),
            "attention": asdict(self.attention),
            "notes": list(self.notes),
            "budget": None if self.fit is None else self.fit.to_dict(),
        }


def _part(part: Part) -> dict[str, Any]:
    formats = dict(part.formats.most_common())
    return {"name": part.name, "parameters": part.parameters, "bytes": part.nbytes, "formats": formats}
