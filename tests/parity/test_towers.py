"""The towers and their embedders against transformers 5.23 in float32, stage by stage and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from g4convert.loaders import audio, vision
from g4convert.loaders.loading import load
from g4convert.loaders.model import MultimodalModel
from g4convert.loaders.module import rows
from g4convert.tests.loaders.tower_inputs import HEARING, SEEING, clips, pictures
from g4convert.tests.parity import reference
from mlx.utils import tree_flatten

pytestmark = pytest.mark.parity

Patch = pytest.MonkeyPatch

# Columns and rows of patches; the last one is as wide as the samples' position tables allow.
SIZES = {
    "one soft token": [(3, 3)],
    "280 soft tokens": [(60, 42)],
    "wide and tall": [(15, 3), (3, 15)],
    "three sizes": [(9, 6), (3, 12), (6, 6)],
    "much padding": [(3, 3), (30, 21)],
    "frames of a video": [(9, 6)] * 5,
    "255 columns": [(255, 3)],
}
# Mel frames; four make a token, twelve tokens a chunk.
LENGTHS = [1, 2, 3, 4, 5, 7, 29, 44, 45, 47, 48, 49, 52, 53, 93, 96, 97, 100, 101, 149, 193, 211, 400]
BATCHES = [(101, 47), (47, 101), (48, 49), (96, 97, 1), (211, 5), (193, 193), (53, 400, 29)]


@dataclass(frozen=True)
class Pair:
    """One sample, loaded twice."""

    ours: MultimodalModel
    theirs: torch.nn.Module


@pytest.fixture(scope="module")
def load_pair(converted: Callable[..., Path]) -> Callable[[str], Pair]:
    loaded: dict[str, Pair] = {}

    def get(kind: str) -> Pair:
        if kind not in loaded:
            network = load(converted(kind, quantize=False, dtype="float32")).network
            loaded[kind] = Pair(network, reference.reference_model(kind).model)
        return loaded[kind]

    return get


@pytest.fixture(scope="module", params=SEEING)
def seeing(request: pytest.FixtureRequest, load_pair: Callable[[str], Pair]) -> Pair:
    return load_pair(request.param)


@pytest.fixture(scope="module", params=HEARING)
def hearing(request: pytest.FixtureRequest, load_pair: Callable[[str], Pair]) -> Pair:
    return load_pair(request.param)


def nmse(ours: mx.array, theirs: torch.Tensor) -> float:
    one, other = np.array(ours).astype(np.float64), theirs.detach().numpy().astype(np.float64)
    assert one.shape == other.shape
    return float(((one - other) ** 2).sum() / (other**2).sum())


def assert_same(ours: mx.array, theirs: torch.Tensor) -> None:
    assert nmse(ours, theirs) <= reference.LARGEST_NMSE


def see(model: torch.nn.Module, patches: np.ndarray, positions: np.ndarray) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The reference's soft tokens, all in one, and its features of each picture."""
    with torch.no_grad():
        out = model.get_image_features(torch.from_numpy(patches), torch.from_numpy(positions).long())
    return out.last_hidden_state, list(out.pooler_output)


