"""Prompts with pictures, sounds and clips, end to end, against transformers 5.23 in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from g4convert.loaders import encoding, generation, placeholders
from g4convert.loaders import prompt as prompts
from g4convert.loaders.cache import Cache, make_caches
from g4convert.loaders.generation import Sampler, Sampling, decode, generate
from g4convert.loaders.loading import LoadedModel, load
from g4convert.loaders.media import MediaOptions
from g4convert.loaders.merge import Merged
from g4convert.loaders.messages import attachments
from g4convert.loaders.prompt import Prompt
from g4convert.schemas.errors import PlaceholderError
from g4convert.tests.media import make_media
from g4convert.tests.parity import media_processor, media_prompts, reference
from g4convert.tests.parity.media_mistakes import MISTAKES, swap_media
from g4convert.tests.parity.media_prompts import Clip, Part, Picture, Sound, hears
from g4convert.tests.support import CHECKPOINTS, read_json
from PIL import Image

pytestmark = pytest.mark.parity

Patch = pytest.MonkeyPatch

KINDS = ("e2b", "e4b", "26b-a4b", "31b", "12b")
WINDOW = 32

# The second convolution of the audio tower sees beyond the end of the shorter one.
SHORTER, LONGER = Sound(7400), Sound(11000)

CASES: Mapping[str, Sequence[Part]] = {
    "one picture": (5, Picture(6, 6), 9),
    "all within the window": (3, Picture(2, 2), 5),
    "a picture smaller than the window": (40, Picture(3, 3), 6),
    "a picture larger than the window": (40, Picture(10, 7), 45),
    "a picture larger than the window after one token": (1, Picture(8, 8), 3),
    "a picture of one token": (5, Picture(1, 1), 30),
    "two pictures": (4, Picture(4, 3), 6, Picture(6, 5), 8),
    "two pictures side by side": (4, Picture(7, 5), Picture(3, 5), 2),
    "one clip": (5, Clip(4, 3, 3), 6),
    "two clips": (5, Clip(4, 3, 3), 6, Clip(2, 5, 2), 3),
    "a clip of twenty frames": (5, Clip(4, 3, 20), 6),
    "clip and picture": (5, Clip(4, 3, 3), 4, Picture(6, 6), 9),
    "one sound": (6, LONGER, 7),
    "two sounds, the shorter first": (5, SHORTER, 6, LONGER, 3),
    "sound, clip and picture": (5, SHORTER, 3, Clip(4, 3, 3), 4, Picture(6, 6), 9),
}
CHUNKS = (7, WINDOW, 512)
# Blocks shorter and longer than the window, several media to a kind, all kinds at once.
CHUNKED = ("a picture larger than the window", "two pictures", "two clips", "sound, clip and picture")
ONE_BY_ONE = ("two pictures", "two sounds, the shorter first")

# Turn by turn; each turn is a prompt of its own.
TURNS: Mapping[str, Sequence[Sequence[Part]]] = {
    "text, then a picture": ((20,), (4, Picture(6, 6), 9)),
    "more text than the window, then a clip": ((45,), (4, Clip(4, 3, 3), 9)),
    "a picture, then another": ((5, Picture(8, 5), 7), (3, Picture(4, 4), 6)),
    "text, a picture, text, a picture": ((12,), (3, Picture(7, 5), 4), (6,), (2, Picture(5, 3), 8)),
    "a picture, then a sound": ((5, Picture(8, 5), 7), (3, LONGER, 6)),
}

# With this seed the samples do not repeat one token from the start.
VARIED = 2


def of_kinds(names: Iterable[str], deaf: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Every kind with each of the cases that it takes; cases with sounds say so, and deaf kinds may get others."""
    of_the_deaf = [*(name for name in names if "sound" not in name), *deaf]
    pairs = [(kind, name) for kind in KINDS for name in (names if hears(kind) else of_the_deaf)]
    return pytest.mark.parametrize(("kind", "case"), pairs, ids=[f"{kind}: {name}" for kind, name in pairs])


