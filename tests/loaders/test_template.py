"""Chat templates: what comes out of the process in which they run, and what cannot get out of it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import jinja2
import pytest
from g4convert.convert import hf_to_mlx
from g4convert.loaders import load, renderer, sandbox, template
from g4convert.loaders.renderer import Fault, Limits, Renderer
from g4convert.loaders.template import TEMPLATE_FILE, check_template, render
from g4convert.schemas.errors import ConfigError, UsageError
from g4convert.tests.conftest import Convert
from g4convert.tests.hostile.limits import limits
from g4convert.tests.hostile.templates import FAILED, LENGTH, MEMORY, RAISED, TEMPLATES, TIME
from g4convert.tests.support import copy_of, edit_json
from jinja2.filters import FILTERS

QUESTION = {"messages": [{"role": "user", "content": "hi"}]}
FOR_EVER = TIME["nested loops"]
GIGABYTE = 1_000_000_000


@pytest.fixture
def _within_limits() -> Iterator[None]:
    with limits():
        yield


@pytest.fixture(scope="module")
def quick() -> Iterator[Renderer]:
    """As the one that everybody uses, but with less patience."""
    with Renderer(Limits(seconds=0.5)) as made:
        yield made


def pid_of(made: Renderer) -> int:
    """The process in which it renders."""
    assert made._process is not None
    return made._process.pid


def end_of(process: subprocess.Popen[bytes]) -> int:
    """How a process ends that has a few seconds left."""
    try:
        return process.wait(5)
    finally:
        process.kill()


def run(code: str, *arguments: str) -> str:
    """What a program of its own prints; it must not say anything else."""
    command = [sys.executable, "-W", "error", "-c", dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


HOPELESS = [name for name in TEMPLATES if name not in {*RAISED, *FAILED}]
WORDS = {
    "time": "it takes more than 0.5 seconds",
    "memory": "it takes more than 400,000,000 bytes of memory",
    "length": "its text has more than 10,000,000 characters",
}


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / TEMPLATE_FILE
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


@pytest.mark.usefixtures("_within_limits")
@pytest.mark.parametrize("name", HOPELESS)
def test_a_hostile_template_is_one_line_and_the_next_one_works(
    name: str, quick: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = TEMPLATES[name]
    if hostile.fault == "time":
        monkeypatch.setattr(template, "_renderer", quick)

    with pytest.raises(ConfigError, match=r"^chat_template\.jinja: the chat template fails: ") as caught:
        check_template(write(tmp_path, hostile.text), {})

    assert str(caught.value).isprintable()
    assert str(caught.value).endswith("; take the template of the base model")
    assert WORDS.get(hostile.fault, "") in str(caught.value)
    assert render("{{ messages[0].content }}", QUESTION) == "hi"


@pytest.mark.usefixtures("_within_limits")
@pytest.mark.parametrize("name", [*RAISED, *FAILED])
def test_a_template_that_refuses_a_plain_turn_is_not_hopeless(name: str, tmp_path: Path) -> None:
    check_template(write(tmp_path, TEMPLATES[name].text), {})

    with pytest.raises(ConfigError, match=r"^chat_template\.jinja: the chat template fails: .") as caught:
        render(TEMPLATES[name].text, QUESTION)

    assert str(caught.value).isprintable()


LARGEST = {"a text that doubles", "a list that doubles", "a join that grows", "a row that is filled up", *LENGTH}


def test_a_template_that_fills_the_memory_gets_little_of_it() -> None:
    """Of the process that renders and of the one that waits for it, together."""
    code = """
        import json, resource, sys
        from g4convert.convert.memory import peak_resident
        from g4convert.loaders.renderer import Fault, Renderer
        with Renderer() as renderer:
            for text in json.loads(sys.argv[1]):
                assert isinstance(renderer.render(text, {"messages": [{"role": "user"}]}), Fault)
        unit = 1 if sys.platform == "darwin" else 1024
        print(peak_resident() + unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
        """

    peak = int(run(code, json.dumps([text for name, text in {**MEMORY, **LENGTH}.items() if name in LARGEST])))

    assert peak < GIGABYTE


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS bounds no memory")
def test_the_system_bounds_the_memory() -> None:
    code = f"""
        from g4convert.loaders import sandbox
        sandbox.confine({Limits().memory})
        try:
            bytearray({Limits().memory})
        except MemoryError:
            print("no more")
        """

    assert run(code) == "no more"


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps to look with")
def test_where_the_system_bounds_no_memory_the_parent_does() -> None:
    filling = "x = bytearray(200_000_000)\nwhile True: pass"
    with (
        subprocess.Popen([sys.executable, "-c", filling]) as process,
        renderer._Watch(process, 5, 100_000_000) as watch,
    ):
        assert end_of(process) == -signal.SIGKILL

    assert watch.found == "memory"


def test_a_process_that_is_killed_is_not_left_behind(quick: Renderer) -> None:
    quick.render("", {})
    before = pid_of(quick)

    assert quick.render(FOR_EVER, {}) == Fault("time", "it takes more than 0.5 seconds")
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)  # a zombie would still be there

    assert quick.render("a", {}) == "a"
    assert pid_of(quick) != before


def test_a_long_conversation_has_more_time() -> None:
    messages = [{"role": "user", "content": "hi"}] * 50
    slow = "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}a"

    with Renderer(Limits(seconds=0, seconds_a_message=0.1)) as made:
        assert made.render(slow, {"messages": messages}) == "a"
        assert made.render(FOR_EVER, {"messages": messages[:2]}) == Fault("time", "it takes more than 0.2 seconds")


def test_one_process_renders_again_and_again(quick: Renderer) -> None:
    quick.render("", {})
    before = pid_of(quick)

    assert [quick.render("{{ n }}", {"n": n}) for n in range(20)] == [str(n) for n in range(20)]
    quick.render("{{ raise_exception('no') }}", {})

    assert pid_of(quick) == before


def test_a_process_that_died_meanwhile_is_replaced(quick: Renderer) -> None:
    quick.render("", {})
    os.kill(pid_of(quick), signal.SIGKILL)
    while quick._process is not None and quick._process.poll() is None:
        time.sleep(0.01)

    assert quick.render("a", {}) == "a"


def test_threads_get_their_own_answers(quick: Renderer) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: quick.render("{{ n }}", {"n": n}), range(100)))

    assert made == [str(n) for n in range(100)]


def test_an_interruption_does_not_mix_up_the_answers() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with Renderer() as made:
        made.render("", {})
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            made.render("{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}old", {})
        signal.signal(signal.SIGALRM, before)

        assert made.render("new", {}) == "new"


def test_a_fork_gets_a_process_of_its_own() -> None:
    """Even where another thread was rendering at that moment, and has locked the parent's."""
    code = """
        import os, signal
        from g4convert.loaders import template
        template.render("a", {})
        before = template._renderer._process.pid
        with template._renderer._lock:
            if not (child := os.fork()):
                signal.alarm(5)
                assert template._renderer._process is None
                assert template.render("b", {}) == "b"
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert template.render("c", {}) == "c"
        assert template._renderer._process.pid == before
        """

    assert run(code) == ""


@pytest.mark.usefixtures("_within_limits")
def test_what_is_being_rendered_ends_with_the_program() -> None:
    code = """
        import sys, threading, time
        from g4convert.loaders import template
        template.render("a", {})
        threading.excepthook = lambda _: None  # it is told that its process is gone
        patient = {"messages": [{}] * 1000}
        threading.Thread(target=template.render, args=(sys.argv[1], patient), daemon=True).start()
        time.sleep(0.5)
        print(template._renderer._process.pid)
        """

    _wait_for_the_end_of(int(run(code, FOR_EVER)))


def test_the_terminals_interruption_does_not_reach_it(quick: Renderer) -> None:
    quick.render("", {})

    assert os.getsid(pid_of(quick)) != os.getsid(0)


@pytest.mark.usefixtures("_within_limits")
def test_it_ends_with_the_program_that_started_it() -> None:
    kill = "import os; os.kill(os.getpid(), 9)"
    start = "from g4convert.loaders import template; template.render('a', {}); print(template._renderer._process.pid)"
    for code in (start, f"{start.replace('pid)', 'pid, flush=True)')}; {kill}"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)

        _wait_for_the_end_of(int(done.stdout))


def _wait_for_the_end_of(pid: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.01)


def test_a_template_whose_parent_died_ends_too() -> None:
    """The kernel counts its seconds of work; here it has had them when it begins."""
    limits = json.dumps({"memory": Limits().memory, "characters": 1000})
    command = [sys.executable, sandbox.__file__, limits]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"template": FOR_EVER, "variables": {}, "seconds": -2}).encode() + b"\n")
        process.stdin.flush()

        assert end_of(process) == -signal.SIGXCPU


