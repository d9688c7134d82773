"""What a run that was stopped has left: used where it is right, cleared away where it is not."""

from __future__ import annotations

import signal
from itertools import count

import numpy as np
from g4convert.convert import Options, prepare
from g4convert.convert.pipeline import work_key
from g4convert.convert.place import replaced_path, work_path
from g4convert.convert.writer import JOURNAL, WorkFolder
from g4convert.tests.faults.conftest import SHARD_SIZE, Scene
from g4convert.tests.faults.victim import INTERRUPT, KILL, WRITES, At
from g4convert.tests.support import Tensors, copy_of, edit_tensors, only_error_line

REMOVALS = ("rmdir", "unlink")


def test_work_of_another_call_is_thrown_away(scene: Scene) -> None:
    """Its shards have the same names and sizes."""
    first = scene.calls().index("replace")
    another = scene.convert("--overwrite", "--dtype", "float16", at=At(first + 10, INTERRUPT))
    assert another.status == 130
    assert list(work_path(scene.output).glob("*.safetensors"))

    assert scene.convert("--overwrite").status == 0

    scene.assert_done()


def test_the_disk_has_a_shard_before_its_name_and_its_name_before_the_journal(scene: Scene) -> None:
    """So the journal is right after the power failed, too."""
    calls = scene.calls()
    for number in [number for number, name in enumerate(calls) if name == "replace"]:
        assert calls[number - 3] in WRITES
        assert calls[number - 2 : number + 3] == ["fsync", "rename", "replace", "write", "fsync"]


def test_a_line_that_a_kill_tore_costs_one_shard_and_no_more(scene: Scene) -> None:
    """What is written after it must not become a part of it."""
    calls = scene.calls()
    end = scene.convert("--overwrite", at=At(calls.index("replace") + 1, KILL))
    assert end.status == -signal.SIGKILL
    journal = work_path(scene.output) / JOURNAL
    with journal.open("a") as stream:
        stream.write('{"shard": "model-00002-of-0')
    replaces = [number for number, name in enumerate(calls, 1) if name == "replace"]

    assert scene.convert("--overwrite", at=At(replaces[3], INTERRUPT)).status == 130

    with WorkFolder(scene.output, key(scene)) as work:
        assert len(work.done) == 3


def key(scene: Scene) -> str:
    return work_key(prepare(scene.source, Options(quantize=False, max_shard_size=SHARD_SIZE)))


def test_attempts_of_a_run_that_was_killed_are_gone_before_new_ones_take_their_room(scene: Scene) -> None:
    calls = scene.calls("--overwrite")
    middle = [number for number, name in enumerate(calls, 1) if name in WRITES][len(calls) // 4]
    scene.convert("--overwrite", at=At(middle, KILL))
    (left,) = work_path(scene.output).glob("attempts-*/*")

    with WorkFolder(scene.output, key(scene)) as work:
        assert not left.exists()
        assert list(work.attempts.iterdir()) == []


def test_what_was_replaced_before_a_kill_is_gone_before_the_work_begins(scene: Scene) -> None:
    scene.convert()
    copy_of("31b", replaced_path(scene.output))

    with WorkFolder(scene.output, "key"):
        assert not replaced_path(scene.output).exists()


def test_killed_while_failed_work_is_cleared_away(scene: Scene) -> None:
    """As long as there is anything in the folder, the next run knows it for ours."""
    last = prepare(scene.source, Options(quantize=False, max_shard_size=SHARD_SIZE)).plan.shards[-1].steps[-1]

    def spoil(tensors: Tensors) -> None:
        tensors[last.source.name] = np.full_like(tensors[last.source.name], np.nan)

    edit_tensors(scene.source, spoil)
    for number in count(1):
        end = scene.convert(at=At(number, KILL, REMOVALS))
        if end.status != -signal.SIGKILL:
            break
        again = scene.convert()
        assert "holds NaN or infinity" in only_error_line(again.said)
        assert list(scene.home.iterdir()) == []
    assert number > 6
