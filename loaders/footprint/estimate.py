"""How many bytes a prompt takes at the worst moment, and of what they consist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..config import AudioConfig, ModelConfig, UnifiedAudioConfig, UnifiedVisionConfig, VisionConfig
from ..encoding import FRAMES_AT_ONCE, PATCHES_AT_ONCE
from ..generation import PREFILL_CHUNK
from .operations import FLOAT32, Operations
from .runtime import Runtime
from .tape import Tape
from .text import Span, TextTape
from .towers import AudioTape, VisionTape, patch_tape
from .weights import PLE_TABLE, Weights, resident_bytes

FRAMES_PER_TOKEN = 4
# Tokens that stand around a medium, and the `mm:ss` with its spaces before a frame.
FRAMING, TIME_LABEL = 2, 7
MEL_BINS = 128
# Passes at the end of a prompt, one of which is the worst: the past grows, and only the last may be short.
LOOKED_AT = 2
TOWERS = {
    "vision": ("vision_tower.", "vision_embedder.", "embed_vision"),
    "audio": ("audio_tower.", "embed_audio"),
}


@dataclass(frozen=True)
class Load:
    """What is asked of a model.

    Attributes:
        context: tokens of prompt and answer, media included.
        images: pictures.
        image_tokens: of a picture.
        frames: of clips.
        frame_tokens: of a frame.
        sounds: tokens of each sound.
    """

    context: int
    images: int = 0
    image_tokens: int = 280
    frames: int = 0
    frame_tokens: int = 70
    sounds: tuple[int, ...] = ()

    @property
    def least_context(self) -> int:
        """Tokens that the media take with what frames them, and one of a question."""
        frames = self.frames * self.tokens_of_frame
        return 1 + self.images * (self.image_tokens + FRAMING) + frames + sum(count + FRAMING for count in self.sounds)

    @property
    def tokens_of_frame(self) -> int:
        """Tokens that a frame takes, with the time before it."""
        return self.frame_tokens + FRAMING + TIME_LABEL

    def uses(self, kind: str) -> bool:
        """Whether a tower has anything to do."""
        return bool(self.sounds) if kind == "audio" else bool(self.images or self.frames)

    @property
    def media_tokens(self) -> int:
        """Places in the prompt that media take, without the tokens that frame them."""
        return self.images * self.image_tokens + self.frames * self.frame_tokens + sum(self.sounds)


@dataclass(frozen=True)
class Moment:
    """A stage of the work, at its worst moment.

    Attributes:
        name: of the stage.
        weights: bytes of the weights that have been read.
        cache: bytes of keys and values, with what is kept in reserve.
        features: bytes of the features of media.
        activations: bytes of all else.
    """

    name: str
    weights: int
    cache: int
    features: int
    activations: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.cache + self.features + self.activations


@dataclass(frozen=True)
class Estimate:
    """The stages of a prompt, in order."""

    moments: tuple[Moment, ...]

    @property
    def worst(self) -> Moment:
        """The stage with the most bytes."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        return self.worst.total


