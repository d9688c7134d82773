"""Killed at any moment: what is at the output is whole, and the next run makes the same bytes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from g4convert.convert import Options, hf_to_mlx
from g4convert.tests.faults.conftest import Scene
from g4convert.tests.faults.victim import KILL, WRITES, At
from g4convert.tests.support import CHECKPOINTS, copy_of, digests

COMMAND = [sys.executable, "-c", "from g4convert.convert.cli import main; main()", "hf-to-mlx"]

Choose = Callable[[list[str]], Iterable[int]]


def taking_its_place(calls: list[str]) -> Iterable[int]:
    """The calls around the one that puts a new checkpoint where an old one stands."""
    here = calls.index("exchange") + 1
    return range(here - 2, here + 4)


def every_third(calls: list[str]) -> Iterable[int]:
    """A third of the states of the disk, but for how much of a shard is there."""
    return [number for number, name in enumerate(calls, 1) if name not in WRITES][::3]


@pytest.mark.parametrize(
    ("choose", "two_steps"),
    [(taking_its_place, False), (taking_its_place, True), pytest.param(every_third, False, marks=pytest.mark.slow)],
    ids=["at the exchange", "without an exchange", "anywhere"],
)
def test_killed_before_a_call_to_the_system(choose: Choose, two_steps: bool, scene: Scene, tmp_path: Path) -> None:
    another = copy_of("31b", tmp_path / "another")
    old = digests(shutil.copytree(another, scene.output))
    for number in choose(scene.calls("--overwrite")):
        shutil.rmtree(scene.output)
        shutil.copytree(another, scene.output)

        assert scene.convert("--overwrite", at=At(number, KILL, two_steps=two_steps)).status == -signal.SIGKILL

        nowhere = two_steps and not scene.output.exists()
        assert nowhere or digests(scene.output) in (old, scene.expected)
        end = scene.convert("--overwrite")
        assert (end.status, end.said) == (0, "")
        scene.assert_done()


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(10, 50, 10))])
def test_killed_at_ten_random_moments(first: int, tmp_path: Path) -> None:
    """Half of the runs replace a checkpoint; those that get to their end are undone."""
    expected, home, old = tmp_path / "expected", tmp_path / "home", copy_of("31b", tmp_path / "old")
    home.mkdir()
    source, how = CHECKPOINTS / "text", ["--no-quantize", "--max-shard-size", "100000", "--quiet"]
    seconds = timed(lambda: subprocess.run([*COMMAND, str(source), str(expected), *how], check=True))
    shutil.copytree(old, home / "replaced")
    generator = np.random.default_rng(first)
    kills = 0
    for number in range(10):
        more = [str(home / "new")] if number % 2 else [str(home / "replaced"), "--overwrite"]
        kills += killed([*COMMAND, str(source), *more, *how], generator.uniform(0, seconds))
        if (home / "new").exists():
            assert digests(home / "new") == digests(expected)
            shutil.rmtree(home / "new")
        if digests(home / "replaced") != digests(old):
            assert digests(home / "replaced") == digests(expected)
            shutil.rmtree(home / "replaced")
            shutil.copytree(old, home / "replaced")
    assert kills

    options = Options(quantize=False, max_shard_size=100_000)
    hf_to_mlx(source, home / "new", options=options)
    hf_to_mlx(source, home / "replaced", options=options, overwrite=True)

    assert digests(home / "new") == digests(home / "replaced") == digests(expected)
    assert sorted(path.name for path in home.iterdir()) == ["new", "replaced"]


def timed(function: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.monotonic()
    function()
    return time.monotonic() - start


def killed(command: list[str], after: float) -> bool:
    """Start a process and kill it; whether it was still there."""
    with subprocess.Popen(command) as process:
        time.sleep(after)
        process.kill()
    return process.returncode == -signal.SIGKILL
