"""OpenAI's own client, unmodified: right answers to text, pictures, sounds, clips, in one piece and in many."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from g4convert.loaders import LoadedModel, generate, load
from g4convert.loaders.generation import run
from g4convert.loaders.messages import Attachment
from g4convert.loaders.serving import ServeOptions, make_app
from g4convert.tests.conftest import Convert
from g4convert.tests.loaders.serving.running import (
    HEADERS,
    MEDIA_QUESTIONS,
    PATIENCE,
    QUESTIONS,
    QUESTIONS_FOLDER,
    Running,
    endless,
    running,
)
from g4convert.tests.support import read_json

TYPES = {".png": "image/png", ".wav": "audio/wav", ".mp4": "video/mp4"}
CONTEXT = 128
PARAMETERS: dict[str, Any] = {"temperature": 0, "max_tokens": 16}


def uri(file: str) -> str:
    data = base64.b64encode((QUESTIONS_FOLDER / file).read_bytes()).decode()
    return f"data:{TYPES[Path(file).suffix]};base64,{data}"


def part(medium: dict[str, str]) -> dict[str, Any]:
    """A medium as OpenAI's clients send it."""
    link = uri(medium["file"])
    if medium["type"] == "audio":
        return {"type": "input_audio", "input_audio": {"data": link.partition(",")[2], "format": "wav"}}
    return {"type": f"{medium['type']}_url", f"{medium['type']}_url": {"url": link}}


def messages(entry: Any) -> Any:
    """A question with its media as messages."""
    media = [part(medium) for medium in entry.get("media", ())]
    return [{"role": "user", "content": [*media, {"type": "text", "text": entry["question"]}]}]


def ask(client: openai.OpenAI, entry: Any, **options: Any) -> str:
    found = client.chat.completions.create(messages=messages(entry), **{"model": "e2b", **PARAMETERS, **options})
    return found.choices[0].message.content or ""


def ask_in_pieces(client: openai.OpenAI, entry: Any, **options: Any) -> list[str]:
    stream = client.chat.completions.create(
        model="e2b", messages=messages(entry), stream=True, **{**PARAMETERS, **options}
    )
    return [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]


def test_every_answer_is_right(server: Running) -> None:
    client = server.client()
    media = [MEDIA_QUESTIONS[index] for index in (1, 2, 7, 8, 11, 15, 16)]
    entries = [*QUESTIONS[::3], *media]

    kinds = {" ".join(medium["type"] for medium in entry["media"]) for entry in media}
    assert {"image", "audio", "video", "image audio", "image audio video"} <= kinds
    assert [ask(client, entry) for entry in entries] == [entry["answer"] for entry in entries]


def test_the_12b_answers_as_well(converted: Convert) -> None:
    known = read_json(QUESTIONS_FOLDER / "12b.json")
    media = [MEDIA_QUESTIONS[index] for index in known["media"][::4]]
    entries = [*(QUESTIONS[index] for index in known["text"][::4]), *media]
    with running(converted("12b", quantize=False)) as server:
        client = server.client()
        said = [ask(client, entry, model="12b") for entry in entries]

    assert said == [entry["answer"] for entry in entries]


def test_pieces_make_the_whole_and_are_what_run_says(server: Running, converted: Convert) -> None:
    client = server.client()
    for entry in (QUESTIONS[7], MEDIA_QUESTIONS[5], MEDIA_QUESTIONS[17]):
        pieces = ask_in_pieces(client, entry)
        media = [Attachment(medium["type"], QUESTIONS_FOLDER / medium["file"]) for medium in entry.get("media", ())]
        ran = run(converted("e2b"), prompt=entry["question"], attachments=media, max_tokens=16)

        assert "".join(pieces) == ask(client, entry) == ran.text == entry["answer"]


def test_a_seed_gives_the_same_answer_in_pieces_and_as_a_whole(server: Running) -> None:
    client, sampled = server.client(), {"temperature": 2, "top_p": 1, "extra_body": {"top_k": 0}}
    wholes = [ask(client, QUESTIONS[0], seed=seed, **sampled) for seed in (1, 2, 3, -1)]

    assert ["".join(ask_in_pieces(client, QUESTIONS[0], seed=seed, **sampled)) for seed in (1, 2, 3, -1)] == wholes
    assert len(set(wholes)) > 1


def test_without_a_temperature_answers_differ(server: Running) -> None:
    client = server.client()
    said = {ask(client, {"question": "?"}, temperature=openai.omit, extra_body={"top_k": 0}) for _ in range(8)}

    assert len(said) > 1


def test_tokens_are_counted(server: Running, converted: Convert) -> None:
    client, model = server.client(), load(converted("e2b"))
    for entry in (QUESTIONS[7], MEDIA_QUESTIONS[14]):
        media = [Attachment(medium["type"], QUESTIONS_FOLDER / medium["file"]) for medium in entry.get("media", ())]
        prompt = model.prompt.prepare(entry["question"], attachments=media)
        tokens = len(generate(model, prompt, max_tokens=16).tokens)
        create: Any = client.chat.completions.create
        whole = create(model="e2b", messages=messages(entry), **PARAMETERS)
        *_, last = create(
            model="e2b", messages=messages(entry), stream=True, stream_options={"include_usage": True}, **PARAMETERS
        )

        found = (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens)
        assert found == (len(prompt.ids), tokens, len(prompt.ids) + tokens)
        assert last.usage == whole.usage
        assert last.choices == []


