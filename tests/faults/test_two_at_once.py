"""Two conversions into one output: the second refuses, whenever it comes, and the first one's output is right."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
from g4convert.convert import Options, hf_to_mlx, place, writer
from g4convert.convert.place import lock_path
from g4convert.convert.writer import WorkFolder
from g4convert.schemas.errors import OutputError
from g4convert.tests.faults.conftest import SHARD_SIZE, Scene
from g4convert.tests.faults.victim import start
from g4convert.tests.support import only_error_line

OPTIONS = Options(quantize=False, max_shard_size=SHARD_SIZE)


def test_the_second_process_refuses(scene: Scene) -> None:
    logs = [scene.home.parent / f"log {number}" for number in range(2)]
    processes = [start(scene.arguments, log) for log in logs]
    for process in processes:
        process.join()

    assert sorted(process.exitcode for process in processes) == [0, 2]
    refused = next(log for log, process in zip(logs, processes, strict=True) if process.exitcode)
    line = only_error_line(refused.read_text())
    assert "another conversion is writing there; wait for it" in line or "the output exists" in line
    scene.assert_done()


@pytest.mark.parametrize(
    ("module", "function"), [(writer, "_read_journal"), (writer, "sync_folder"), (place, "_check_free")]
)
def test_one_that_comes_while_the_first_begins_or_finishes(
    module: object, function: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is gone when the folder takes its place; the lock must not be."""
    original: Callable[..., object] = getattr(module, function)
    refused: list[bool] = []

    def with_another(*args: object, **kwargs: object) -> object:
        if lock_path(scene.output).exists() and not refused:
            refused.append(True)
            with pytest.raises(OutputError, match="another conversion is writing there"):
                hf_to_mlx(scene.source, scene.output, options=OPTIONS)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, with_another)
    hf_to_mlx(scene.source, scene.output, options=OPTIONS)

    assert refused
    scene.assert_done()


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened while the first conversion held it, locked when that had removed it."""
    original = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        lock_path(tmp_path / "out").unlink()
        original(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)

    with pytest.raises(OutputError, match="another conversion is writing there"), WorkFolder(tmp_path / "out", "key"):
        pass


def test_an_output_that_appears_meanwhile_is_not_touched(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    original = place.take_place

    def occupied(path: Path, output: Path, *, overwrite: bool) -> None:
        output.mkdir()
        (output / "thesis.txt").write_text("dear")
        original(path, output, overwrite=overwrite)

    monkeypatch.setattr(writer, "take_place", occupied)

    for overwrite, message in ((False, "the output exists"), (True, "this is none")):
        with pytest.raises(OutputError, match=message):
            hf_to_mlx(scene.source, scene.output, options=OPTIONS, overwrite=overwrite)
        assert [path.name for path in scene.home.rglob("*")] == ["out", "thesis.txt"]
        (scene.output / "thesis.txt").unlink()
        scene.output.rmdir()