@dataclass(frozen=True)
class Estimator:
    """The memory of one model on one runtime."""

    config: ModelConfig
    weights: Weights
    runtime: Runtime

    def estimate(self, load: Load) -> Estimate:
        """What a prompt takes, stage by stage."""
        return Estimate((self._loading(), *self._encoding(load), *self._generating(load)))

    @cached_property
    def text_weights(self) -> int:
        """Bytes of the language model's weights once they are read."""
        marks = tuple(mark for marks in TOWERS.values() for mark in marks)
        return resident_bytes({k: w for k, w in self.weights.items() if not k.startswith(marks)}, self.runtime)

    def tower_weights(self, kind: str) -> int:
        """Bytes of a tower's weights once they are read, which is when it is first used."""
        return resident_bytes({k: w for k, w in self.weights.items() if k.startswith(TOWERS[kind])}, self.runtime)

    def _operations(self) -> Operations:
        return Operations(Tape(self.runtime.queue), self.runtime)

    def _loading(self) -> Moment:
        """Weights of another dtype are there twice until they have been cast."""
        if not self.runtime.late_towers:
            return Moment("loading", self._resident(), 0, 0, 0)
        on = self._operations()
        marks = tuple(mark for marks in TOWERS.values() for mark in marks)
        names = [name for name in self.weights if name != PLE_TABLE and not name.startswith(marks)]
        read = [on.read(self.weights[name]) for name in names]
        left = sum(buffer.nbytes for buffer in read)
        return Moment("loading", self.text_weights, 0, 0, max(0, on.tape.peak(*read) - left))

    def _encoding(self, load: Load) -> Iterator[Moment]:
        read, features = self._resident(), 0
        for name, count, tokens in _sights(load):
            read = self._resident("vision")
            work = self._pictures(count, tokens) - self._late("vision")
            yield Moment(name, read, 0, features, work)
            features += count * tokens * self.config.text.hidden_size * FLOAT32
        if load.sounds:
            kinds = ("vision", "audio") if features else ("audio",)
            yield Moment("sounds", self._resident(*kinds), 0, features, self._sounds(load.sounds) - self._late("audio"))

    def _resident(self, *used: str) -> int:
        """Bytes of the weights that have been read once these towers have been used."""
        kinds = used if self.runtime.late_towers else tuple(TOWERS)
        return self.text_weights + sum(map(self.tower_weights, kinds))

    def _late(self, kind: str) -> int:
        """Bytes of a tower's weights that are read while it works."""
        return self.tower_weights(kind) if self.runtime.late_towers else 0

    def _pictures(self, count: int, tokens: int) -> int:
        """Bytes of a batch, the tower's weights included."""
        on, vision = self._operations(), self.config.vision
        if isinstance(vision, UnifiedVisionConfig):
            at_once = min(count, max(1, PATCHES_AT_ONCE // tokens))
            return on.tape.peak(patch_tape(vision, self.weights, on, at_once, tokens))
        assert isinstance(vision, VisionConfig)
        patches = tokens * vision.pooling_kernel_size**2
        at_once = min(count, max(1, PATCHES_AT_ONCE // patches))
        return on.tape.peak(VisionTape(vision, self.weights, on, at_once, patches).run())

    def _sounds(self, sounds: tuple[int, ...]) -> int:
        """Bytes of a batch, the tower's weights included."""
        on, audio = self._operations(), self.config.audio
        if isinstance(audio, AudioConfig):
            frames = FRAMES_PER_TOKEN * max(sounds)
            at_once = min(len(sounds), max(1, FRAMES_AT_ONCE // frames))
            return on.tape.peak(AudioTape(audio, self.weights, on, at_once, frames, MEL_BINS).run())
        assert isinstance(audio, UnifiedAudioConfig)
        samples = len(sounds) * max(sounds) * audio.audio_embed_dim
        return 2 * samples * FLOAT32 + self._late("audio")

    def _generating(self, load: Load) -> Iterator[Moment]:
        text, used = self.config.text, [kind for kind in TOWERS if load.uses(kind)]
        features = load.media_tokens * text.hidden_size * FLOAT32
        passes, moments = TextTape(text, self.weights), list[Moment]()
        everything = list(spans(load, PREFILL_CHUNK))
        for span in everything[:-LOOKED_AT]:
            passes.skip(span)
        for span in everything[-LOOKED_AT:]:
            on = self._operations()
            results = passes.run(on, span)
            cache = passes.cache_bytes(self.runtime.element)
            activations = on.tape.peak(*results) - cache + passes.masks(span)
            moments.append(Moment("prefill", self._resident(*used), cache, features, activations))
        yield max(moments, key=lambda moment: moment.total)


def _sights(load: Load) -> Iterator[tuple[str, int, int]]:
    """What goes through the vision tower: its name, how many there are, and the tokens of each."""
    if load.images:
        yield "pictures", load.images, load.image_tokens
    if load.frames:
        yield "frames", load.frames, load.frame_tokens


def spans(load: Load, chunk: int) -> Iterator[Span]:
    """The passes of a prompt."""
    start = 0
    while start < load.context:
        length = min(chunk, load.context - start)
        yield Span(start, length, start + length == load.context, min(length, max(0, load.media_tokens - start)))
        start += length