def test_the_objects_are_those_of_openai(server: Running) -> None:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    whole = server.post(body).json()
    lines = server.post({**body, "stream": True}).text.split("\n\n")

    assert whole["object"] == "chat.completion"
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert lines[-2:] == ["data: [DONE]", ""]
    assert '"delta":{"role":"assistant","content":""}' in lines[0]
    assert '"delta":{},"logprobs":null,"finish_reason":"stop"' in lines[-3]
    assert not any("usage" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"stop": "leaf"}, "star glass ", "stop"),
        ({"stop": ["x", "ss le"]}, "star gla", "stop"),
        ({"stop": []}, "star glass leaf house", "stop"),
        ({"max_tokens": 2}, "star glass", "length"),
        ({"max_tokens": None, "max_completion_tokens": 3}, "star glass leaf", "length"),
        ({"max_tokens": None}, "star glass leaf house", "stop"),
    ],
)
def test_where_an_answer_ends(options: Any, text: str, reason: str, server: Running) -> None:
    client = server.client()
    create: Any = client.chat.completions.create
    asked = {"model": "e2b", "messages": messages(QUESTIONS[7]), **PARAMETERS, **options}
    whole, pieces = create(**asked).choices[0], [chunk.choices[0] for chunk in create(**asked, stream=True)]

    assert (whole.message.content, whole.finish_reason) == (text, reason)
    assert ("".join(piece.delta.content or "" for piece in pieces), pieces[-1].finish_reason) == (text, reason)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_turn_counts(role: str, server: Running) -> None:
    asked = [{"role": role, "content": "be brief"}, {"role": "user", "content": "What is the capital of France?"}]
    tokens = server.post({"messages": asked, "max_tokens": 1}).json()["usage"]["prompt_tokens"]

    assert tokens > server.post({"messages": asked[1:], "max_tokens": 1}).json()["usage"]["prompt_tokens"]
    assert (
        tokens == server.post({"messages": [{**asked[0], "role": "system"}, asked[1]]}).json()["usage"]["prompt_tokens"]
    )


@pytest.mark.parametrize(
    ("index", "options", "fewer"),
    [(10, {"max_frames": 1}, True), (10, {"fps": 0.5}, True), (0, {"image_tokens": 140}, False)],
)
def test_a_request_says_how_its_media_are_read(index: int, options: Any, fewer: bool, server: Running) -> None:
    def tokens(extra: Any) -> int:
        create: Any = server.client().chat.completions.create
        found = create(model="e2b", messages=messages(MEDIA_QUESTIONS[index]), extra_body=extra, **PARAMETERS)
        return int(found.usage.prompt_tokens)

    usual, found = tokens({}), tokens(options)
    assert found < usual if fewer else found > usual


def test_what_the_server_was_told_holds_for_requests_that_say_nothing(converted: Convert) -> None:
    body = {"messages": messages(MEDIA_QUESTIONS[10]), **PARAMETERS}
    with running(converted("e2b"), ServeOptions(max_frames=1)) as server:
        told = server.post(body).json()["usage"]
        asked = server.post({**body, "max_frames": 3}).json()["usage"]

    assert told["prompt_tokens"] < asked["prompt_tokens"]


@pytest.fixture(scope="module")
def endless_server(converted: Convert) -> Iterator[Running]:
    def change(model: LoadedModel) -> LoadedModel:
        text = replace(model.config.text, max_position_embeddings=CONTEXT)
        return endless(replace(model, config=replace(model.config, text=text)))

    with running(converted("e2b"), ServeOptions(max_tokens=20), change=change) as found:
        yield found


def test_an_answer_ends_at_the_servers_limit(endless_server: Running) -> None:
    found = endless_server.post({"messages": [{"role": "user", "content": "x"}]}).json()

    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 20


def test_an_answer_ends_with_the_context(endless_server: Running) -> None:
    def asked(words: int) -> httpx2.Response:
        return endless_server.post({"messages": [{"role": "user", "content": "star " * words}], "temperature": 0})

    tokens = asked(10).json()["usage"]["prompt_tokens"]
    nearly = asked(CONTEXT - tokens + 10 - 5).json()
    over = asked(CONTEXT)

    assert nearly["usage"]["total_tokens"] == CONTEXT
    assert (nearly["usage"]["completion_tokens"], nearly["choices"][0]["finish_reason"]) == (5, "length")
    assert (over.status_code, over.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_the_models_are_listed(server: Running) -> None:
    client = server.client()

    assert [(entry.id, entry.object) for entry in client.models.list()] == [("e2b", "model")]
    assert client.models.retrieve("e2b").id == "e2b"
    with pytest.raises(openai.NotFoundError, match="model: found 'other', served is 'e2b'"):
        client.models.retrieve("other")


def test_health_is_told(server: Running) -> None:
    assert httpx2.get(f"{server.url}/health", trust_env=False).json() == {"status": "ok"}


def test_any_application_server_will_do(converted: Convert) -> None:
    """A model that was loaded in another thread, without our server."""
    app = make_app(load(converted("e2b")), ServeOptions(), name="mine")

    async def asked() -> list[str]:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE) as client:
            answers = []
            for entry in (QUESTIONS[0], *(MEDIA_QUESTIONS[index] for index in (0, 5, 10))):
                body = {"messages": messages(entry), **PARAMETERS}
                found = await client.post("/v1/chat/completions", json=body, headers=HEADERS)
                answers.append(found.json()["choices"][0]["message"]["content"])
        return answers

    assert asyncio.run(asked()) == [QUESTIONS[0]["answer"], *(MEDIA_QUESTIONS[index]["answer"] for index in (0, 5, 10))]