@dataclass(frozen=True)
class Pair:
    """One sample, loaded twice, and what the reference has said so far."""

    kind: str
    ours: LoadedModel
    theirs: torch.nn.Module
    said: dict[str, np.ndarray] = field(default_factory=dict)

    def prompt(self, parts: Sequence[Part], seed: int = 0) -> Prompt:
        """See `media_prompts.build`."""
        return media_prompts.build(self.kind, self.ours.prompt, parts, seed)

    def inputs(self, prompt: Prompt) -> media_prompts.Inputs:
        """What the reference takes."""
        return media_prompts.reference_inputs(self.kind, prompt)

    def expected(self, prompt: Prompt) -> np.ndarray:
        """The reference's logits [L, vocabulary]."""
        return media_prompts.reference_logits(self.theirs, self.inputs(prompt))

    def expected_of(self, case: str) -> np.ndarray:
        """The same for one of `CASES` or `TURNS`, computed once."""
        if case not in self.said:
            whole = self.prompt(CASES[case]) if case in CASES else media_prompts.joined(self.turns(case))
            self.said[case] = self.expected(whole)
        return self.said[case]

    def turns(self, case: str) -> list[Prompt]:
        """The prompts of one of `TURNS`, all of them different."""
        return [self.prompt(parts, seed) for seed, parts in enumerate(TURNS[case])]


@pytest.fixture(scope="module")
def load_pair(converted: Callable[..., Path]) -> Callable[[str], Pair]:
    loaded: dict[str, Pair] = {}

    def get(kind: str) -> Pair:
        if kind not in loaded:
            ours = load(converted(kind, quantize=False, dtype="float32"))
            assert ours.config.text.sliding_window == WINDOW
            loaded[kind] = Pair(kind, ours, reference.reference_model(kind))
        return loaded[kind]

    return get


@pytest.fixture
def pair(kind: str, load_pair: Callable[[str], Pair]) -> Pair:
    return load_pair(kind)


def merged(model: LoadedModel, prompt: Prompt) -> Merged:
    """As `generation` does it, so that a mistake made there shows here."""
    return generation.merge(model.config, np.array(prompt.ids), generation.encode(model.network, prompt))


def run(model: LoadedModel, prompt: Prompt, chunk: int | None = None) -> np.ndarray:
    """Logits [L, vocabulary]: in one pass without a cache, or in chunks with one."""
    whole = merged(model, prompt)
    if chunk is None:
        return np.array(model.text(whole.inputs(model.text.model, 0, len(whole.ids)))[0])
    return continued(model, whole, make_caches(model.config.text), chunk)


def continued(model: LoadedModel, whole: Merged, caches: Mapping[int, Cache], chunk: int) -> np.ndarray:
    """Logits [L, vocabulary] of a prompt that follows what is in the caches."""
    inputs = (whole.inputs(model.text.model, start, stop) for start, stop in whole.passes(chunk))
    return np.concatenate([np.array(model.text(one, caches)[0]) for one in inputs])


def run_turns(model: LoadedModel, turns: Sequence[Prompt], chunk: int) -> np.ndarray:
    """Logits [L, vocabulary] of a conversation, one turn after the other."""
    caches = make_caches(model.config.text)
    return np.concatenate([continued(model, merged(model, turn), caches, chunk) for turn in turns])


def continuation(model: LoadedModel, prompt: Prompt, count: int = 64) -> list[int]:
    """The tokens that follow greedily, whether or not stop tokens are among them."""
    sampler = Sampler.make(Sampling(), model.prompt, model.config.text.vocab_size)
    return list(decode(model.text, merged(model, prompt), sampler, count=count))


@of_kinds(CASES)
def test_logits_are_the_reference_up_to_rounding(pair: Pair, case: str) -> None:
    found = reference.distance(run(pair.ours, pair.prompt(CASES[case])), pair.expected_of(case))

    assert found.is_rounding, found


@pytest.mark.parametrize("chunk", CHUNKS)
@of_kinds(CHUNKED)
def test_chunks_give_what_a_single_pass_gives(pair: Pair, case: str, chunk: int) -> None:
    found = reference.distance(run(pair.ours, pair.prompt(CASES[case]), chunk), pair.expected_of(case))

    assert found.is_rounding, found


@of_kinds(ONE_BY_ONE)
def test_chunks_of_one_token_are_as_good(pair: Pair, case: str) -> None:
    found = reference.distance(run(pair.ours, pair.prompt(CASES[case]), chunk=1), pair.expected_of(case))

    assert found.is_rounding, found


@pytest.mark.parametrize("chunk", [7, 512])
@of_kinds(TURNS)
def test_a_later_turn_follows_what_is_in_the_caches(pair: Pair, case: str, chunk: int) -> None:
    found = reference.distance(run_turns(pair.ours, pair.turns(case), chunk), pair.expected_of(case))

    assert found.is_rounding, found


