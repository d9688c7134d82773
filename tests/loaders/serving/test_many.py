"""Many requests at once: none lost, none mixed up, no more held than places, and those who leave make room."""

from __future__ import annotations

import base64
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx2
import mlx.core as mx
import openai
import pytest
from g4convert.loaders.generation import Sampler
from g4convert.loaders.merge import Merged
from g4convert.loaders.prompt import Prompt, PromptFormat
from g4convert.loaders.renderer import resident
from g4convert.loaders.serving import ServeOptions
from g4convert.loaders.text import TextInputs
from g4convert.tests.conftest import Convert
from g4convert.tests.loaders.serving.running import (
    LOOPBACK,
    PATIENCE,
    QUESTIONS,
    QUESTIONS_FOLDER,
    Running,
    endless,
    running,
    wait_for,
)

MANY, FEW = 20, 2
# A client that leaves has made room after this time.
SECONDS = 1.0
WARMING, MEASURED = 10, 30
BALLAST = 1_000_000


def body(question: str, **options: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, **options}


def ask(client: openai.OpenAI, entry: Any) -> str:
    """The answer, or why there is none and after how many seconds to ask again."""
    try:
        found = client.chat.completions.create(model="e2b", **body(entry["question"]))
    except openai.RateLimitError as error:
        return f"{error.code} {error.response.headers['retry-after']}"
    return found.choices[0].message.content or ""


def test_twenty_at_once_are_all_answered_rightly(converted: Convert) -> None:
    entries = QUESTIONS[:MANY]
    with running(converted("e2b"), ServeOptions(queue=MANY)) as server, ThreadPoolExecutor(MANY) as pool:
        said = list(pool.map(partial(ask, server.client()), entries))

    assert len({entry["question"] for entry in entries}) == MANY
    assert said == [entry["answer"] for entry in entries]


def test_more_than_may_wait_are_told_so_and_the_others_are_answered(converted: Convert) -> None:
    entries = QUESTIONS[:MANY]
    with running(converted("e2b"), ServeOptions(queue=FEW)) as server, ThreadPoolExecutor(MANY) as pool:
        client = server.client()
        with server.blocked():
            futures = [pool.submit(ask, client, entry) for entry in entries]
            assert wait_for(lambda: sum(future.done() for future in futures) >= MANY - FEW - 1)
            assert server.chat.inside == FEW + 1
        said = [future.result() for future in futures]

    refusal = "rate_limit_exceeded 1"
    assert said.count(refusal) == MANY - FEW - 1
    assert all(found in (entry["answer"], refusal) for found, entry in zip(said, entries, strict=True))


