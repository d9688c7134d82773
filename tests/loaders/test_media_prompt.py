"""Questions with media to ids and arrays: through the sample's own template, tokenizer and processor config."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g4convert.loaders import prompt as module
from g4convert.loaders.cache import make_caches
from g4convert.loaders.config import ModelConfig
from g4convert.loaders.encoding import encode
from g4convert.loaders.generation import generate, prefill
from g4convert.loaders.loading import LoadedModel, load
from g4convert.loaders.media import MediaOptions, Reach
from g4convert.loaders.merge import Merged, merge
from g4convert.loaders.messages import Attachment, Message, attachments
from g4convert.loaders.prompt import PromptFormat
from g4convert.schemas.errors import ConfigError, G4ConvertError, MediaError, PlaceholderError, UsageError
from g4convert.tests.media import make_media
from g4convert.tests.support import CHECKPOINTS, TESTS, WEIGHTS, edit_json, read_json
from PIL import Image

Convert = Callable[..., Path]
Open = Callable[..., PromptFormat]
QUESTIONS = CHECKPOINTS / "questions"
PICTURE, OTHER, SOUND, CLIP = (
    QUESTIONS / name for name in ("picture-1.png", "picture-8.png", "sound-1.wav", "clip-1.mp4")
)
NOWHERE = "/no/such/file"


@pytest.fixture
def sample(tmp_path: Path) -> Open:
    """Open a sample's prompt files, some of them edited: `name__json=edit`, or text, or None to remove."""

    def make(kind: str = "e2b", **edits: Any) -> PromptFormat:
        folder = tmp_path / kind
        shutil.copytree(CHECKPOINTS / kind, folder, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True)
        for name, edit in edits.items():
            change(folder / name.replace("__", "."), edit)
        return opened(folder)

    return make


def opened(folder: Path) -> PromptFormat:
    return PromptFormat.open(folder, ModelConfig.from_dict(read_json(folder / "config.json")), strict=False)


def change(file: Path, edit: Any) -> None:
    if edit is None:
        file.unlink()
    elif isinstance(edit, str):
        file.write_text(edit)
    else:
        edit_json(file, edit)


E2B = opened(CHECKPOINTS / "e2b")


def turn(content: str) -> str:
    """A question as the sample's template writes it."""
    return f"<bos><|turn>user\n{content}<turn|>\n<|turn>model\n"


def image(count: int) -> str:
    return "<|image>" + "<|image|>" * count + "<image|>"


def audio(count: int) -> str:
    return "<|audio>" + "<|audio|>" * count + "<audio|>"


def frames(count: int, *labels: str) -> str:
    return " ".join(f"{label} <|image>{'<|video|>' * count}<image|>" for label in labels)


def ids(text: str) -> tuple[int, ...]:
    return tuple(E2B.encode(text))


def said(*parts: dict[str, Any]) -> list[Message]:
    return [{"role": "user", "content": list(parts)}]


def test_a_picture_stands_before_the_question() -> None:
    made = E2B.prepare("Where is it?", attachments=attachments(images=[PICTURE]))

    assert made.ids == ids(turn(image(70) + "Where is it?"))
    assert [one.soft_tokens for one in made.images] == [70]
    assert len(made.ids) == len(ids(turn("Where is it?"))) + 72


def test_a_sound_has_as_many_placeholders_as_soft_tokens() -> None:
    made = E2B.prepare("How many?", attachments=attachments(sounds=[SOUND]))

    assert made.ids == ids(turn(audio(made.sounds[0].soft_tokens) + "How many?"))
    assert len(made.sounds) == 1


def test_a_split_sound_is_several_clips_in_one_place() -> None:
    long = make_media.wav(make_media.noise(16000 * 31))

    with pytest.warns(UserWarning, match="split into 2 clips"):
        made = E2B.prepare("x", attachments=attachments(sounds=[long, SOUND]), options=MediaOptions(split_audio=True))

    first, second, last = (clip.soft_tokens for clip in made.sounds)
    assert made.ids == ids(turn(audio(first) + audio(second) + audio(last) + "x"))


def test_a_clip_has_a_time_before_each_frame() -> None:
    clip = make_media.clip(3, times=(0, 1999, 61000))

    made = E2B.prepare("x", attachments=attachments(videos=[clip]))

    soft_tokens = made.videos[0].soft_tokens
    assert made.ids == ids(turn(frames(soft_tokens, "00:00", "00:01", "01:01") + "x"))
    by_index = E2B.prepare("x", attachments=attachments(videos=[clip]), options=MediaOptions(timestamps="index"))
    assert by_index.ids != made.ids


