"""Look at a checkpoint's headers and small files, and say what it is and what it takes to run it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...loaders.config import UNIFIED, ModelConfig, TextConfig
from ...loaders.footprint import METAL, Runtime, kv_cache_bytes
from ...loaders.footprint.estimate import Estimator, Load
from ...loaders.media.config import SOFT_TOKENS, AudioSettings, MediaSettings, WaveformSettings
from ...loaders.media.image import checked_budget
from ...schemas.errors import G4ConvertError, UsageError
from ..encodings import EncodedTensor
from ..inventory import Match, take_inventory
from ..options import DEFAULT_RECIPE
from ..plan import PART_OF, ConversionPlan, build_plan, wanted_parts
from ..recipe import load_recipe
from ..source import PROCESSOR, refuse_quantized
from ..survey import find_lattices
from .budget import MOST_FRAMES, Fit, fit
from .outcome import Attention, Inspection, Media
from .parts import absent, active_parameters, planned_parts, planned_weights, stored_parts, stored_weights, undeclared
from .subject import Subject, opened

DEFAULT_CONTEXT = 4096
LONGEST_CONTEXT = 131_072
"""Tokens of a context where the config does not say."""
MOST_MEDIA = 10_000


@dataclass(frozen=True)
class Wish:
    """What is to fit, as a user asks for it; None takes the checkpoint's own."""

    context: int | None = None
    images: int = 0
    image_tokens: int | None = None
    frames: int = 0
    audio: float = 0.0

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: names the option.
        """
        for option, value, least, most in (
            ("--context", self.context, 1, 1 << 24),
            ("--images", self.images, 0, MOST_MEDIA),
            ("--frames", self.frames, 0, MOST_FRAMES),
            ("--audio", self.audio, 0, 86_400),
        ):
            if value is not None and not least <= value <= most:
                raise UsageError(f"{value} is out of range", where=option, fix=f"give {least} to {most}")
        if self.image_tokens is not None:
            checked_budget(self.image_tokens)


def inspect(
    path: str | Path,
    *,
    revision: str | None = None,
    budget: int | None = None,
    wish: Wish | None = None,
    runtime: Runtime = METAL,
) -> Inspection:
    """Say what a checkpoint is, and what would fit into a budget. No weights are read, or downloaded.

    A source that is not converted is estimated as a conversion by default would make it. Of a source on this machine a
    few rows are read to see whether they lie on a 4-bit grid, as a conversion does.

    Args:
        path: a folder, `org/name`, or `org/name@revision`; a source, or a converted checkpoint.
        revision: a branch, tag or commit on the Hub.
        budget: bytes that the model may take.
        wish: what is to fit.
        runtime: what runs the model.

    Raises:
        G4ConvertError: the checkpoint cannot be opened, or the call is wrong.
    """
    wish = wish or Wish()
    wish.check()
    with opened(path, revision) as subject:
        parts = stored_parts(subject)
        plan, refusal = (None, None) if subject.converted else _plan(subject)
        found = partial(
            Inspection,
            name=subject.name,
            converted=subject.converted,
            origin=_origin(subject),
            model_type=subject.config.model_type,
            family=subject.config.family,
            modalities=_modalities(subject),
            parts=parts,
            active=active_parameters(subject.config.text, parts),
            planned=() if plan is None else planned_parts(plan),
            media=_media(subject),
            attention=_attention(subject),
            notes=tuple(_notes(subject, refusal)),
        )
        if budget is None:
            return found(fit=None)
        if refusal is not None:
            raise refusal
        weights = stored_weights(subject) if plan is None else planned_weights(plan)
        return found(fit=_fit(subject, Estimator(subject.config, weights, runtime), wish, budget))


def _plan(subject: Subject) -> tuple[ConversionPlan | None, G4ConvertError | None]:
    """The conversion by default, or why there can be none."""
    try:
        return _planned(subject), None
    except G4ConvertError as error:
        return None, error


def _planned(subject: Subject) -> ConversionPlan:
    tensors = subject.checkpoint.tensors.values()
    refuse_quantized(tensors)
    recipe = load_recipe(DEFAULT_RECIPE)
    inventory = take_inventory(subject.config, tensors, wanted_parts(PART_OF))
    asked = [match for match in inventory.matches if subject.whole or _is_stored_on_a_grid(match)]
    return build_plan(
        subject.config,
        inventory,
        recipe,
        dtype=None,
        modalities=tuple(PART_OF),
        max_shard_size=1 << 62,
        lattices=find_lattices(asked, recipe),
    )


def _is_stored_on_a_grid(match: Match) -> bool:
    """Whether the headers alone say that a weight lies on a 4-bit grid."""
    return isinstance(match.source, EncodedTensor) and match.source.grid is not None


def _origin(subject: Subject) -> str:
    made = subject.generator
    if made is not None:
        source = made["source"]["id"] or "a local folder"
        return f"converted from {source} by {made['name']} {made['version']}, recipe {made['recipe']}"
    if subject.converted:
        return "a converted MLX checkpoint that does not say what made it"
    return "a source, not converted" if subject.scheme is None else f"a source, packed: {subject.scheme.name}"


def _modalities(subject: Subject) -> tuple[str, ...]:
    config, missing = subject.config, absent(subject)
    there = {"text": True, "vision": config.vision is not None, "audio": config.audio is not None}
    return tuple(modality for modality, part in PART_OF.items() if there[part] and part not in missing)


def _notes(subject: Subject, refusal: G4ConvertError | None) -> Iterator[str]:
    for part, count in absent(subject).items():
        yield f"the config calls for {count:,} tensors of {part} that are not there"
    for part, count in undeclared(subject.config, subject.checkpoint.tensors).items():
        yield f"{count:,} tensors of {part} are there, and the config does not declare it"
    if subject.media is None and (subject.config.vision or subject.config.audio):
        yield f"{PROCESSOR} is missing: what media take is as published"
    if refusal is not None:
        yield f"a conversion would refuse it: {refusal}"
    elif not subject.converted and not subject.whole:
        yield "whether weights lie on a 4-bit grid is not known from headers; then groups are of 32, not 64"


def _media(subject: Subject) -> Media:
    settings, config = _settings(subject), subject.config
    sees, hears = config.vision is not None, config.audio is not None
    picture, clip, sound = (getattr(settings, kind) for kind in ("image", "video", "audio"))
    return Media(
        picture=picture.max_soft_tokens if sees and picture else None,
        budgets=SOFT_TOKENS if sees and picture else (),
        frame=clip.max_soft_tokens if sees and clip else None,
        frames=clip.num_frames if sees and clip else None,
        second=_tokens_per_second(sound) if hears and sound else None,
        seconds=round(sound.max_seconds, 1) if hears and sound else None,
    )


def _settings(subject: Subject) -> MediaSettings:
    """What the processor config says; transformers' defaults where there is none."""
    if subject.media is not None:
        return subject.media
    family = "Gemma4Unified" if subject.config.family == UNIFIED else "Gemma4"
    kinds = {"image_processor": "ImageProcessor", "feature_extractor": "AudioFeatureExtractor"}
    parts = {part: {f"{part}_type": family + kind} for part, kind in kinds.items()}
    return MediaSettings.from_dict({"processor_class": f"{family}Processor", **parts})


