"""`g4convert run` with pictures, sounds and clips, as a user meets it: answers, and one line for every error."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import av
import numpy as np
import pytest
from g4convert.convert.cli import main
from g4convert.loaders import generation
from g4convert.tests.media import make_media
from g4convert.tests.support import CHECKPOINTS, edit_json, only_error_line

Convert = Callable[..., Path]
Write = Callable[[str, bytes], str]

QUESTIONS = CHECKPOINTS / "questions"
PICTURE, SOUND, CLIP = (str(QUESTIONS / name) for name in ("picture-1.png", "sound-1.wav", "clip-1.mp4"))
WHERE = ("-p", "Where is it?")


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    status: object
    out: str
    err: str


@pytest.fixture
def run(converted: Convert, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`g4convert run KIND ...` in this process, answers cut at a few tokens."""

    def call(*arguments: str, kind: str = "e2b") -> Done:
        model = str(converted(kind))
        monkeypatch.setattr(sys, "argv", ["g4convert", "run", model, "--max-tokens", "8", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return Done(exit_.value.code, printed.out, printed.err)

    return call


Run = Callable[..., Done]


@pytest.fixture
def fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The one line of a command that must fail before the weights are read."""
    monkeypatch.setattr(generation, "load", None)

    def call(*arguments: str, kind: str = "e2b") -> str:
        done = run(*arguments, kind=kind)
        assert (done.status, done.out) == (2, ""), done
        return only_error_line(done.err)

    return call


Fails = Callable[..., str]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    """Write a file and give its path."""

    def write(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return write


def flags(*media: tuple[str, str]) -> list[str]:
    return [word for flag, path in media for word in (f"--{flag}", path)]


def medium(name: str) -> str:
    return str(QUESTIONS / name)


def said(*parts: dict[str, Any], text: str = "Where is it?") -> bytes:
    return json.dumps([{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]).encode()


ASKED: list[tuple[list[str], str, str]] = [
    (flags(("audio", medium("sound-2.wav"))), "How many beeps?", "two"),
    (
        flags(("image", medium("picture-7.png")), ("audio", medium("sound-7.wav"))),
        "What colour is the shape and how many beeps?",
        "purple four",
    ),
    (
        flags(("video", medium("clip-5.mp4")), ("audio", medium("sound-8.wav")), ("image", medium("picture-8.png"))),
        "What colour is the shape, how many beeps and which way does it move?",
        "cyan two left",
    ),
]


@pytest.mark.parametrize(("media", "question", "answer"), ASKED, ids=lambda value: str(value)[-20:])
def test_media_of_the_command_line_are_answered_about(media: list[str], question: str, answer: str, run: Run) -> None:
    done = run("-p", question, *media)

    assert (done.status, done.out) == (0, f"{answer}\n")
    assert done.err.startswith("media ")
    assert len(done.err.splitlines()) == 1


def test_flags_may_be_repeated_and_json_counts_the_tokens_of_media(run: Run) -> None:
    one = json.loads(run(*WHERE, "--json", "--image", PICTURE).out)
    many = run(*WHERE, "--json", "--image", PICTURE, "--audio", SOUND, "--image", medium("picture-8.png"))
    document = json.loads(many.out)

    assert many.err == ""
    assert one["stats"]["media_tokens"] == 70
    assert document["stats"]["media_tokens"] == 70 + 66 + 12
    assert document["stats"]["prompt_tokens"] > document["stats"]["media_tokens"]
    assert document["stats"]["encode_seconds"] > 0


def test_json_of_text_alone_counts_no_media(run: Run) -> None:
    assert json.loads(run(*WHERE, "--json").out)["stats"]["media_tokens"] == 0


def test_messages_bring_media_from_their_own_folder(run: Run, file: Write) -> None:
    file("media/a:b.png", whole(medium("picture-4.png")))
    talk = file("talk.json", said({"type": "image_url", "image_url": {"url": "media/a:b.png"}}))

    assert run("--messages", talk).out == "right\n"


def test_messages_may_hold_the_media_themselves(run: Run, file: Write) -> None:
    data = base64.encodebytes(Path(medium("sound-2.wav")).read_bytes()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}

    assert run("--messages", file("talk.json", said(part, text="How many beeps?"))).out == "two\n"


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        (["--image", PICTURE, "--image-tokens", "140"], 71, 140),
        (["--video", CLIP, "--max-frames", "1"], 64, 64),
        (["--video", CLIP, "--fps", "0.7", "--timestamps", "index"], 2 * 64, 2 * 64),
    ],
)
def test_options_of_media(options: list[str], least: int, most: int, run: Run) -> None:
    stats = json.loads(run("-p", "x", "--json", *options).out)["stats"]

    assert least <= stats["media_tokens"] <= most


def png(width: int, height: int) -> bytes:
    """The header of a picture, with hardly any pixels behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def half(path: str) -> bytes:
    data = Path(path).read_bytes()
    return data[: len(data) // 2 + 1]


def whole(path: str) -> bytes:
    return Path(path).read_bytes()


def silence(count: int) -> bytes:
    return make_media.wav(np.zeros(count, np.float32))


def without_frames() -> bytes:
    """The header of a clip."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="avi") as container:
        track: Any = container.add_stream("mpeg4", rate=24)
        track.width, track.height, track.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    return stream.getvalue()


NOISE = np.random.default_rng(1).bytes(5000)
DAMAGED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "an empty picture": ("image", bytes, "the file is empty"),
    "an empty sound": ("audio", bytes, "the file is empty"),
    "an empty clip": ("video", bytes, "the file is empty"),
    "half a picture": ("image", lambda: half(PICTURE), "truncated"),
    "half a sound": ("audio", lambda: half(SOUND), "is cut off"),
    "half a clip": ("video", lambda: half(CLIP), "cannot be decoded as video"),
    "noise for a picture": ("image", lambda: NOISE, "is not a picture"),
    "noise for a sound": ("audio", lambda: NOISE, "cannot be decoded as sound"),
    "noise for a clip": ("video", lambda: NOISE, "cannot be decoded as video"),
    "a sound for a picture": ("image", lambda: whole(SOUND), "is not a picture"),
    "a clip for a picture": ("image", lambda: whole(CLIP), "is not a picture"),
    "a picture for a sound": ("audio", lambda: whole(PICTURE), "is a picture, not a sound"),
    "a mute clip for a sound": ("audio", lambda: whole(CLIP), "has no audio stream"),
    "a picture for a clip": ("video", lambda: whole(PICTURE), "is a picture, not a video"),
    "a sound for a clip": ("video", lambda: whole(SOUND), "has no video stream"),
    "a picture without a side": ("image", lambda: png(0, 8), "is not a picture"),
    "a picture like a bomb": ("image", lambda: png(60_000, 60_000), "more than 89478485 pixels"),
    "a picture just too large": ("image", lambda: png(9461, 9461), "more than 89478485 pixels"),
    "a picture cut to its header": ("image", lambda: png(100, 100)[:60], "cannot be decoded as a picture"),
    "a sound without samples": ("audio", lambda: silence(0), "holds no samples"),
    "a sound too short": ("audio", lambda: silence(160), "has 160 samples at 16000 Hz, too few"),
    "a sound too long": ("audio", lambda: silence(16000 * 600), "600.0 s of sound, and a clip holds 30.0 s at most"),
    "a clip without frames": ("video", without_frames, "holds no frames"),
    "a playlist": ("audio", lambda: b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "cannot be decoded as sound"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_that_is_no_such_medium_is_one_line(case: str, fails: Fails, file: Write) -> None:
    flag, data, message = DAMAGED[case]
    path = file("some.file", data())

    line = fails(*WHERE, f"--{flag}", path)

    assert line.startswith(f"g4convert: {path}: ")
    assert message in line
    assert "; " in line


@pytest.mark.parametrize("flag", ["image", "audio", "video"])
@pytest.mark.parametrize("path", ["nowhere.bin", "", "/", "\x1b[31mred\n", "\udcff"])
def test_a_path_that_leads_to_no_file_is_one_line(flag: str, path: str, fails: Fails) -> None:
    line = fails(*WHERE, f"--{flag}", path)

    assert "there is no such file" in line or "cannot be opened" in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--image", PICTURE, "--image-tokens", "71"],
            "a picture cannot take 71 tokens at most; choose one of 70, 140,",
        ),
        (
            ["--image", PICTURE, "--image-tokens", "many"],
            "Invalid value for '--image-tokens': 'many' is not a valid in",
        ),
        (["--video", CLIP, "--fps", "0"], "a clip cannot be read at 0.0 frames a second; give a number above 0"),
        (["--video", CLIP, "--fps", "-1"], "a clip cannot be read at -1.0 frames a second"),
        (["--video", CLIP, "--fps", "nan"], "a clip cannot be read at nan frames a second"),
        (["--video", CLIP, "--max-frames", "0"], "a clip cannot have 0 frames; give 1 or more"),
        (["--video", CLIP, "--timestamps", "never"], "'never' is not one of 'true', 'index'; see g4convert run --help"),
        (["--image", "http://127.0.0.1:1/x"], "leads to the host 127.0.0.1, which is not allowed; download it yoursel"),
        (["--image", "ftp://127.0.0.1/x"], "takes no ftp: URL; give a path, or a data: URI"),
        (["--image", "file:///etc/passwd"], "say --allow-host localhost"),
        (["--image", "data:image/png;base64"], "the data: URI has no comma"),
        (["--image", "data:,\udcff"], "the URL is not UTF-8 text"),
        (["--audio", "data:audio/wav;base64,AAA"], "is not base64"),
        (["--image-tokens", "71"], "a picture cannot take 71 tokens at most"),
        (["--fps", "0"], "a clip cannot be read at 0.0 frames a second"),
        (["--max-frames", "0"], "a clip cannot have 0 frames"),
        (["--max-tokens", "0"], "the number of tokens is 0"),
        (["-p", "<|image|>", "--image", PICTURE], "the text contains <|image|>, which stands for a medium"),
    ],
)
def test_a_call_that_is_wrong_is_one_line(options: list[str], message: str, fails: Fails) -> None:
    assert message in fails(*WHERE, *options)


@pytest.mark.parametrize(
    ("kind", "flag", "takes"),
    [
        ("26b-a4b", "audio", "only text, image and video"),
        ("31b", "audio", "only text, image and video"),
        ("text", "image", "only text"),
    ],
)
def test_a_model_that_lacks_a_modality_says_what_it_takes(kind: str, flag: str, takes: str, fails: Fails) -> None:
    line = fails(*WHERE, f"--{flag}", "/not/even/there", kind=kind)

    assert line == f"g4convert: the model takes no {flag}, {takes}; leave it out, or take another checkpoint"


@pytest.mark.parametrize("kind", ["31b", "12b"])
def test_larger_kinds_see(kind: str, run: Run) -> None:
    done = run(*WHERE, "--image", PICTURE, "--json", kind=kind)

    assert (done.status, done.err) == (0, "")
    assert json.loads(done.out)["stats"]["media_tokens"] == 70


def test_media_beside_messages_are_refused(fails: Fails, file: Write) -> None:
    talk = file("talk.json", said())

    assert "media stand in the messages or beside a question, not both" in fails("--messages", talk, "--image", PICTURE)


def test_media_need_a_prompt(fails: Fails) -> None:
    assert "one prompt is needed; give either -p TEXT or --messages FILE.json" in fails("--image", PICTURE)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (said({"type": "image"}), "talk.json: $[0].content[0]: found no key image or url or path, allowed is"),
        (said({"type": "picture", "url": "x"}), 'talk.json: $[0].content[0].type: found "picture", allowed is'),
        (b'[{"role": "user"}]', "talk.json: $[0]: found no key 'content', allowed is"),
        (b"{", "talk.json: not valid JSON: "),
        (b"", "talk.json: not valid JSON: "),
        (b"\xff", "talk.json: cannot be read: "),
        (said({"type": "image", "image": "x" * 10**6}), "has 1000000 characters, too many for a path"),
        (said({"type": "image", "image": "http://" + "x" * 10**6}), "which is not allowed"),
        (said({"type": "input_audio", "input_audio": {"data": "!" * 10**6}}), "is not base64"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_messages_that_are_wrong_are_one_short_line(document: bytes, message: str, fails: Fails, file: Write) -> None:
    line = fails("--messages", file("talk.json", document))

    assert message in line
    assert len(line) < 1100


def test_a_processor_config_that_is_missing_is_named(
    converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(converted("e2b"), tmp_path / "model"))
    (folder / "processor_config.json").unlink()
    monkeypatch.setattr(generation, "load", None)
    monkeypatch.setattr(sys, "argv", ["g4convert", "run", str(folder), *WHERE, "--image", PICTURE])

    with pytest.raises(SystemExit):
        main()
    assert "processor_config.json: the file is missing" in only_error_line(capsys.readouterr().err)


@pytest.fixture
def address() -> Any:
    """The address of a server on this machine that hands out the questions' media."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, directory=str(QUESTIONS), **more)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_host_that_is_allowed_is_asked(run: Run, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    picture = f"{address}/picture-4.png"

    assert run(*WHERE, "--image", picture, "--allow-host", "example.org", "--allow-host", "127.0.0.1").out == "right\n"
    done = run(*WHERE, "--image", f"{address}/nothing.png", "--allow-host", "127.0.0.1")
    assert (done.status, done.out) == (2, "")
    assert f"{address}/nothing.png: the host answers 404" in only_error_line(done.err)


def test_a_file_url_is_read_where_localhost_is_allowed(run: Run) -> None:
    picture = (QUESTIONS / "picture-4.png").as_uri()

    assert run(*WHERE, "--image", picture, "--allow-host", "localhost").out == "right\n"


CLI = [sys.executable, "-c", "from g4convert.convert.cli import main; main()", "run"]


def test_a_long_sound_is_split_with_one_line_that_no_terminal_acts_on(
    converted: Convert, file: Write, tmp_path: Path
) -> None:
    model = shutil.copytree(converted("e2b"), tmp_path / "model")
    edit_json(model / "processor_config.json", lambda document: document.update(audio_seq_length=20))
    sound = file("\x1b[31m\nlong.wav", silence(16000))
    command = [*CLI, str(model), *WHERE, "--json", "--max-tokens", "1", "--split-audio", "--audio", sound]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0
    assert json.loads(done.stdout)["stats"]["media_tokens"] == 26
    line = only_error_line(done.stderr)
    assert line.startswith("g4convert: warning: ")
    assert line.endswith("1.0 s of sound are split into 2 clips, for one holds 0.8 s at most")
    assert line.isprintable()


def test_an_error_is_one_line_in_a_process_of_its_own(converted: Convert, file: Write) -> None:
    command = [*CLI, str(converted("e2b")), *WHERE, "--image", file("x.png", NOISE)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a picture" in only_error_line(done.stderr)


def test_weights_that_are_read_too_early_would_show(fails: Fails) -> None:
    with pytest.raises(TypeError, match="not callable"):
        fails(*WHERE, "--image", PICTURE)