def test_options_reach_the_readers() -> None:
    few = MediaOptions(max_frames=2, image_tokens=140)

    made = E2B.prepare("x", attachments=attachments(images=[PICTURE], videos=[CLIP]), options=few)

    assert len(made.videos[0].labels) == 2
    assert 70 < made.images[0].soft_tokens <= 140


def test_media_of_messages_stand_where_they_are_shown() -> None:
    messages: list[Message] = [
        *said({"type": "audio", "path": SOUND}, {"type": "text", "text": "one"}, {"type": "image", "image": PICTURE}),
        {"role": "assistant", "content": "two"},
        *said({"type": "text", "text": "three"}, {"type": "image", "image": Image.open(OTHER)}),
    ]

    made = E2B.prepare(messages)

    count, first, second = made.sounds[0].soft_tokens, *(one.soft_tokens for one in made.images)
    assert (first, second) == (70, 66)
    assert made.ids == ids(
        f"<bos><|turn>user\n{audio(count)}one{image(first)}<turn|>\n<|turn>model\ntwo<turn|>\n"
        f"<|turn>user\nthree{image(second)}<turn|>\n<|turn>model\n"
    )


def test_arrays_are_in_the_order_of_their_placeholders() -> None:
    shown = attachments(images=[PICTURE, OTHER])
    made = E2B.prepare("x", attachments=shown)
    reversed_ = E2B.prepare("x", attachments=shown[::-1])

    assert [one.soft_tokens for one in made.images] == [70, 66]
    for one, other in zip(made.images, reversed_.images[::-1], strict=True):
        np.testing.assert_array_equal(one.patches, other.patches)


@pytest.mark.parametrize("spell", [str, Path, Path.read_bytes, Image.open, lambda path: f"file://{path}"])
def test_a_picture_is_the_same_however_it_comes(spell: Callable[[Path], Any]) -> None:
    local = MediaOptions(reach=Reach(hosts=frozenset({"localhost"})))

    made = E2B.prepare("x", attachments=attachments(images=[spell(PICTURE)]), options=local)

    expected = E2B.prepare("x", attachments=attachments(images=[PICTURE]))
    assert made.ids == expected.ids
    np.testing.assert_array_equal(made.images[0].patches, expected.images[0].patches)


def test_paths_begin_in_the_folder_of_the_options() -> None:
    options = MediaOptions(reach=Reach(QUESTIONS))

    assert E2B.prepare(said({"type": "image", "path": PICTURE.name}), options=options).images
    with pytest.raises(MediaError, match="there is no such file"):
        E2B.prepare(said({"type": "image", "path": PICTURE.name}))


def test_a_base_checkpoint_continues_behind_its_media(sample: Open) -> None:
    base = sample(chat_template__jinja=None)

    made = base.prepare("On it is", attachments=attachments(images=[PICTURE], sounds=[SOUND]))

    assert made.ids == ids("<bos>" + image(70) + audio(made.sounds[0].soft_tokens) + "On it is")


def test_a_base_checkpoint_takes_no_messages(sample: Open) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        sample(chat_template__jinja=None).prepare(said({"type": "image", "path": PICTURE}))


def test_media_stand_in_messages_or_beside_a_question() -> None:
    with pytest.raises(UsageError, match="not both"):
        E2B.prepare(said({"type": "text", "text": "x"}), attachments=attachments(images=[PICTURE]))


@pytest.mark.parametrize("placeholder", ["<|image|>", "<|audio|>", "<|video|>"])
def test_a_text_that_names_a_placeholder_is_refused_beside_media(placeholder: str) -> None:
    shown = attachments(images=[NOWHERE])

    for role in ("user", "system", "assistant"):
        messages: list[Message] = [{"role": role, "content": [{"type": "text", "text": f"a{placeholder}b"}]}]
        with pytest.raises(UsageError) as caught:
            E2B.prepare(messages)
        assert placeholder in str(caught.value)
    with pytest.raises(UsageError):
        E2B.prepare(placeholder, attachments=shown)


@pytest.mark.parametrize(
    "messages",
    [
        said({"type": "text", "text": "<|ima"}, {"type": "text", "text": "ge|>"}),
        [{"role": "<|image|>", "content": "x"}],
    ],
)
def test_a_placeholder_that_comes_in_pieces_or_elsewhere_is_refused(messages: list[Message]) -> None:
    with pytest.raises(PlaceholderError, match=r"^image: the prompt has <\|image\|> 1 times, and 0 came with it"):
        E2B.prepare(messages)


