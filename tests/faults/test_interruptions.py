"""Ctrl-C and SIGTERM: no traceback, and the next run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from g4convert.convert.place import work_path
from g4convert.convert.writer import JOURNAL
from g4convert.tests.faults.conftest import Scene
from g4convert.tests.faults.victim import INTERRUPT, At, Signal, interrupt_twice
from g4convert.tests.support import copy_of, digests

INTERRUPTED = "g4convert: interrupted; the same command goes on where it stopped\n"
COMMAND = [sys.executable, "-c", "from g4convert.convert.cli import main; print(flush=True); main()", "hf-to-mlx"]


@pytest.mark.parametrize("most", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_interrupted_at_a_call_to_the_system(most: int, scene: Scene) -> None:
    old = digests(copy_of("text", scene.output))
    calls = scene.calls("--overwrite")
    for number in np.linspace(1, len(calls), most).astype(int).tolist():
        shutil.rmtree(scene.output)
        copy_of("text", scene.output)

        end = scene.convert("--overwrite", at=At(number, INTERRUPT))

        assert end.status == 130
        assert end.said == INTERRUPTED
        assert digests(scene.output) in (old, scene.expected)
        assert scene.convert("--overwrite").status == 0
        scene.assert_done()


def test_what_was_done_before_the_interruption_is_not_done_again(scene: Scene) -> None:
    calls = scene.calls()
    shutil.rmtree(scene.output)
    half = [number for number, name in enumerate(calls, 1) if name == "replace"][2]

    assert scene.convert(at=At(half, INTERRUPT)).status == 130

    assert sorted(path.name for path in work_path(scene.output).iterdir()) == [
        JOURNAL, "model-00001-of-00005.safetensors", "model-00002-of-00005.safetensors",
    ]  # fmt: skip
    assert scene.calls().count("replace") == 3
    scene.assert_done()


def test_a_second_ctrl_c_ends_it_at_once(scene: Scene) -> None:
    end = scene.convert(at=At(20, interrupt_twice))

    assert (end.status, end.said) == (-signal.SIGINT, "")
    assert scene.convert().status == 0
    scene.assert_done()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 9))])
def test_ctrl_c_at_a_random_moment(times: int, seed: int, scene: Scene) -> None:
    """From the first line of ours on: imports, plan, work, finish. What the interpreter says before is not ours."""
    command = [*COMMAND, *map(str, scene.arguments), "--quiet"]
    generator = np.random.default_rng(10 * seed + times)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(generator.uniform(0, 1))
        for _ in range(times):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(generator.uniform(0, 0.05))
        said = process.communicate()[1]

    assert process.returncode in (0, 130, -signal.SIGINT)  # a shell says 130 of the last, too
    assert said in ("", "g4convert: interrupted\n", INTERRUPTED)
    if not scene.output.exists():
        assert scene.convert().status == 0
    scene.assert_done()


def test_ctrl_c_while_the_interpreter_ends_is_not_worth_a_traceback() -> None:
    code = """
import atexit, os, signal
from g4convert.convert.cli import main
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert done.stdout.startswith("g4convert")


def test_sigterm_ends_it_at_once_and_nothing_is_lost(scene: Scene) -> None:
    calls = scene.calls()
    shutil.rmtree(scene.output)
    half = [number for number, name in enumerate(calls, 1) if name == "replace"][2]

    end = scene.convert(at=At(half, Signal(signal.SIGTERM)))

    assert (end.status, end.said) == (-signal.SIGTERM, "")
    assert scene.calls().count("replace") == 3
    scene.assert_done()
