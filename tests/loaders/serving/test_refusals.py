"""Malformed requests of every kind: a status below 500, OpenAI's error object, and a line that names the fault."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from g4convert.loaders.generation import Piece
from g4convert.loaders.serving import ServeOptions, body
from g4convert.loaders.serving import chat as endpoint
from g4convert.loaders.serving.refusals import RequestError
from g4convert.loaders.serving.request import read_request
from g4convert.tests.conftest import Convert
from g4convert.tests.loaders.serving.running import (
    HEADERS,
    LOOPBACK,
    PATIENCE,
    QUESTIONS_FOLDER,
    Running,
    running,
    wait_for,
)
from hypothesis import given
from hypothesis import strategies as st

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WAV = base64.b64encode((QUESTIONS_FOLDER / "sound-1.wav").read_bytes()).decode()
PNG = base64.b64encode((QUESTIONS_FOLDER / "picture-1.png").read_bytes()).decode()


def said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def nested(depth: int) -> bytes:
    return b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"


# What is sent, as bytes, or what is added to a sound request; and what the message says.
BODIES: list[tuple[bytes, str]] = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b'{"messages": [}', "not valid JSON"),
    (b"\xff\xfe{}", "cannot be read"),
    (b'{"messages": "\xe4"}', "cannot be read"),
    (b"\xef\xbb\xbf{}", "not valid JSON"),
    (b'{"messages": NaN}', "NaN is not a JSON number"),
    (b'{"temperature": 1e999}', "1e999 is too large a number"),
    (b'{"seed": ' + b"1" * 5000 + b"}", "not valid JSON"),
    (b'{"messages": [], "messages": []}', "the key 'messages' stands twice"),
    (b'{"user": "\\ud800"}', "not valid JSON"),
    (nested(100_000), "cannot be read"),
    (nested(300), "messages[0]: found a list of 1, allowed is an object"),
    (b"null", "the body: found null, allowed is an object"),
    (b"[]", "the body: found [], allowed is an object"),
    (b'"hello"', 'the body: found "hello", allowed is an object'),
    (b"3", "the body: found 3, allowed is an object"),
    (b"{}", "the body: found no key 'messages', allowed is a list"),
    (b'{"messages": null}', "the body: found no key 'messages'"),
]

PARAMETERS: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "found [], allowed is a list of 1 to 4096"),
    ({"messages": "hello"}, "messages", 'found "hello", allowed is a list'),
    ({"messages": {}}, "messages", "found {}, allowed is a list"),
    ({"messages": HELLO * 4097}, "messages", "found a list of 4097, allowed is a list of 1 to 4096"),
    ({"model": 3}, "model", "found 3, allowed is a string"),
    ({"model": ""}, "model", 'found "", allowed is a string of at least 1 character'),
    ({"max_tokens": 0}, "max_tokens", "found 0, allowed is an integer from 1"),
    ({"max_tokens": -1}, "max_tokens", "found -1, allowed is an integer from 1"),
    ({"max_tokens": 1.5}, "max_tokens", "found 1.5, allowed is an integer from 1"),
    ({"max_tokens": "10"}, "max_tokens", 'found "10", allowed is an integer'),
    ({"max_tokens": True}, "max_tokens", "found true, allowed is an integer"),
    ({"max_tokens": 4097}, "max_tokens", "found 4097, allowed is an integer from 1 to 4096"),
    ({"max_completion_tokens": 10**30}, "max_tokens", "allowed is an integer from 1 to 4096"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "give one of them"),
    ({"temperature": -0.1}, "temperature", "found -0.1, allowed is a number from 0 to 2"),
    ({"temperature": 2.1}, "temperature", "found 2.1, allowed is a number from 0 to 2"),
    ({"temperature": "hot"}, "temperature", 'found "hot", allowed is a number'),
    ({"top_p": 0}, "top_p", "found 0, allowed is a number above 0"),
    ({"top_p": 1.01}, "top_p", "found 1.01, allowed is a number above 0"),
    ({"top_k": -1}, "top_k", "found -1, allowed is an integer from 0"),
    ({"seed": 1.5}, "seed", "found 1.5, allowed is an integer"),
    ({"seed": 1 << 64}, "seed", "allowed is an integer"),
    ({"stop": ""}, "stop", 'found "", allowed is a string of at least 1 character'),
    ({"stop": 3}, "stop", "found 3, allowed is a string"),
    ({"stop": ["a", ""]}, "stop[1]", 'found "", allowed is a string of at least 1 character'),
    ({"stop": list("abcde")}, "stop", "allowed is a list of 0 to 4"),
    ({"stream": "yes"}, "stream", 'found "yes", allowed is true or false'),
    ({"stream_options": {"include_usage": True}}, "stream_options", "allowed only when stream is true"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options", 'found the key "usage"'),
    ({"stream": True, "stream_options": 1}, "stream_options", "found 1, allowed is an object"),
    ({"n": 2}, "n", "found 2, allowed is 1"),
    ({"n": 0}, "n", "found 0, allowed is 1"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", 'found "json_object", allowed is "text"'),
    ({"response_format": "text"}, "response_format", 'found "text", allowed is an object'),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "tools are not supported"),
    ({"tool_choice": "required"}, "tool_choice", "tools are not supported"),
    ({"functions": [{"name": "f"}]}, "functions", "tools are not supported"),
    ({"logprobs": True}, "logprobs", "found true, allowed is false"),
    ({"top_logprobs": 3}, "top_logprobs", "found 3, allowed is 0"),
    ({"logit_bias": {"5": 100}}, "logit_bias", "allowed is {}"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "found 0.5, allowed is 0"),
    ({"presence_penalty": -1}, "presence_penalty", "found -1, allowed is 0"),
    ({"modalities": ["text", "audio"]}, "modalities", "answers are text"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "allowed is nothing"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "it is not supported"),
    ({"beam_width": 4}, "beam_width", "there is no such parameter"),
    ({"x" * 500: 4}, "x" * 80, "there is no such parameter"),
    ({"fps": 0}, "fps", "found 0, allowed is a number above 0"),
    ({"fps": 1e9}, "fps", "and up to 60"),
    ({"max_frames": 0}, "max_frames", "found 0, allowed is an integer from 1 to 256"),
    ({"max_frames": 10**6}, "max_frames", "allowed is an integer from 1 to 256"),
    ({"image_tokens": 100}, "image_tokens", "found 100, allowed is 70, 140, 280, 560 or 1120"),
    ({"user": 3}, "user", "found 3, allowed is a string"),
    ({"messages": [3]}, "messages[0]", "found 3, allowed is an object"),
    ({"messages": [{}]}, "messages[0]", "found no key"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "found no key 'content'"),
    ({"messages": [{"content": "x"}]}, "messages[0]", "found no key 'role'"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", 'found "robot", allowed is "system"'),
    ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role", 'found 1, allowed is "system"'),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "found null, allowed is a string"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "found 3, allowed is a string"),
    ({"messages": [*HELLO, {"role": "user", "content": {}}]}, "messages[1].content", "found {}, allowed is a string"),
    (said(3), "messages[0].content[0]", "found 3, allowed is an object"),
    (said({}), "messages[0].content[0]", "found no key 'type'"),
    (said({"type": "text"}), "messages[0].content[0]", "found no key 'text'"),
    (said({"type": "text", "text": 3}), "messages[0].content[0].text", "found 3, allowed is a string"),
    (said({"type": "smell"}), "messages[0].content[0].type", 'found "smell", allowed is "text"'),
    (said({"type": "image_url"}), "messages[0].content[0]", "found no key 'image_url'"),
    (said({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url", "found no key 'url'"),
    (said(image(3)), "messages[0].content[0].image_url.url", "found 3, allowed is a string"),
    (said(image("")), "messages[0].content[0].image_url.url", 'found "", allowed is a string of at least'),
    (said({"type": "input_audio", "input_audio": {}}), "messages[0].content[0].input_audio", "found no key data"),
    (said({"type": "image"}), "messages[0].content[0]", "found no key image or url or path"),
    (said(*[image(f"data:image/png;base64,{PNG}")] * 65), "messages", "found 65 media, allowed are 64"),
    (said(*[{"type": "text", "text": "x"}] * 1025), "messages[0].content", "found a list of 1025"),
]

# What shows only when the media are read, or the template runs.
CONTENTS: list[tuple[Any, str]] = [
    (said(image("data:image/png;base64")), "the data: URI has no comma"),
    (said(image("data:image/png;base64,!!!!")), "is not base64"),
    (said(image("data:image/png;base64,")), "the file is empty"),
    (said(image("data:image/png,hello")), "is not a picture"),
    (said(image(f"data:image/png;base64,{PNG[:400]}")), "cannot be decoded as a picture"),
    (said(image(f"data:image/png;base64,{WAV}")), "is not a picture"),
    (said({"type": "input_audio", "input_audio": {"data": PNG}}), "is a picture, not a sound"),
    (said({"type": "input_audio", "input_audio": {"data": "a b?c"}}), "is not base64"),
    (said({"type": "input_audio", "input_audio": {"data": "x" * 5001}}), "is not base64"),
    (said({"type": "video_url", "video_url": {"url": "data:video/mp4,x"}}), "cannot be decoded as video"),
    ({"messages": [{"role": "user", "content": "<|image|>"}]}, "the text contains <|image|>"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "the chat template fails"),
    ({"messages": [{"role": "user", "content": "star " * 5000}]}, "and the model takes less than 4096"),
]


def fault(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The error object of an answer."""
    assert response.status_code == status, response.text
    document = response.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in document["error"]["message"]
    assert len(document["error"]["message"]) <= 1100
    found: dict[str, Any] = document["error"]
    return found