def hear(tower: torch.nn.Module, features: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    """The reference's soft tokens, padding included."""
    with torch.no_grad():
        return tower(torch.from_numpy(features), torch.from_numpy(mask)).last_hidden_state


def of_each_clip(tokens: torch.Tensor, lengths: tuple[int, ...]) -> list[torch.Tensor]:
    return [one[: -(-length // 4)] for one, length in zip(tokens, lengths, strict=True)]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_pictures(seeing: Pair, sizes: list[tuple[int, int]]) -> None:
    patches, positions = pictures(sizes, seed=len(sizes))
    expected_tokens, expected_features = see(seeing.theirs, patches, positions)

    tokens = seeing.ours.vision_tower(mx.array(patches), mx.array(positions))

    assert [len(one) for one in tokens] == [width * height // 9 for width, height in sizes]
    assert_same(mx.concatenate(tokens), expected_tokens)
    for one, expected in zip(tokens, expected_features, strict=True):
        assert_same(seeing.ours.embed_vision(one), expected)


def test_a_picture_does_not_depend_on_the_others(seeing: Pair) -> None:
    sizes = SIZES["three sizes"]
    patches, positions = pictures(sizes)

    together = seeing.ours.vision_tower(mx.array(patches), mx.array(positions))

    for index, (width, height) in enumerate(sizes):
        alone = patches[index : index + 1, : width * height], positions[index : index + 1, : width * height]
        assert_same(together[index], see(seeing.theirs, *alone)[0])


@pytest.mark.parametrize("length", LENGTHS)
def test_clips(hearing: Pair, length: int) -> None:
    features, mask = clips([length], seed=length)
    expected = hear(hearing.theirs.audio_tower, features, mask)

    tokens, token_mask = hearing.ours.audio_tower(mx.array(features), mx.array(mask))

    assert tokens.shape[1] == -(-length // 4)
    assert token_mask.all()
    assert_same(tokens, expected)
    assert_same(hearing.ours.embed_audio(tokens), hearing.theirs.embed_audio(expected))


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_clips_of_different_lengths(hearing: Pair, lengths: tuple[int, ...]) -> None:
    features, mask = clips(lengths)
    expected = of_each_clip(hear(hearing.theirs.audio_tower, features, mask), lengths)

    found = rows(*hearing.ours.audio_tower(mx.array(features), mx.array(mask)))

    for index, length in enumerate(lengths):
        alone = hear(hearing.theirs.audio_tower, features[index : index + 1, :length], mask[index : index + 1, :length])
        assert_same(found[index], expected[index])
        assert_same(found[index], alone[0])


@contextmanager
def recorded(patch: Patch, stages: list[tuple[object, str]]) -> Iterator[list[mx.array]]:
    """What these functions return while the context is open, in order."""
    outputs: list[mx.array] = []

    def wrap(function: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object) -> object:
            output = function(*args)
            outputs.append(output[0] if isinstance(output, tuple) else output)
            return output

        return wrapped

    with patch.context() as context:
        for owner, name in stages:
            context.setattr(owner, name, wrap(getattr(owner, name)))
        yield outputs


@contextmanager
def hooked(modules: list[torch.nn.Module]) -> Iterator[list[torch.Tensor]]:
    """What these modules return while the context is open, in order."""
    outputs: list[torch.Tensor] = []

    def keep(_module: object, _args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output).clone())

    handles = [module.register_forward_hook(keep) for module in modules]
    yield outputs
    for handle in handles:
        handle.remove()


def test_every_stage_of_the_vision_tower(seeing: Pair, monkeypatch: Patch) -> None:
    patches, positions = pictures(SIZES["three sizes"])
    tower = seeing.theirs.vision_tower
    modules = [tower.patch_embedder, *tower.encoder.layers, tower.pooler, seeing.theirs.embed_vision]
    with hooked(modules) as expected:
        see(seeing.theirs, patches, positions)

    stages = [(vision.PatchEmbedder, "__call__"), (vision.VisionLayer, "__call__"), (vision, "pool")]
    with recorded(monkeypatch, stages) as found:
        tokens = seeing.ours.vision_tower(mx.array(patches), mx.array(positions))
    found.append(seeing.ours.embed_vision(mx.concatenate(tokens)))

    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_every_stage_of_the_audio_tower(hearing: Pair, monkeypatch: Patch) -> None:
    features, mask = clips((101, 47))
    tower = hearing.theirs.audio_tower
    with hooked([tower.subsample_conv_projection, *tower.layers]) as expected:
        last = hear(tower, features, mask)

    stages = [(audio.SubsampleProjection, "__call__"), (audio.AudioLayer, "__call__")]
    with recorded(monkeypatch, stages) as found:
        tokens, _ = hearing.ours.audio_tower(mx.array(features), mx.array(mask))

    for one, other in zip([*found, tokens], [*expected, last], strict=True):
        assert_same(one, other)


def of_class(tower: torch.nn.Module, ending: str) -> list[torch.nn.Module]:
    """The reference's modules whose class is called so, in the order of their names."""
    return [module for module in tower.modules() if type(module).__name__.endswith(ending)]


@pytest.mark.parametrize("part", [vision.VisionAttention, vision.VisionMLP])
def test_every_part_of_a_vision_layer(seeing: Pair, monkeypatch: Patch, part: type) -> None:
    patches, positions = pictures(SIZES["three sizes"])
    with hooked(of_class(seeing.theirs.vision_tower, part.__name__)) as expected:
        see(seeing.theirs, patches, positions)

    with recorded(monkeypatch, [(part, "__call__")]) as found:
        seeing.ours.vision_tower(mx.array(patches), mx.array(positions))

    assert len(expected) == seeing.theirs.vision_tower.config.num_hidden_layers
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("part", [audio.AudioFeedForward, audio.AudioAttention, audio.LightConv1d])
def test_every_part_of_a_conformer_layer(hearing: Pair, monkeypatch: Patch, part: type) -> None:
    features, mask = clips((101, 47))
    with hooked(of_class(hearing.theirs.audio_tower, part.__name__)) as expected:
        hear(hearing.theirs.audio_tower, features, mask)

    with recorded(monkeypatch, [(part, "__call__")]) as found:
        mx.eval(hearing.ours.audio_tower(mx.array(features), mx.array(mask)))

    assert len(expected) >= hearing.theirs.audio_tower.config.num_hidden_layers
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


# Less than these, and almost every feature is at a bound: rounding then decides signs.
@pytest.mark.parametrize("limit", [2.0, 4.0])
def test_a_gradient_clipping_that_bites(hearing: Pair, monkeypatch: Patch, limit: float) -> None:
    features, mask = clips((101,))
    plain = hear(hearing.theirs.audio_tower, features, mask)
    for module in hearing.theirs.audio_tower.modules():
        if hasattr(module, "gradient_clipping"):
            monkeypatch.setattr(module, "gradient_clipping", limit)
    for _, module in hearing.ours.audio_tower.named_modules():
        if "limit" in vars(module):
            monkeypatch.setattr(module, "limit", limit)
    expected = hear(hearing.theirs.audio_tower, features, mask)

    tokens, _ = hearing.ours.audio_tower(mx.array(features), mx.array(mask))

    assert_same(tokens, expected)
    assert float(((expected - plain) ** 2).sum() / (plain**2).sum()) > 1e-6


@pytest.mark.parametrize("changes", [{"attention_context_right": 5}, {"attention_chunk_size": 7}], ids=str)
def test_another_geometry(hearing: Pair, changes: dict[str, int]) -> None:
    features, mask = clips((101, 47))
    theirs = hearing.theirs.audio_tower
    config = type(theirs.config).from_dict({**theirs.config.to_dict(), **changes})
    other = type(theirs)(config).eval()
    other.load_state_dict(theirs.state_dict())
    tower = audio.AudioTower(replace(hearing.ours.audio_tower.config, **changes))
    tower.load_weights(tree_flatten(hearing.ours.audio_tower.parameters()))

    tokens, _ = tower(mx.array(features), mx.array(mask))

    assert_same(tokens, hear(other, features, mask))
