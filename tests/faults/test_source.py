"""The source cannot be read, or changes under us: one line that says so, and nothing at the output."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from g4convert.convert import Options, hf_to_mlx, prepare
from g4convert.convert import source as source_module
from g4convert.convert.pipeline import write
from g4convert.schemas.errors import ShardError
from g4convert.tests.faults.changes import fill_with_nan, grow, put_another_there, shorten, touch
from g4convert.tests.faults.conftest import Scene
from g4convert.tests.faults.victim import BROKEN, WRITES, At, Calls
from g4convert.tests.support import WEIGHTS, digests, only_error_line

READS = ("pread", "preadv")
PLAIN = Options(quantize=False)


def middle(calls: list[str]) -> int:
    return len(calls) // 2


@pytest.mark.parametrize("which", [lambda calls: 1, middle, len], ids=["first", "middle", "last"])
def test_a_read_error(which: Callable[[list[str]], int], scene: Scene) -> None:
    number = which(scene.calls(functions=READS))
    shutil.rmtree(scene.output)

    end = scene.convert(at=At(number, BROKEN, READS))

    assert end.status == 2
    assert f"{WEIGHTS}: cannot be read at byte" in only_error_line(end.said)
    assert "Input/output error" in end.said
    assert list(scene.home.iterdir()) == []
    assert scene.convert().status == 0
    scene.assert_done()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((WEIGHTS, change) for change in (grow, touch, shorten, put_another_there, fill_with_nan)),
        ("config.json", grow),
        ("tokenizer.json", put_another_there),
        ("generation_config.json", touch),
    ],
)
@pytest.mark.parametrize("number", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_file_that_changes_while_we_write(
    number: int, name: str, change: Callable[[Path], object], scene: Scene
) -> None:
    end = scene.convert(at=At(number, Calls(change, scene.source / name), WRITES))

    assert end.status == 2
    assert f"{name}: the file was changed while it was read" in only_error_line(end.said)
    assert list(scene.home.iterdir()) == []


def test_a_file_that_goes_while_we_write(scene: Scene) -> None:
    end = scene.convert(at=At(1, Calls(Path.unlink, scene.source / "tokenizer.json"), WRITES))

    assert end.status == 2
    assert only_error_line(end.said) == "g4convert: tokenizer.json: cannot be read: No such file or directory"
    assert list(scene.home.iterdir()) == []


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
@pytest.mark.parametrize("change", [grow, touch, put_another_there, Path.unlink])
def test_a_file_that_changes_before_it_is_read(change: Callable[[Path], object], name: str, scene: Scene) -> None:
    conversion = prepare(scene.source, PLAIN)
    change(scene.source / name)

    with pytest.raises(ShardError, match=f"{name}: (the file was changed while it was read|cannot be read: No such)"):
        write(conversion, scene.output)
    assert list(scene.home.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_file_that_changes_while_it_is_planned_with(name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config is read first, the weights' header later."""
    original = source_module.open_weights

    def change_first(*args: object) -> object:
        touch(scene.source / name)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(source_module, "open_weights", change_first)
    conversion = prepare(scene.source, PLAIN)

    with pytest.raises(ShardError, match=f"{name}: the file was changed"):
        write(conversion, scene.output)


def test_the_changed_source_converts(scene: Scene) -> None:
    scene.convert(at=At(20, Calls(put_another_there, scene.source / WEIGHTS), WRITES))

    assert scene.convert().status == 0

    hf_to_mlx(scene.source, scene.home.parent / "fresh", options=Options(quantize=False, max_shard_size=300_000))
    assert digests(scene.output) == digests(scene.home.parent / "fresh")
    assert digests(scene.output) != scene.expected