def test_there_are_enough_kinds() -> None:
    assert len(BODIES) + len(PARAMETERS) + len(CONTENTS) >= 100


@pytest.mark.parametrize(("sent", "message"), BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_no_request(sent: bytes, message: str, server: Running) -> None:
    assert message in fault(server.post(sent), 400)["message"]


@pytest.mark.parametrize(("wrong", "param", "message"), PARAMETERS, ids=range(len(PARAMETERS)))
def test_a_parameter_that_is_wrong_is_named(wrong: Any, param: str, message: str, server: Running) -> None:
    found = fault(server.post({"messages": HELLO, **wrong}), 400)

    assert found["param"] == param
    assert found["type"] == "invalid_request_error"
    assert found["message"].startswith(f"{param}: ")
    assert message in found["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wrong", "message"), CONTENTS, ids=range(len(CONTENTS)))
def test_what_cannot_be_used_is_refused_before_anything_is_said(
    wrong: Any, message: str, stream: bool, server: Running
) -> None:
    found = fault(server.post({**wrong, "stream": stream}), 400)

    assert message in found["message"]
    if isinstance(wrong["messages"][0]["content"], list):
        assert found["param"] == "messages[0].content[0]"
        assert found["message"].startswith("messages[0].content[0]: ")


def test_of_several_media_the_one_that_is_broken_is_named(server: Running) -> None:
    whole, broken = image(f"data:image/png;base64,{PNG}"), image(f"data:image/png;base64,{PNG[:400]}")
    sent = {"messages": [*HELLO, {"role": "user", "content": [whole, {"type": "text", "text": "x"}, broken]}]}

    assert fault(server.post(sent), 400)["param"] == "messages[1].content[2]"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "url", "data", "role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=9,
)
SOUND: dict[str, Any] = {
    "model": "e2b", "stop": ["x"], "stream": True, "stream_options": {"include_usage": True}, "seed": 1, "top_p": 0.5,
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [image("data:,x"), {"type": "input_audio", "input_audio": {"data": "x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ],
}  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything inside a document."""
    steps: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*at, step)
        yield from places(inner, (*at, step))


@given(place=st.sampled_from(list(places(SOUND))), value=ANYTHING)
def test_whatever_stands_in_a_request_is_taken_or_refused(place: tuple[Any, ...], value: Any) -> None:
    document = json.loads(json.dumps(SOUND))
    inner = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value

    try:
        read_request(json.dumps(document).encode())
    except RequestError as refusal:
        status = refusal.status
    else:
        status = 200
    assert status in (200, 400)


def test_every_neutral_parameter_is_taken(server: Running) -> None:
    neutral = {
        "model": "e2b", "max_tokens": 1, "temperature": 0, "top_p": 1, "top_k": 0, "seed": -1, "stop": [], "n": 1,
        "stream": False, "stream_options": None, "user": "me", "metadata": {"a": "b"}, "store": True, "tools": [],
        "tool_choice": "auto", "parallel_tool_calls": True, "response_format": {"type": "text"}, "logprobs": False,
        "top_logprobs": None, "logit_bias": {}, "frequency_penalty": 0.0, "presence_penalty": 0, "service_tier": "auto",
        "modalities": ["text"], "audio": None, "reasoning_effort": None, "min_p": 0, "repetition_penalty": 1.0,
    }  # fmt: skip

    assert server.post({"messages": HELLO, **neutral}).status_code == 200


def test_another_model_is_not_found(server: Running) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "input_audio", "input_audio": {"data": WAV}}, "audio"),
        ({"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{WAV}"}}, "audio"),
    ],
)
def test_a_part_that_the_model_cannot_take_is_named(part: Any, kind: str, converted: Convert) -> None:
    with running(converted("31b")) as server:
        found = fault(server.post(said({"type": "text", "text": "x"}, part)), 400)

    assert found["message"] == f"messages[0].content[1]: the model takes no {kind}, only text, image and video"
    assert found["param"] == "messages[0].content[1]"


def test_text_alone_is_taken_where_there_are_no_towers(converted: Convert) -> None:
    with running(converted("text")) as server:
        found = fault(server.post(said(image(f"data:image/png;base64,{PNG}"))), 400)

    assert found["message"] == "messages[0].content[0]: the model takes no image, only text"


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"]
)
def test_what_a_page_of_the_web_could_send_is_refused(kind: str | None, server: Running) -> None:
    sent = json.dumps({"messages": HELLO}).encode()
    found = fault(server.post(sent, {} if kind is None else {"Content-Type": kind}), 415)

    assert "it must be application/json" in found["message"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_taken_however_it_is_spelled(kind: str, server: Running) -> None:
    sent = json.dumps({"messages": HELLO, "max_tokens": 1}).encode()

    assert server.post(sent, {"Content-Type": kind}).status_code == 200


def test_nothing_lets_pages_of_other_origins_in(server: Running) -> None:
    origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    asked = httpx2.options(f"{server.url}/v1/chat/completions", headers=origin, trust_env=False, verify=False)
    answered = server.post({"messages": HELLO, "max_tokens": 1}, {**HEADERS, **origin})

    fault(asked, 405)
    assert not [name for found in (asked, answered) for name in found.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/v1/completions", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/../../etc/passwd", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/health", 405),
    ],
)
def test_what_is_not_there_has_the_same_shape(method: str, path: str, status: int, server: Running) -> None:
    fault(httpx2.request(method, f"{server.url}{path}", trust_env=False, verify=False), status)


def test_a_body_that_is_too_large_is_not_read(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LARGEST_BODY", 1000)
    document = {"messages": HELLO, "max_tokens": 1}
    fits = json.dumps(document).encode().ljust(1000)

    assert server.post(fits).status_code == 200
    assert "more than 1000 bytes" in fault(server.post(fits + b" "), 413)["message"]
    url = f"{server.url}/v1/chat/completions"
    pieces = httpx2.post(url, headers=HEADERS, content=iter([fits, b" "]), trust_env=False, verify=False)
    assert "more than 1000 bytes" in fault(pieces, 413)["message"]


def test_a_body_that_comes_too_slowly_is_given_up(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "SECONDS", 0.1)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((LOOPBACK, server.port), PATIENCE) as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = connection.recv(10_000)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert wait_for(lambda: server.chat.inside == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_our_own_is_a_line_and_the_server_lives_on(
    stream: bool, server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the device\nis gone")

    with monkeypatch.context() as patch:
        patch.setattr("g4convert.loaders.serving.answering.stream", fail)
        found = fault(server.post({"messages": HELLO, "stream": stream}), 500)

    assert found["type"] == "server_error"
    assert "device" not in found["message"]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("g4convert")] == [
        "serve: RuntimeError: the device is gone"
    ]
    assert server.post({"messages": HELLO, "max_tokens": 1}).status_code == 200


def test_a_fault_in_the_middle_of_a_stream_is_its_last_event(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(*_: object, **__: object) -> Iterator[Piece]:
        yield Piece("hel")
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("g4convert.loaders.serving.answering.stream", pieces)
    chunks = server.client().chat.completions.create(model="e2b", messages=HELLO, stream=True)
    shown: list[str] = []
    with pytest.raises(openai.APIError, match="the server failed"):
        shown.extend(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert "".join(shown) == "hel"
    lines = server.post({"messages": HELLO, "stream": True}).text.split("\n\n")
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["type"] == "server_error"


KEY = "a secret"


@pytest.fixture(scope="module")
def locked(converted: Convert) -> Iterator[Running]:
    with running(converted("e2b"), ServeOptions(api_key=KEY)) as found:
        yield found


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "Bearer",
        "Bearer a",
        f"Bearer {KEY}x",
        "Bearer A SECRET",
        f"Basic {KEY}",
        KEY,
        "Bearer \xe4",
    ],
)
def test_without_the_key_nothing_is_answered(sent: str | None, locked: Running) -> None:
    headers = HEADERS if sent is None else {**HEADERS, "Authorization": sent.encode("latin-1")}
    found = fault(locked.post({"messages": HELLO}, headers), 401)

    assert found["code"] == "invalid_api_key"
    assert KEY not in found["message"]
    models = httpx2.get(f"{locked.url}/v1/models", trust_env=False, verify=False)
    assert models.status_code == 401


def test_with_the_key_everything_is(locked: Running) -> None:
    client = locked.client(api_key=KEY)

    assert [entry.id for entry in client.models.list()] == ["e2b"]
    assert client.chat.completions.create(model="e2b", messages=HELLO, max_tokens=1).choices
    with pytest.raises(openai.AuthenticationError):
        locked.client(api_key="another").models.list()


def test_health_needs_no_key(locked: Running) -> None:
    assert httpx2.get(f"{locked.url}/health", trust_env=False, verify=False).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1", 200),
        ("127.1.2.3:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("192.168.0.1", 403),
        ("0.0.0.0", 403),
        ("localhost:8080:evil", 403),
        ("", 403),
    ],
)
def test_the_name_of_a_page_of_the_web_is_not_ours(host: str, status: int, server: Running) -> None:
    found = httpx2.get(f"{server.url}/v1/models", headers={"Host": host}, trust_env=False, verify=False)

    assert found.status_code == status
    if status == 403:
        assert "it must be localhost" in fault(found, 403)["message"]


def test_elsewhere_a_server_may_be_called_anything(converted: Convert) -> None:
    with running(converted("e2b"), names=None) as server:
        found = httpx2.get(f"{server.url}/v1/models", headers={"Host": "my.mac"}, trust_env=False, verify=False)

    assert found.status_code == 200


def test_every_refusal_has_made_room(server: Running) -> None:
    assert isinstance(server.chat, endpoint.Chat)
    assert wait_for(lambda: server.chat.inside == 0)