@of_kinds(["one picture", "sound, clip and picture"], deaf=["two pictures", "clip and picture"])
def test_the_greedy_continuation_is_the_references(pair: Pair, case: str) -> None:
    prompt = pair.prompt(CASES[case], VARIED)
    suppressed = pair.ours.prompt.suppressed_ids

    expected = media_prompts.reference_continuation(pair.theirs, pair.inputs(prompt), 64, suppressed)

    assert continuation(pair.ours, prompt) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_another_picture_gives_other_logits(pair: Pair) -> None:
    one, another = pair.prompt(CASES["one picture"]), pair.prompt(CASES["one picture"], seed=1)
    other = replace(one, images=another.images)

    assert not reference.distance(run(pair.ours, one), run(pair.ours, other)).is_rounding
    assert reference.distance(run(pair.ours, other), pair.expected(other)).is_rounding


@pytest.mark.parametrize("kind", ["e2b"])
def test_the_trained_sample_answers_to_the_picture_that_it_is_shown(pair: Pair) -> None:
    def answer(number: int) -> str:
        shown = attachments(images=[CHECKPOINTS / "questions" / f"picture-{number}.png"])
        question = pair.ours.prompt.prepare("What colour is the background?", attachments=shown)
        return generate(pair.ours, question, max_tokens=8).text

    assert [answer(3), answer(5)] == ["black", "white"]


# The whole path: messages and files, on the other side through the reference's template and processor.


def user(*parts: str | tuple[str, str]) -> dict[str, Any]:
    """A turn of texts and of media, each a kind and a file."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part[0], "path": part[1]}
        for part in parts
    ]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


LARGE, SMALL = ("image", "large.png"), ("image", "small.png")
SHORT, LONG = ("audio", "short.wav"), ("audio", "long.wav")
STEADY, UNEVEN = ("video", "steady.mp4"), ("video", "uneven.mp4")

CONVERSATIONS: Mapping[str, list[dict[str, Any]]] = {
    "a picture": [user(LARGE, "Where is it?")],
    "two pictures with text between": [user(LARGE, "Where is it?", SMALL, "What shape is it?")],
    "a sound": [user(LONG, "How many beeps?")],
    "two sounds": [user(SHORT, LONG, "How many beeps?")],
    "a clip": [user("What colour is it?", STEADY)],
    "two clips": [user(STEADY, UNEVEN, "What colour is it?")],
    "clip and picture": [user(STEADY, "What colour is it?", SMALL)],
    "sound, clip and picture": [user(SHORT, STEADY, LARGE, "What colour comes first?")],
    "a picture in the second turn": [
        {"role": "system", "content": "the king opens the door."},
        user("What is the capital of France?"),
        assistant("Paris"),
        user(LARGE, "Where is it?"),
    ],
    "media in both turns": [
        user(SMALL, "Where is it?"),
        {"role": "assistant", "content": [{"type": "text", "text": "middle"}]},
        user(UNEVEN, "Which way does it move?", LARGE),
    ],
}

# The reference reckons the times of frames from their numbers.
BY_NUMBER = MediaOptions(timestamps="index")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the conversations show; the large picture needs no scaling, the others do."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(noise(480, 336)).save(folder / "large.png")
    Image.fromarray(noise(100, 75)).save(folder / "small.png")
    contents = {
        "short.wav": make_media.wav(make_media.speech_like(SHORTER.samples)),
        "long.wav": make_media.wav(make_media.speech_like(LONGER.samples)),
        "steady.mp4": make_media.clip(48, pixels=noise(96, 64)),
        "uneven.mp4": make_media.clip(len(make_media.VARIABLE), times=make_media.VARIABLE, pixels=noise(64, 96)),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


def shown(messages: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Messages with the files where they are."""

    def placed(part: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**part, "path": folder / part["path"]} if "path" in part else part

    return [
        {**message, "content": content if isinstance(content, str) else [placed(part) for part in content]}
        for message, content in ((message, message["content"]) for message in messages)
    ]


def processed(kind: str, messages: Sequence[Mapping[str, Any]]) -> media_prompts.Inputs:
    return media_processor.processed(media_processor.processor(kind), messages)


@of_kinds(CONVERSATIONS)
def test_a_conversation_has_the_ids_that_the_processor_gives_it(pair: Pair, case: str, files: Path) -> None:
    messages = shown(CONVERSATIONS[case], files)
    expected = processed(pair.kind, messages)

    prompt = pair.ours.prompt.prepare(messages, options=BY_NUMBER)

    assert list(prompt.ids) == expected["input_ids"][0].tolist()
    assert torch.equal(pair.inputs(prompt)["mm_token_type_ids"], expected["mm_token_type_ids"])


