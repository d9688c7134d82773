"""The disk is full, or fills up while we write: one line, nothing left over, and the next run is right."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from g4convert.convert import Options, hf_to_mlx, prepare
from g4convert.convert.pipeline import SMALL_FILES
from g4convert.schemas.errors import OutputError
from g4convert.tests.faults.conftest import SHARD_SIZE, Scene
from g4convert.tests.faults.victim import FULL, KILL, WRITES, At, Fill
from g4convert.tests.support import CHECKPOINTS, copy_of, digests, only_error_line

NEED_ROOM = ("fsync", "ftruncate", "mkdir", "open", "rename", "replace", "write", *WRITES)
PARTS = [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 4))]


def moments(calls: list[str], part: int) -> list[int]:
    """Five of twenty numbers of calls, evenly from where the work begins; the finish needs no more room."""
    numbers = np.linspace(2, calls.index("exchange"), 20).astype(int)
    return list(map(int, numbers[part::4]))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of one's own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        # Users and containers may not. The calls that find no room below need no disk, and run for everybody.
        pytest.skip("nobody but root may mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("part", PARTS)
def test_somebody_else_takes_the_room(part: int, scene: Scene, disk: Path) -> None:
    scene = replace(scene, home=disk)
    ballast = disk / "ballast"
    full = 0
    copy_of("text", scene.output)
    for number in moments(scene.calls("--overwrite"), part):
        shutil.rmtree(scene.output)

        end = scene.convert(at=At(number, Fill(ballast)))

        if end.status == 0:  # there was room enough in the blocks that were taken
            assert digests(scene.output) == scene.expected
            continue
        full += 1
        assert end.status == 2
        assert "No space left on device; make room" in only_error_line(end.said)
        assert list(disk.iterdir()) == [ballast]
        ballast.unlink()
        assert scene.convert().status == 0
        scene.assert_done()
    assert full >= 4


@pytest.mark.parametrize("part", PARTS)
def test_one_call_finds_no_room(part: int, scene: Scene, tmp_path: Path) -> None:
    """Also where nobody may mount a disk; what was to be replaced stays."""
    another = copy_of("31b", tmp_path / "another")
    shutil.copytree(another, scene.output)
    calls = scene.calls("--overwrite", functions=(*NEED_ROOM, "exchange"))
    for number in moments(calls, part):
        shutil.rmtree(scene.output)
        shutil.copytree(another, scene.output)

        end = scene.convert("--overwrite", at=At(number, FULL, NEED_ROOM))

        assert end.status == 2
        assert "No space left on device; make room" in only_error_line(end.said)
        assert digests(scene.output) == digests(another)
        assert [path.name for path in scene.home.iterdir()] == ["out"]
        assert scene.convert("--overwrite").status == 0
        scene.assert_done()


def test_nothing_is_left_of_the_folders_above(scene: Scene) -> None:
    deep = replace(scene, home=scene.home / "a" / "b")

    for number in range(1, 8):
        assert deep.convert(at=At(number, FULL, NEED_ROOM)).status == 2
        assert list(scene.home.iterdir()) == []


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": count}))


def test_a_full_disk_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1000)

    with pytest.raises(OutputError, match="bytes are needed and 1,000 are free"):
        hf_to_mlx(CHECKPOINTS / "e4b", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_already_needs_no_more_room(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    last = max(number for number, name in enumerate(scene.calls(), 1) if name == "replace")
    shutil.rmtree(scene.output)
    assert scene.convert(at=At(last, KILL)).status != 0
    options = Options(quantize=False, max_shard_size=SHARD_SIZE)
    free(monkeypatch, SMALL_FILES + prepare(scene.source, options).plan.shards[-1].nbytes)

    with pytest.raises(OutputError, match="are needed"):
        hf_to_mlx(scene.source, scene.home / "another", options=options)
    hf_to_mlx(scene.source, scene.output, options=options)

    scene.assert_done()