def test_it_can_open_nothing_even_outside_the_sandbox() -> None:
    code = f"""
        import socket
        from g4convert.loaders import sandbox
        sandbox.confine({Limits().memory})
        for reach in (lambda: open("/dev/null"), socket.socket):
            try:
                reach()
            except OSError as error:
                print(error.strerror)
        """

    assert run(code).splitlines() == ["Too many open files"] * 2


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists open files")
def test_it_inherits_no_files(quick: Renderer, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as stream:
        os.set_inheritable(stream.fileno(), True)
        quick.close()
        quick.render("", {})

        assert len(list(Path(f"/proc/{pid_of(quick)}/fd").iterdir())) == 3


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_every_filter_works_where_no_file_can_be_opened(name: str, quick: Renderer) -> None:
    quick.render("", {})

    for call in (name, f"{name}(3)", f"{name}('a')", f"{name}('a', 'b')"):
        for value in ("'a b & <c> http://d.e/ ' * 9", "[{'a': 1}]", "1.5"):
            made = quick.render(f"{{{{ {value} | {call} }}}}", {})
            assert "open files" not in (made.what if isinstance(made, Fault) else made)


VALUES: list[Any] = [
    "\0\x1f\x7f\x85\u2028\ufeff\U0001f600",
    "\ud800",
    "\ud83d\ude00",
    "a\nb\r\nc",
    '"\\u0041\\',
    10**300,
    -0.0,
    0.1,
    1e-320,
    math.inf,
    True,
    None,
    [],
    {"": {"ü": [{}]}},
]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_values_cross_unchanged(value: Any, quick: Renderer) -> None:
    assert quick.render("{{ value }}", {"value": value}) == str(value)


def test_what_is_no_number_crosses_too(quick: Renderer) -> None:
    assert quick.render("{{ value }} {{ value == value }}", {"value": math.nan}) == "nan False"


@pytest.mark.parametrize("value", [b"x", {1, 2}, Path("x"), print, 1j, [range]], ids=str)
def test_a_message_that_json_cannot_hold_is_refused(value: object, quick: Renderer) -> None:
    with pytest.raises(UsageError, match="the messages hold what JSON cannot: a value of type"):
        quick.render("", {"messages": [{"content": value}]})


def test_a_message_that_holds_itself_is_refused(quick: Renderer) -> None:
    message: dict[str, Any] = {"role": "user"}
    message["content"] = [message]

    with pytest.raises(UsageError, match="the messages hold what JSON cannot: Circular"):
        quick.render("", {"messages": [message]})


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{ ['ü', 1] | tojson(ensure_ascii=true) }}", '["\\u00fc", 1]'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
    ],
)
def test_json_is_written_as_transformers_does(text: str, rendered: str, quick: Renderer) -> None:
    assert quick.render(text, {}) == rendered