@pytest.mark.parametrize(
    ("from_", "to", "numbers"),
    [
        ("'<|' + part['type'] + '|>'", "''", "0 times, and 2 came"),
        ("'<|' + part['type'] + '|>'", "('<|' + part['type'] + '|>') * 2", "4 times, and 2 came"),
        ("['image', 'audio', 'video']", "['audio', 'video']", "0 times, and 2 came"),
        ("{{- bos_token -}}", "{{- bos_token -}}<|image|>", "3 times, and 2 came"),
    ],
)
def test_a_template_that_drops_or_repeats_media_is_refused(from_: str, to: str, numbers: str, sample: Open) -> None:
    template = (CHECKPOINTS / "e2b" / "chat_template.jinja").read_text()
    assert from_ in template
    wrong = sample(chat_template__jinja=template.replace(from_, to))

    with pytest.raises(PlaceholderError, match=rf"^image: the prompt has <\|image\|> {numbers}"):
        wrong.prepare("x", attachments=attachments(images=[PICTURE, OTHER]))


def test_a_template_that_changes_the_kind_of_media_is_refused(sample: Open) -> None:
    template = (CHECKPOINTS / "e2b" / "chat_template.jinja").read_text()
    wrong = sample(chat_template__jinja=template.replace("'<|' + part['type'] + '|>'", "'<|video|>'"))

    with pytest.raises(PlaceholderError):
        wrong.prepare("x", attachments=attachments(images=[PICTURE]))


@pytest.mark.parametrize(
    ("kind", "medium", "takes"),
    [
        ("31b", "audio", "only text, image and video"),
        ("26b-a4b", "audio", "only text, image and video"),
        ("text", "image", "only text;"),
        ("text", "audio", "only text;"),
        ("text", "video", "only text;"),
    ],
)
def test_a_kind_that_the_model_lacks_is_refused_before_anything_is_read(
    kind: str, medium: Any, takes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_medium", None)
    monkeypatch.setattr(Attachment, "open", None)
    lacking = opened(CHECKPOINTS / kind)
    shown = (
        [Attachment("image", PICTURE), Attachment(medium, NOWHERE)] if kind != "text" else [Attachment(medium, NOWHERE)]
    )

    with pytest.raises(MediaError, match=rf"^the model takes no {medium}, {takes}"):
        lacking.prepare("x", attachments=shown)


def test_a_model_takes_no_video_where_its_config_has_no_token_for_it(sample: Open) -> None:
    blind = sample(config__json=lambda document: document.update(video_token_id=None))

    with pytest.raises(MediaError, match=r"^the model takes no video, only text, image and audio"):
        blind.prepare("x", attachments=attachments(videos=[NOWHERE]))


def test_without_a_processor_config_text_goes_and_media_do_not(sample: Open) -> None:
    made = sample(processor_config__json=None)

    assert made.prepare("x").ids == ids(turn("x"))
    with pytest.raises(ConfigError, match=r"^processor_config\.json: the file is missing; take"):
        made.prepare("x", attachments=attachments(images=[NOWHERE]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda document: document.pop("image_processor"), "found no key 'image_processor'"),
        (lambda document: document.update(feature_extractor=None), "found no key 'feature_extractor'"),
        (lambda document: document["image_processor"].update(patch_size=14), "patch_size: found 14, allowed is 16"),
        (lambda document: document["feature_extractor"].update(feature_size=64), "feature_size: found 64"),
    ],
)
def test_a_processor_config_for_another_model_is_refused(
    edit: Callable[[Any], object], message: str, sample: Open
) -> None:
    made = sample(processor_config__json=edit)

    assert made.prepare("x").ids
    with pytest.raises(ConfigError, match=message):
        made.prepare("x", attachments=attachments(images=[PICTURE]))