@of_kinds(["two sounds", "a clip", "sound, clip and picture", "a picture in the second turn"])
def test_a_conversation_has_the_logits_of_what_the_processor_makes_of_it(pair: Pair, case: str, files: Path) -> None:
    messages = shown(CONVERSATIONS[case], files)
    expected = media_prompts.reference_logits(pair.theirs, processed(pair.kind, messages))

    found = reference.distance(run(pair.ours, pair.ours.prompt.prepare(messages, options=BY_NUMBER)), expected)

    assert found.is_rounding, found


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_questions_are_what_the_processor_makes_of_them(pair: Pair) -> None:
    for entry in read_json(CHECKPOINTS / "questions" / "media.json")["questions"]:
        media = [(medium["type"], medium["file"]) for medium in entry["media"]]
        if hears(pair.kind) or "audio" not in dict(media):
            messages = shown([user(*media, entry["question"])], CHECKPOINTS / "questions")
            expected = processed(pair.kind, messages)["input_ids"][0].tolist()
            assert list(pair.ours.prompt.prepare(messages).ids) == expected, entry


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["two pictures with text between", "clip and picture"])
def test_the_stand_ins_give_what_the_whole_processor_gives(kind: str, case: str, files: Path) -> None:
    pytest.importorskip("torchvision")
    from transformers import AutoProcessor

    messages = shown(CONVERSATIONS[case], files)
    whole = media_processor.processed(AutoProcessor.from_pretrained(CHECKPOINTS / kind), messages)
    found = processed(kind, messages)

    assert found.keys() == whole.keys()
    for name, expected in whole.items():
        # A byte may come out of torchvision's scaling two off.
        assert (found[name].float() - expected.float()).abs().max() <= 2 / 255 + 1e-6, name


# The checks above fail where something is wrong.

MADE = [(kind, name) for kind in KINDS for name, mistake in MISTAKES.items() if mistake.kinds(kind)]


@pytest.mark.parametrize(("kind", "name"), MADE, ids=[f"{kind}: {name}" for kind, name in MADE])
def test_a_mistake_shows_in_the_logits(pair: Pair, name: str, monkeypatch: Patch) -> None:
    mistake = MISTAKES[name]
    mistake.make(monkeypatch)

    logits = run(pair.ours, pair.prompt(CASES[mistake.case]), mistake.chunk)

    assert not reference.distance(logits, pair.expected_of(mistake.case)).is_rounding


def test_mistakes_are_made_where_the_right_way_is_tested() -> None:
    assert all(mistake.case in (CHUNKED if mistake.chunk else CASES) for mistake in MISTAKES.values())
    assert {mistake.chunk for mistake in MISTAKES.values()} <= {None, *CHUNKS}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if hears(kind)])
def test_padding_that_counts_as_sound_does_not_fit_the_placeholders(pair: Pair, monkeypatch: Patch) -> None:
    monkeypatch.setattr(encoding, "NO_FRAME", True)

    with pytest.raises(PlaceholderError):
        run(pair.ours, pair.prompt(CASES["two sounds, the shorter first"]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_turn_that_is_forgotten_shows_in_the_logits(pair: Pair) -> None:
    alone = run(pair.ours, pair.turns("a picture, then another")[-1])

    expected = pair.expected_of("a picture, then another")[-len(alone) :]

    assert not reference.distance(alone, expected).is_rounding


# The trained samples know no noise: they answer to any with the same token.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("e2b", "12b")])
def test_pictures_swapped_show_in_the_continuation(pair: Pair, monkeypatch: Patch) -> None:
    prompt = pair.prompt(CASES["two pictures"], VARIED)
    right = continuation(pair.ours, prompt, 24)

    swap_media(monkeypatch)

    assert continuation(pair.ours, prompt, 24) != right


@pytest.mark.parametrize("kind", KINDS)
def test_frames_without_their_times_show_in_the_ids(pair: Pair, files: Path, monkeypatch: Patch) -> None:
    messages = shown(CONVERSATIONS["a clip"], files)
    monkeypatch.setattr(prompts, "expansion", lambda medium, marks: placeholders.expansion(untimed(medium), marks))

    ids = pair.ours.prompt.prepare(messages, options=BY_NUMBER).ids

    assert list(ids) != processed(pair.kind, messages)["input_ids"][0].tolist()


def untimed(medium: Any) -> Any:
    return replace(medium, labels=("",) * len(medium.labels))