def _tokens_per_second(sound: AudioSettings | WaveformSettings) -> float:
    """Soft tokens of a second: a frame of samples each, or four log-mel frames."""
    if isinstance(sound, WaveformSettings):
        return sound.sampling_rate / sound.audio_samples_per_token
    return sound.sampling_rate / sound.hop_length / 4


def _attention(subject: Subject) -> Attention:
    text = subject.config.text
    owners = [layer for layer in text.layers if layer.owns_kv]
    sliding = sum(layer.is_sliding for layer in owners)
    token = kv_cache_bytes(text, text.sliding_window + 1) - kv_cache_bytes(text, text.sliding_window)
    return Attention(
        context=_longest(subject),
        window=text.sliding_window,
        full=len(owners) - sliding,
        sliding=sliding,
        shared=text.num_kv_shared_layers,
        token=token,
        windows=_windows(text),
    )


def _windows(text: TextConfig) -> int:
    token = sum(4 * layer.kv_size for layer in text.layers if layer.owns_kv and not layer.is_sliding)
    return kv_cache_bytes(text, text.sliding_window) - token * text.sliding_window


def _longest(subject: Subject) -> int | None:
    section = subject.document.get("text_config", subject.document)
    found = section.get("max_position_embeddings")
    return found if isinstance(found, int) and found > 0 else None


def _fit(subject: Subject, estimator: Estimator, wish: Wish, budget: int) -> Fit:
    media, config = _media(subject), subject.config
    _refuse_media(wish, config)
    context = DEFAULT_CONTEXT if wish.context is None else wish.context
    load = Load(
        context=context,
        images=wish.images,
        image_tokens=wish.image_tokens or media.picture or 0,
        frames=wish.frames,
        frame_tokens=media.frame or 0,
        sounds=_sounds(wish, media),
    )
    longest = max(_longest(subject) or LONGEST_CONTEXT, 1)
    if context > longest:
        raise UsageError(f"the model's longest context is {longest:,}", where="--context", fix="give less")
    if load.least_context > context:
        raise UsageError(
            f"the media alone take {load.least_context - 1:,} tokens of a context of {context:,}",
            where="--context",
            fix="give more, or ask for less",
        )
    return fit(estimator, load, budget, longest)


def _refuse_media(wish: Wish, config: ModelConfig) -> None:
    for option, asked, part in (
        ("--images", wish.images, config.vision),
        ("--frames", wish.frames, config.vision),
        ("--audio", wish.audio, config.audio),
    ):
        if asked and part is None:
            raise UsageError("the model does not take them", where=option, fix="leave the option out")


def _sounds(wish: Wish, media: Media) -> tuple[int, ...]:
    """The tokens of the sounds that so many seconds come to, each as long as one may be."""
    if not wish.audio or media.second is None or not media.seconds:
        return ()
    clips = -int(-wish.audio // media.seconds)
    return (max(1, round(wish.audio / clips * media.second)),) * clips
