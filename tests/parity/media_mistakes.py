"""Mistakes that a port of Gemma 4 could make with media, each to be switched on for one test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import generation, masks, text
from g4convert.loaders import merge as merging
from g4convert.loaders.config import TextConfig
from g4convert.loaders.merge import Merged
from g4convert.loaders.model import MultimodalModel
from g4convert.loaders.prompt import Prompt
from g4convert.tests.parity.media_prompts import has_audio_tower, has_ple, hears, opens_blocks
from numpy.typing import NDArray

Patch = pytest.MonkeyPatch
Array = NDArray[Any]
Features = Mapping[Any, mx.array]


def changed(patch: Patch, owner: object, name: str, change: Callable[[Any], Any]) -> None:
    """Let a function or method return something else."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **options: change(original(*args, **options)))


def with_prompt(patch: Patch, change: Callable[[Prompt], Prompt]) -> None:
    """Give the towers other media than the prompt's."""
    original = generation.encode
    patch.setattr(generation, "encode", lambda network, prompt: original(network, change(prompt)))


def with_merged(patch: Patch, change: Callable[[Merged, Array, Features], Merged]) -> None:
    """Change what becomes of ids and features."""
    original = generation.merge
    patch.setattr(
        generation, "merge", lambda config, ids, features: change(original(config, ids, features), ids, features)
    )


def with_block_mask(patch: Patch, change: Callable[[mx.array, Array, int, int, int], mx.array]) -> None:
    """Change the mask of a pass with blocks: what `block_mask` gives and what it takes."""
    original = masks.block_mask
    patch.setattr(text, "block_mask", lambda *args: change(original(*args), *args))


def drop_blocks(patch: Patch) -> None:
    changed(patch, merging, "vision_blocks", lambda _: None)


def open_blocks_on_full_layers(patch: Patch) -> None:
    """As Gemma 3 does."""
    original = text.Pass.mask

    def mask(step: text.Pass, layer: Any, queries: int, keys: int) -> Any:
        if layer.is_sliding or step.blocks is None:
            return original(step, layer, queries, keys)
        return masks.block_mask(step.blocks, queries, keys, window=keys)

    patch.setattr(text.Pass, "mask", mask)


def open_blocks_beyond_the_window(patch: Patch) -> None:
    with_block_mask(patch, lambda seen, blocks, queries, keys, _: seen | _in_one_block(blocks, queries, keys))


def _in_one_block(blocks: Array, queries: int, keys: int) -> mx.array:
    of_key = np.concatenate([np.full(keys - len(blocks), masks.NO_BLOCK), blocks])
    of_query = of_key[keys - queries :, None]
    return mx.array((of_query == of_key) & (of_query != masks.NO_BLOCK))


def end_blocks_on_both_sides(patch: Patch) -> None:
    """As if the window hid as much ahead as it hides behind."""

    def near(queries: int, keys: int, window: int) -> mx.array:
        return mx.arange(keys)[None] < mx.arange(keys - queries, keys)[:, None] + window

    with_block_mask(patch, lambda seen, _, queries, keys, window: seen & near(queries, keys, window))


def open_blocks_in_causal_models(patch: Patch) -> None:
    patch.setattr(TextConfig, "has_vision_blocks", True)


def join_blocks(patch: Patch) -> None:
    changed(patch, merging, "vision_blocks", lambda blocks: np.minimum(blocks, 0))


def end_passes_inside_blocks(patch: Patch) -> None:
    patch.setattr(Merged, "_block_end", lambda _, stop: stop)


def scale_features(patch: Patch) -> None:
    """As embeddings are."""

    def scaled(found: Features) -> Features:
        return {kind: features * features.shape[-1] ** 0.5 for kind, features in found.items()}

    changed(patch, generation, "encode", scaled)


def shift_features(patch: Patch) -> None:
    changed(patch, generation, "encode", lambda found: {kind: mx.roll(one, 1, axis=0) for kind, one in found.items()})


def order_features_by_kind(patch: Patch) -> None:
    """Pictures, then clips, then sounds, whatever the prompt says."""
    with_merged(patch, lambda merged, _, features: replace(merged, features=mx.concatenate(list(features.values()))))


def take_placeholders_from_the_ple_table(patch: Patch) -> None:
    with_merged(patch, lambda merged, ids, _: replace(merged, ids=ids))


