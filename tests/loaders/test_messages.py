"""Messages to media and texts: every spelling of a part, the order of media, and documents that are wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders.media import Blob, Kind, Reach
from g4convert.loaders.messages import Attachment, Message, attachments, conversation, question, read_messages
from g4convert.schemas.errors import ConfigError, G4ConvertError, UsageError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

Part = dict[str, Any]

REACH = Reach(folder=Path("/a/folder"))
HERE = Path("/a/folder/x.bin")
DATA = bytes(range(256))
ENCODED = base64.b64encode(DATA).decode()
WITH_LINE_BREAKS = base64.encodebytes(DATA).decode()
PICTURE = Image.new("RGB", (3, 2))
TEXT = {"type": "text", "text": "what is it?"}


def said(*parts: Part) -> list[dict[str, Any]]:
    """One turn of the user."""
    return [{"role": "user", "content": list(parts)}]


SPELLINGS: list[tuple[Part, Kind]] = [
    ({"type": "image_url", "image_url": {"url": "x.bin", "detail": "low"}}, "image"),
    ({"type": "image_url", "image_url": "x.bin"}, "image"),
    ({"type": "audio_url", "audio_url": {"url": "x.bin"}}, "audio"),
    ({"type": "audio_url", "audio_url": "x.bin"}, "audio"),
    ({"type": "video_url", "video_url": {"url": "x.bin"}}, "video"),
    ({"type": "video_url", "video_url": "x.bin"}, "video"),
    ({"type": "input_audio", "input_audio": {"url": "x.bin"}}, "audio"),
    ({"type": "input_audio", "input_audio": {"data": "x.bin", "format": "wav"}}, "audio"),
    ({"type": "input_audio", "input_audio": "x.bin"}, "audio"),
    *(
        ({"type": kind, key: link}, kind)
        for kind in ("image", "audio", "video")
        for key in (kind, "url", "path")
        for link in ("x.bin", {"url": "x.bin"}, Path("x.bin"))
    ),
]


@pytest.mark.parametrize(("part", "kind"), SPELLINGS, ids=str)
def test_every_spelling_of_a_part_is_the_medium_at_its_path(part: Part, kind: Kind) -> None:
    talk = conversation(said(part, TEXT))

    assert [(one.kind, one.open(REACH)) for one in talk.attachments] == [(kind, HERE)]
    assert talk.messages[0]["content"] == [{"type": kind}, TEXT]


@pytest.mark.parametrize(
    ("part", "data"),
    [
        ({"type": "input_audio", "input_audio": {"data": ENCODED, "format": "wav"}}, DATA),
        ({"type": "input_audio", "input_audio": {"data": WITH_LINE_BREAKS}}, DATA),
        ({"type": "input_audio", "input_audio": {"data": WITH_LINE_BREAKS.replace("\n", "\r\n")}}, DATA),
        ({"type": "input_audio", "input_audio": {"data": f"data:audio/wav;base64,{ENCODED}"}}, DATA),
        ({"type": "input_audio", "input_audio": {"data": base64.b64encode(DATA * 100).decode()}}, DATA * 100),
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{ENCODED}"}}, DATA),
        ({"type": "video", "video": f"data:video/mp4;base64,{WITH_LINE_BREAKS}"}, DATA),
    ],
)
def test_what_stands_in_the_message_is_read_from_it(part: Part, data: bytes) -> None:
    (medium,) = conversation(said(part)).attachments
    source = medium.open(REACH)

    assert isinstance(source, Blob)
    assert source.data == data
    assert len(source.name) < 100


def test_a_library_may_give_bytes_paths_and_open_pictures() -> None:
    talk = conversation(said({"type": "image", "image": PICTURE}, {"type": "audio", "audio": DATA}))

    assert [one.open(REACH) for one in talk.attachments] == [PICTURE, DATA]
    assert talk.messages[0]["content"] == [{"type": "image"}, {"type": "audio"}]


def test_an_absolute_path_is_taken_as_it_is() -> None:
    for link in ("/b/y.png", Path("/b/y.png")):
        assert Attachment("image", link).open(REACH) == Path("/b/y.png")


def test_media_keep_the_order_of_their_parts_over_all_messages() -> None:
    messages = [
        *said({"type": "video", "path": "1"}, TEXT, {"type": "image_url", "image_url": "2"}),
        {"role": "assistant", "content": "one"},
        *said({"type": "audio", "url": "3"}, {"type": "image", "image": "4"}, TEXT),
    ]

    talk = conversation(messages)

    assert [(one.kind, one.link) for one in talk.attachments] == [
        ("video", "1"),
        ("image", "2"),
        ("audio", "3"),
        ("image", "4"),
    ]


def test_media_by_kind_stand_in_the_order_of_the_kinds() -> None:
    made = attachments(videos=["c"], sounds=["b", "b2"], images=["a"])

    assert [(one.kind, one.link) for one in made] == [("image", "a"), ("audio", "b"), ("audio", "b2"), ("video", "c")]


def test_a_question_is_a_turn_with_its_media_in_front() -> None:
    shown = attachments(images=["a"], videos=["b"])

    assert question("what?").messages == ({"role": "user", "content": "what?"},)
    assert question("what?", shown).messages[0]["content"] == [
        {"type": "image"},
        {"type": "video"},
        {"type": "text", "text": "what?"},
    ]
    assert question("what?", shown).attachments == shown


def test_the_messages_that_come_in_are_left_as_they_are() -> None:
    messages = said({"type": "image", "image": "x.png"}, TEXT)
    before = json.dumps(messages)

    conversation(messages)

    assert json.dumps(messages) == before


def test_what_else_a_message_holds_goes_to_the_template() -> None:
    call = {"function": {"name": "look", "arguments": {"at": "<|image|>"}}}
    messages: list[Message] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [{**TEXT, "cache": True}], "name": "look"},
    ]

    talk = conversation(messages)

    assert list(talk.messages) == messages
    assert talk.attachments == ()


def test_texts_are_what_is_said_and_nothing_else() -> None:
    talk = conversation(
        [
            {"role": "system", "content": "first"},
            {"role": "assistant", "content": None, "tool_calls": [{"text": "never"}]},
            *said({"type": "image", "image": "x", "text": "never"}, TEXT, {"type": "text", "text": ""}),
        ]
    )

    assert talk.texts() == ["first", "what is it?", ""]


def test_a_key_that_holds_null_does_not_hide_the_next() -> None:
    (medium,) = conversation(said({"type": "image", "image": None, "url": None, "path": "x.bin"})).attachments

    assert medium.open(REACH) == HERE


WRONG: list[tuple[Any, str]] = [
    (said({"type": "image"}), "$[0].content[0]: found no key image or url or path, allowed is a path or a URL"),
    (said(TEXT, {"type": "audio", "url": None}), "$[0].content[1]: found no key audio or url or path, allowed is "),
    (said({"type": "image", "image": 5}), "$[0].content[0].image: found a value of type int, allowed is a path or"),
    (said({"type": "video", "video": ["1.png", "2.png"]}), "$[0].content[0].video: found a value of type list, allo"),
    (said({"type": "image", "path": {"path": "x"}}), "$[0].content[0].path: found a value of type dict, allowed is a"),
    (said({"type": "image_url"}), "$[0].content[0]: found no key 'image_url', allowed is a string of at least 1 char"),
    (said({"type": "image_url", "image_url": {}}), "$[0].content[0].image_url: found no key 'url', allowed is "),
    (said({"type": "image_url", "image_url": ["x"]}), '$[0].content[0].image_url: found ["x"], allowed is a string'),
    (said({"type": "video_url", "video_url": ""}), '$[0].content[0].video_url: found "", allowed is a string of at l'),
    (said({"type": "input_audio", "input_audio": {"format": "wav"}}), "input_audio: found no key data or url, allowed"),
    (said({"type": "input_audio", "input_audio": {"data": 5}}), "input_audio.data: found 5, allowed is a string of"),
    (said({"type": "picture", "image": "x"}), '$[0].content[0].type: found "picture", allowed is "text", "image_url"'),
    (said({"type": "text"}), "$[0].content[0]: found no key 'text', allowed is a string"),
    ([{"role": "user"}], "$[0]: found no key 'content', allowed is a string or a list"),
    ([{"role": "user", "content": None}], "$[0].content: found null, allowed is a string or a list"),
    ([{"content": "x"}], "$[0]: found no key 'role', allowed is a string of at least 1 character"),
    ({"messages": said({"type": "image"})}, "$.messages[0].content[0]: found no key image or url or path, allowed is"),
    ({"messages": []}, "$.messages: found [], allowed is a list of at least 1, each an object with role"),
    ("hi", '$: found "hi", allowed is a list of at least 1, each an object with role'),
]


@pytest.mark.parametrize(("document", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_document_is_one_line_with_file_path_found_and_allowed(
    document: Any, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(document))

    with pytest.raises(ConfigError) as caught:
        read_messages(file)

    assert str(caught.value).startswith("talk.json: $")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_right_document_comes_back_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    for part, _ in SPELLINGS:
        if not any(isinstance(value, Path) for value in part.values()):
            file.write_text(json.dumps({"messages": said(part, TEXT)}))
            assert read_messages(file) == said(part, TEXT)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio", "audio": PICTURE},
        {"type": "image", "image": object()},
        {"type": "image", "image": {"url": Path("x")}},
        {"type": "picture", "image": PICTURE},
        {"type": "text", "text": DATA},
    ],
)
def test_wrong_messages_of_a_call_are_a_usage_error(part: Part) -> None:
    with pytest.raises(UsageError, match=r"messages: \$\[0\]\.content\[0\].*: found .*, allowed is "):
        conversation(said(part))


@pytest.mark.parametrize(
    ("kind", "link"), [("audio", PICTURE), ("image", 5), ("video", ["a", "b"]), ("audio", {}), ("image", None)]
)
def test_an_attachment_is_something_that_can_be_read(kind: Kind, link: object) -> None:
    with pytest.raises(UsageError, match="cannot be a value of type"):
        Attachment(kind, link)


def test_a_link_of_a_megabyte_does_not_fill_the_terminal(tmp_path: Path) -> None:
    long = "x" * 10**6
    file = tmp_path / "talk.json"
    for part in ({"type": long}, {"type": "image_url", "image_url": [long]}, {"type": "text", "text": [long]}):
        file.write_text(json.dumps(said(part)))
        with pytest.raises(ConfigError) as caught:
            read_messages(file)
        assert len(str(caught.value)) < 300


KEYS = st.sampled_from(["type", "text", "image", "url", "path", "audio", "image_url", "input_audio", "data", "role"])
KINDS = st.sampled_from(["text", "image", "audio", "video", "image_url", "input_audio", "audio_url", "video_url"])
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | KINDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
PARTS = st.fixed_dictionaries({"type": KINDS}, optional={"text": st.text(max_size=4), "image": VALUES, "url": VALUES})
MESSAGES = st.fixed_dictionaries(
    {"role": st.text(min_size=1, max_size=4), "content": st.text(max_size=4) | st.lists(PARTS | VALUES, max_size=3)},
    optional={"tool_calls": VALUES},
)


def media_parts(messages: list[Message]) -> int:
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return sum(part["type"] != "text" for content in contents for part in content)


def error_of(call: Callable[[], object]) -> G4ConvertError | None:
    """What a call raises of ours; anything else fails the test."""
    try:
        call()
    except G4ConvertError as error:
        return error
    return None


@settings(deadline=None)
@given(messages=st.lists(MESSAGES, max_size=2))
def test_whatever_the_messages_they_are_taken_whole_or_refused_in_one_line(messages: list[Message]) -> None:
    error = error_of(lambda: conversation(messages))
    if error is None:
        talk = conversation(messages)
        assert len(talk.attachments) == media_parts(messages)
        assert all(isinstance(text, str) for text in talk.texts())
        return

    assert isinstance(error, UsageError)
    assert str(error).startswith("messages: $")
    assert "\n" not in str(error)


@settings(deadline=None)
@given(document=VALUES | st.fixed_dictionaries({"messages": st.lists(MESSAGES, max_size=2)}))
def test_whatever_the_file_it_is_messages_or_a_config_error(
    document: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "whatever.json"
    file.write_text(json.dumps(document))

    error = error_of(lambda: read_messages(file))

    assert isinstance(error, ConfigError) or conversation(read_messages(file)).messages


def test_one_path_is_no_list_of_letters() -> None:
    with pytest.raises(UsageError, match="come as a list"):
        attachments(images="cat.png")
