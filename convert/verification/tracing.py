"""Run a prompt through a streamed network, so that two networks can be followed side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...loaders.cache import Cache
from ...loaders.config import ModelConfig
from ...loaders.encoding import encode
from ...loaders.media import Kind
from ...loaders.merge import Merged, merge
from ...loaders.model import Network, build, language_model
from ...loaders.prompt import Prompt
from ...loaders.streaming import After, Remembered, StreamedTable, Weights, open_streamed, stream, unchanged
from ...loaders.text import softcap
from ..plan import MODALITIES, kept_modalities
from ..source import Source
from .subject import Subject
from .weights import SourceWeights


@dataclass(frozen=True)
class Runner:
    """A streamed network and its config."""

    network: Network
    config: ModelConfig

    def features(self, prompt: Prompt) -> dict[Kind, mx.array]:
        """What the towers make of a prompt's media; see `encode`."""
        return encode(self.network, prompt)

    def merged(self, prompt: Prompt, features: Mapping[Kind, mx.array]) -> Merged:
        """A prompt with its features; see `merge`."""
        return merge(self.config, np.array(prompt.ids), dict(features))

    def layers(self, merged: Merged) -> Iterator[mx.array]:
        """What each decoder layer hands on, [1, L, hidden] each, for the whole prompt in one pass."""
        model = language_model(self.network).model
        return model.layer_outputs(merged.inputs(model, 0, len(merged.ids)))

    def last(self, merged: Merged, caches: Mapping[int, Cache], start: int, stop: int) -> mx.array:
        """Hidden states [1, n, hidden] after the final norm, for the tokens from `start` up to `stop`."""
        model = language_model(self.network).model
        return model(merged.inputs(model, start, stop), caches)

    def norm(self, hidden: mx.array) -> mx.array:
        """The final norm of what the last layer hands on."""
        normed: mx.array = language_model(self.network).model.norm(hidden)
        return normed

    def logits(self, hidden: mx.array) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Logits [L, n] of hidden states [1, L, hidden], piece by piece of the vocabulary."""
        text = language_model(self.network)
        head: StreamedTable = text["lm_head"] if self.config.text.untied else text.model["embed_tokens"]
        for start, piece in head.pieces(hidden[0]):
            yield start, np.array(softcap(piece, self.config.text.final_logit_softcapping))


def converted_runner(subject: Subject) -> Runner:
    """The converted checkpoint.

    Raises:
        G4ConvertError: it cannot be loaded.
    """
    model = open_streamed(subject.folder)
    return Runner(model.network, model.config)


def source_runners(source: Source, like: ModelConfig) -> tuple[Runner, Runner]:
    """The source, with the modalities that the converted checkpoint has: as it is, and rounded.

    The second one rounds what every layer hands on to bfloat16, as a runtime in bfloat16 does. Both read the same
    weights, so where calls of one layer follow each other, it is read once.

    Args:
        source: the Hugging Face checkpoint.
        like: the config of the converted checkpoint.
    """
    config = replace(
        source.config,
        vision=None if like.vision is None else source.config.vision,
        audio=None if like.audio is None else source.config.audio,
    )
    weights = Remembered(SourceWeights.of(source, kept_modalities(config, MODALITIES)))
    return make_runner(config, weights), make_runner(config, weights, to_bfloat16)


def source_runner(source: Source, like: ModelConfig) -> Runner:
    """The source as it is, see `source_runners`."""
    return source_runners(source, like)[0]


def make_runner(config: ModelConfig, weights: Weights, after: After = unchanged) -> Runner:
    """A network that reads its weights when it needs them; see `stream`."""
    network = build(config)
    stream(network, weights, after)
    return Runner(network, config)


def to_bfloat16(x: mx.array) -> mx.array:
    """Float32 with the precision of bfloat16."""
    return x.astype(mx.bfloat16).astype(mx.float32)