def begin_each_pass_with_the_first_feature(patch: Patch) -> None:
    original = Merged.inputs

    def inputs(merged: Merged, network: Any, start: int, stop: int) -> Any:
        before = int(np.searchsorted(merged.places, start))
        assert merged.features is not None
        return original(replace(merged, features=mx.roll(merged.features, before, axis=0)), network, start, stop)

    patch.setattr(Merged, "inputs", inputs)


def swap_media(patch: Patch) -> None:
    """Those of a kind come in the reverse order."""

    def swapped(prompt: Prompt) -> Prompt:
        return Prompt(prompt.ids, prompt.images[::-1], prompt.sounds[::-1], prompt.videos[::-1])

    with_prompt(patch, swapped)


def reverse_frames(patch: Patch) -> None:
    def reverse(prompt: Prompt) -> Prompt:
        return replace(prompt, videos=tuple(replace(clip, patches=clip.patches[::-1]) for clip in prompt.videos))

    with_prompt(patch, reverse)


def take_rows_for_columns(patch: Patch) -> None:
    def turn(prompt: Prompt) -> Prompt:
        return replace(prompt, images=tuple(replace(one, positions=one.positions[:, ::-1]) for one in prompt.images))

    with_prompt(patch, turn)


def hear_the_padding(patch: Patch) -> None:
    """The tower takes all for sound, and only then is what comes of the padding cut off."""
    original = MultimodalModel.hear

    def hear(network: MultimodalModel, features: mx.array, mask: mx.array) -> list[mx.array]:
        lengths = [len(tokens) for tokens in original(network, features, mask)]
        heard = original(network, features, mx.ones_like(mask))
        return [tokens[:length] for tokens, length in zip(heard, lengths, strict=True)]

    patch.setattr(MultimodalModel, "hear", hear)


def any_kind(kind: str) -> bool:
    return True


def is_causal(kind: str) -> bool:
    return not opens_blocks(kind)


@dataclass(frozen=True)
class Mistake:
    """Something wrong, and where it shows.

    Attributes:
        make: switches it on.
        case: the prompt that shows it.
        kinds: whether a kind can have it.
        chunk: tokens to a pass; None for all.
    """

    make: Callable[[Patch], None]
    case: str
    kinds: Callable[[str], bool] = any_kind
    chunk: int | None = None


BLOCKS = {
    "blocks dropped": Mistake(drop_blocks, "one picture", opens_blocks),
    "a clip's blocks dropped": Mistake(drop_blocks, "one clip", opens_blocks),
    "blocks on full layers": Mistake(open_blocks_on_full_layers, "one picture", opens_blocks),
    "blocks beyond the window": Mistake(
        open_blocks_beyond_the_window, "a picture larger than the window", opens_blocks
    ),
    "blocks that end ahead": Mistake(end_blocks_on_both_sides, "a picture larger than the window", opens_blocks),
    "two pictures in one block": Mistake(join_blocks, "two pictures side by side", opens_blocks),
    "frames in one block": Mistake(join_blocks, "one clip", opens_blocks),
    "a pass that ends in a block": Mistake(end_passes_inside_blocks, "two pictures", opens_blocks, chunk=7),
    "blocks in a causal model": Mistake(open_blocks_in_causal_models, "one picture", is_causal),
}
FEATURES = {
    "features scaled": Mistake(scale_features, "one picture"),
    "a sound's features scaled": Mistake(scale_features, "one sound", hears),
    "features one place off": Mistake(shift_features, "one picture"),
    "features ordered by kind": Mistake(order_features_by_kind, "clip and picture"),
    "each pass with the first feature": Mistake(begin_each_pass_with_the_first_feature, "two pictures", chunk=7),
    "the placeholder's row of the PLE table": Mistake(take_placeholders_from_the_ple_table, "one picture", has_ple),
    "a sound's row of the PLE table": Mistake(take_placeholders_from_the_ple_table, "one sound", has_ple),
}
MEDIA = {
    "pictures swapped": Mistake(swap_media, "two pictures"),
    "clips swapped": Mistake(swap_media, "two clips"),
    "sounds swapped": Mistake(swap_media, "two sounds, the shorter first", hears),
    "frames reversed": Mistake(reverse_frames, "one clip"),
    "rows for columns": Mistake(take_rows_for_columns, "two pictures"),
    "padding heard": Mistake(hear_the_padding, "two sounds, the shorter first", has_audio_tower),
}
MISTAKES = BLOCKS | FEATURES | MEDIA