def test_requests_are_answered_in_the_order_in_which_they_come(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    prepare = PromptFormat.prepare

    def noted(self: PromptFormat, prompt: Any, **options: Any) -> Prompt:
        begun.append(prompt[-1]["content"])
        return prepare(self, prompt, **options)

    monkeypatch.setattr(PromptFormat, "prepare", noted)
    client = server.client()
    with ThreadPoolExecutor(8) as pool, server.blocked():
        for number, entry in enumerate(QUESTIONS[:8]):
            pool.submit(ask, client, entry)
            assert wait_for(lambda number=number: server.waiting == number + 1)  # type: ignore[misc]

    assert begun == [entry["question"] for entry in QUESTIONS[:8]]


@contextmanager
def asked(server: Running, document: Any) -> Iterator[socket.socket]:
    """A request whose answer nobody has read yet."""
    data = json.dumps(document).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((LOOPBACK, server.port), PATIENCE) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        yield connection


@pytest.fixture
def slow(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server whose answers take a minute, and whose prompts do when they are long."""
    passes, sample = Merged.passes, Sampler.__call__

    def slow_passes(self: Merged, chunk: int) -> Iterator[tuple[int, int]]:
        for part in passes(self, 10):
            time.sleep(0.05)
            yield part

    def slow_sample(self: Sampler, logits: mx.array) -> mx.array:
        time.sleep(0.05)
        return sample(self, logits)

    monkeypatch.setattr(Merged, "passes", slow_passes)
    monkeypatch.setattr(Sampler, "__call__", slow_sample)
    with running(converted("e2b"), ServeOptions(queue=FEW), change=endless) as found:
        yield found


def leaves(server: Running, document: Any, arrived: Callable[[socket.socket], bool]) -> bool:
    """Whether a client that hangs up, once it has arrived where it should, has made room in time."""
    with asked(server, document) as connection:
        assert wait_for(lambda: server.chat.inside == 1)
        assert arrived(connection)
    return wait_for(lambda: server.chat.inside == 0, SECONDS)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_in_the_prefill_makes_room(stream: bool, slow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, inputs = threading.Event(), Merged.inputs

    def noted(*arguments: Any) -> TextInputs:
        begun.set()
        return inputs(*arguments)

    monkeypatch.setattr(Merged, "inputs", noted)

    assert leaves(slow, body("star " * 1500, stream=stream), lambda _: begun.wait(PATIENCE))


def test_who_leaves_in_a_stream_makes_room(slow: Running) -> None:
    def streaming(connection: socket.socket) -> bool:
        data = b""
        while data.count(b'"content":') < 3:
            data += connection.recv(1000)
        return True

    assert leaves(slow, body("x", stream=True), streaming)


def test_who_leaves_before_the_answer_is_whole_makes_room(slow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = 0
    sample = Sampler.__call__

    def counted(self: Sampler, logits: mx.array) -> mx.array:
        nonlocal tokens
        tokens += 1
        return sample(self, logits)

    monkeypatch.setattr(Sampler, "__call__", counted)

    assert leaves(slow, body("x"), lambda _: wait_for(lambda: tokens > 3))


def test_who_leaves_while_waiting_makes_room_and_is_never_begun(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(PromptFormat, "prepare", lambda self, prompt, **_: begun.append(prompt))
    with server.blocked():
        assert leaves(server, body("x"), lambda _: True)
    server.worker.call(lambda: None)

    assert begun == []


def test_who_asks_how_it_is_need_not_wait(server: Running) -> None:
    with server.blocked(), asked(server, body("x")):
        assert wait_for(lambda: server.chat.inside == 1)
        assert httpx2.get(f"{server.url}/health", trust_env=False, verify=False).status_code == 200
        assert server.chat.inside == 1


def test_who_leaves_while_sending_makes_room(server: Running) -> None:
    with socket.create_connection((LOOPBACK, server.port), PATIENCE) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert wait_for(lambda: server.chat.inside == 1)

    assert wait_for(lambda: server.chat.inside == 0, SECONDS)


def test_after_those_who_left_others_are_answered(slow: Running) -> None:
    for _ in range(2 * FEW + 1):
        assert leaves(slow, body("x", stream=True), lambda connection: bool(connection.recv(10)))

    assert slow.post(body("x", max_tokens=1)).status_code == 200


def test_memory_stays_flat(server: Running) -> None:
    """Each request shows something, and brings a megabyte that nobody looks at."""
    noise = random.Random(0)
    sound = base64.b64encode((QUESTIONS_FOLDER / "sound-1.wav").read_bytes()).decode()
    parts = [{"type": "input_audio", "input_audio": {"data": sound}}, {"type": "text", "text": "How many beeps?"}]

    def once() -> None:
        ballast = {"metadata": {"noise": noise.randbytes(BALLAST // 2).hex()}}
        found = server.post({"messages": [{"role": "user", "content": parts}], "temperature": 0, **ballast})
        assert found.json()["choices"][0]["message"]["content"] == "one"

    for _ in range(WARMING):
        once()
    before = resident(os.getpid())
    for _ in range(MEASURED):
        once()

    assert resident(os.getpid()) - before < MEASURED * BALLAST / 3