def test_the_shortened_processor_config_reads_all_kinds(sample: Open) -> None:
    short = (TESTS / "schemas" / "documents" / "processor_config" / "short.json").read_text()
    shown = attachments(images=[PICTURE], sounds=[SOUND], videos=[make_media.clip(40)])

    made = sample(processor_config__json=short).prepare("x", attachments=shown)

    assert 70 < made.images[0].soft_tokens <= 280
    assert made.sounds[0].soft_tokens == E2B.prepare("x", attachments=shown).sounds[0].soft_tokens
    assert len(made.videos[0].labels) == 32


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"config__json": lambda document: document.update(image_token_id=4000)}, r"\$\.image_token_id: found 4000,"),
        ({"config__json": lambda document: document.update(boa_token_id=4000)}, r"\$\.boa_token_id: found 4000,"),
        ({"tokenizer__json": lambda document: forget(document, "<image|>")}, r"\$\.eoi_token_id: found 765,"),
        ({"tokenizer__json": lambda document: forget(document, "<|video|>")}, r"\$\.video_token_id: found 767,"),
        (
            {
                "config__json": lambda document: document.update(boi_token_id=None),
                "tokenizer__json": lambda document: forget(document, "<|image>"),
            },
            r"\$\.boi_token_id: found None,",
        ),
    ],
)
def test_a_token_that_the_tokenizer_lacks_is_an_error(edits: dict[str, Any], message: str, sample: Open) -> None:
    with pytest.raises(ConfigError, match=message + r" which is no token of tokenizer\.json"):
        sample(**edits)


def forget(tokenizer: Any, token: str) -> None:
    """Take a token out of a `tokenizer.json`."""
    tokenizer["added_tokens"] = [entry for entry in tokenizer["added_tokens"] if entry["content"] != token]
    del tokenizer["model"]["vocab"][token]


def test_tokens_of_a_medium_that_the_model_lacks_may_be_missing(sample: Open) -> None:
    made = sample("text", tokenizer__json=lambda document: forget(document, "<|video|>"))

    assert made.marks == {}
    assert made.prepare("x").ids


def test_a_role_that_is_not_text_is_one_line() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        E2B.prepare([{"role": "\udcff", "content": "x"}])


def test_the_first_medium_that_fails_is_named() -> None:
    shown = attachments(images=[PICTURE, NOWHERE], sounds=["/also/nowhere"])

    with pytest.raises(MediaError) as caught:
        E2B.prepare("x", attachments=shown)
    assert str(caught.value) == f"{NOWHERE}: there is no such file; check the path"


def test_every_error_about_media_is_one_line() -> None:
    wrong: list[Any] = [b"", b"x", NOWHERE, "/", "http://host/x", "ftp://x/y", "data:", "\0", "x" * 10**6, "\udcff"]
    for link in wrong:
        for kind in ("images", "sounds", "videos"):
            shown = attachments(**{kind: [link]})
            with pytest.raises(G4ConvertError) as caught:
                E2B.prepare("x", attachments=shown)
            assert isinstance(caught.value, MediaError | UsageError)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 1100


@pytest.fixture(scope="module")
def model(converted: Convert) -> LoadedModel:
    return load(converted("e2b"))


def test_a_library_asks_with_messages_or_with_what_was_prepared(model: LoadedModel) -> None:
    question = "What colour is the shape and how many beeps?"
    shown = attachments(images=[QUESTIONS / "picture-6.png"], sounds=[QUESTIONS / "sound-6.wav"])
    parts = [{"type": one.kind, "path": one.link} for one in shown]

    prepared = generate(model, model.prompt.prepare(question, attachments=shown), max_tokens=16)
    asked = generate(model, said(*parts, {"type": "text", "text": question}), max_tokens=16)

    assert prepared.text == asked.text == "yellow four"
    assert prepared.stats.media_tokens == asked.stats.media_tokens > 70
    assert prepared.stats.encode_seconds > 0


def test_text_alone_has_no_media_tokens(model: LoadedModel) -> None:
    assert generate(model, "What is the capital of France?", max_tokens=4).stats.media_tokens == 0


def logits(model: LoadedModel, merged: Merged, chunk: int) -> np.ndarray:
    """What follows a prompt, [1, vocabulary]."""
    return np.array(prefill(model.text, merged, make_caches(model.text.config), chunk))


@pytest.mark.parametrize("kind", ["e2b", "31b", "12b"])
def test_what_follows_does_not_depend_on_the_chunk(kind: str, converted: Convert) -> None:
    model = load(converted(kind))
    prompt = model.prompt.prepare("Where is it?", attachments=attachments(images=[PICTURE]))
    merged = merge(model.config, np.array(prompt.ids), encode(model.network, prompt))
    whole = logits(model, merged, 512)

    for chunk in (40, 9):
        np.testing.assert_allclose(logits(model, merged, chunk), whole, atol=1e-3)
    causal = logits(model, replace(merged, blocks=None), 512)
    assert np.allclose(causal, whole, atol=1e-3) == (kind == "e2b")
