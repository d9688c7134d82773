"""Links that come over HTTP: nothing but what they bring along, unless whoever runs the server says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from g4convert.loaders.serving import ServeOptions
from g4convert.tests.conftest import Convert
from g4convert.tests.loaders.serving.running import QUESTIONS_FOLDER, Running, running

PICTURE = "picture-1.png"


def asked(kind: str, link: Any) -> dict[str, Any]:
    parts = [{"type": kind, kind: link}, {"type": "text", "text": "Where is it?"}]
    return {"messages": [{"role": "user", "content": parts}], "temperature": 0}


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture(scope="module")
def host() -> Iterator[int]:
    """A host of pictures on this machine: its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=QUESTIONS_FOLDER))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "audio_url", "video_url", "image", "audio", "video"])
@pytest.mark.parametrize(
    "link",
    [
        f"{QUESTIONS_FOLDER}/{PICTURE}",
        f"file://{QUESTIONS_FOLDER}/{PICTURE}",
        PICTURE,
        "/dev/zero",
        "http://127.0.0.1:{0}/picture-1.png",
        "http://localhost:{0}/picture-1.png",
    ],
    ids=range(6),
)
def test_nothing_is_reached_unless_it_is_allowed(kind: str, link: str, server: Running, host: int) -> None:
    for form in (link.format(host), {"url": link.format(host)}):
        found = server.post(asked(kind, form))

        assert found.status_code == 400, found.text
        assert "allowed" in found.json()["error"]["message"] or kind in ("image", "audio", "video")


def test_base64_that_is_a_path_is_neither(server: Running) -> None:
    found = server.post(asked("input_audio", {"data": str(QUESTIONS_FOLDER / "sound-1.wav")}))

    assert (found.status_code, "is not base64" in found.text) == (400, True)


def test_what_is_allowed_is_reached(converted: Convert, host: int) -> None:
    options = ServeOptions(hosts=frozenset({"127.0.0.1"}), private=True, folders=(QUESTIONS_FOLDER,))
    links = (f"http://127.0.0.1:{host}/{PICTURE}", f"file://{QUESTIONS_FOLDER}/{PICTURE}", PICTURE)
    with running(converted("e2b"), options) as server:
        found = [server.post(asked("image_url", {"url": link})) for link in links]
        elsewhere = server.post(asked("image_url", {"url": f"{QUESTIONS_FOLDER}/../e2b/config.json"}))

    assert [one.json()["choices"][0]["message"]["content"] for one in found] == ["middle"] * 3
    assert elsewhere.status_code == 400


def test_a_host_alone_is_not_enough_at_home(converted: Convert, host: int) -> None:
    with running(converted("e2b"), ServeOptions(hosts=frozenset({"127.0.0.1"}))) as server:
        found = server.post(asked("image_url", {"url": f"http://127.0.0.1:{host}/{PICTURE}"}))

    assert (found.status_code, "of this machine or of a private network" in found.text) == (400, True)