def test_a_large_text_is_no_fault() -> None:
    content = "ü" * 9_000_000

    with Renderer() as made:
        assert made.render("{{ messages[0].content }}", {"messages": [{"content": content}]}) == content


def test_the_libraries_may_lie_where_only_this_process_looks(tmp_path: Path) -> None:
    (tmp_path / "g4convert").symlink_to(Path(template.__file__).parents[1])
    folders = [str(tmp_path), str(Path(jinja2.__file__).parents[1])]
    code = f"import sys; sys.path += {folders}\nfrom g4convert.loaders.template import render; print(render('a', {{}}))"

    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("a\n", "")


def test_jinja_is_left_to_the_process() -> None:
    assert run("import g4convert.loaders.template, sys; print('jinja2' in sys.modules)") == "False"


def test_a_python_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for python in ("/nothing/here", shutil.which("true")):
        monkeypatch.setattr(sys, "executable", python)
        with Renderer() as made, pytest.raises(ConfigError, match=r"the process that renders .* does not start"):
            made.render("a", {})


# -- before a conversion -----------------------------------------------------------------------------------------------


def test_a_checkpoint_without_a_template_is_none_of_its_business() -> None:
    check_template(None, {})
    check_template(None, {"chat_template": None})


@pytest.mark.parametrize("saved", ["{% if %}", [{"name": "default", "template": "{% if %}"}]])
def test_the_template_may_stand_in_the_tokenizers_config(saved: object) -> None:
    with pytest.raises(ConfigError, match=r"^tokenizer_config\.json: the chat template fails: "):
        check_template(None, {"chat_template": saved})


def test_special_tokens_are_there(tmp_path: Path) -> None:
    given = "bos_token == '<bos>' and add_generation_prompt and messages | length == 1"
    text = f"{{% if not ({given}) %}}{{{{ ''.__class__.x }}}}{{% endif %}}"

    check_template(write(tmp_path, text), {"bos_token": {"content": "<bos>"}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Fran\xe7ois", r"chat_template\.jinja: not UTF-8: .* at byte 4"),
        (b" " * 2_000_000, r"chat_template\.jinja: the file has more than 1,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_template_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check_template(write(tmp_path, content), {})


@pytest.mark.usefixtures("_within_limits")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / TEMPLATE_FILE)

    with pytest.raises(ConfigError, match=r"chat_template\.jinja: cannot be read: not a regular file"):
        check_template(tmp_path / TEMPLATE_FILE, {})


@pytest.mark.usefixtures("_within_limits")
def test_nothing_is_converted_with_a_template_that_never_ends(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    write(source, FOR_EVER)

    with pytest.raises(ConfigError, match=r"it takes more than 2\.0 seconds; take the template of the base model"):
        hf_to_mlx(source, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_nothing_is_converted_with_such_a_template_in_the_tokenizers_config(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    (source / TEMPLATE_FILE).unlink()
    edit_json(source / "tokenizer_config.json", lambda document: document.update(chat_template="{% if %}"))

    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: the chat template fails"):
        hf_to_mlx(source, tmp_path / "out")


def test_a_model_is_not_asked_with_a_template_that_never_ends(converted: Convert, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted("text"), tmp_path / "model"))
    write(folder, FOR_EVER)

    with pytest.raises(ConfigError, match=r"it takes more than 2\.0 seconds"):
        load(folder).prompt.prepare("hi")
