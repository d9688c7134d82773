"""Shards made by threads, processes and a Dask cluster: the same bytes, and nothing left over, whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert import Options, executors, hf_to_mlx, prepare, shards
from g4convert.convert.manifest import package_version
from g4convert.convert.pipeline import write
from g4convert.convert.place import work_path
from g4convert.convert.shards import ShardJob, make_shard
from g4convert.schemas.errors import ExecutorError, G4ConvertError, NonFiniteError, OutputError, UsageError
from g4convert.tests.support import CHECKPOINTS, KINDS, copy_of, digests, edit_tensors

Convert = Callable[..., Path]
SHARD_SIZE = 100_000
OPTIONS = Options(max_shard_size=SHARD_SIZE)


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[str, Executor]]:
    spawn = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2, spawn) as processes:
        yield {"threads": threads, "processes": processes}


EXECUTORS = pytest.mark.parametrize("pool", ["threads", "processes"])


class Immediate(Executor):
    """Runs a job when it is submitted; remembers what."""

    def __init__(self) -> None:
        self.jobs: list[ShardJob] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs.append(args[0])
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Backwards(Executor):
    """Begins when the last of `count` jobs has come, with that."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: function(*args, **kwargs)))
        if len(self.waiting) == self.count:
            for waiting, call in reversed(self.waiting):
                waiting.set_result(call())
        return future


@EXECUTORS
def test_the_same_bytes(pool: str, pools: dict[str, Executor], converted: Convert, tmp_path: Path) -> None:
    hf_to_mlx(CHECKPOINTS / "e2b-qat", tmp_path / "out", options=OPTIONS, executor=pools[pool])

    assert digests(tmp_path / "out") == digests(converted("e2b-qat", max_shard_size=SHARD_SIZE))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_progress_comes_to_the_same_sum(tmp_path: Path) -> None:
    sums = []
    for number, executor in enumerate([None, Immediate()]):
        counts: list[int] = []
        hf_to_mlx(CHECKPOINTS / "text", tmp_path / str(number), executor=executor, progress=counts.append)
        sums.append(sum(counts))

    assert sums[0] == sums[1] > 0


def test_jobs_may_end_in_any_order(converted: Convert, tmp_path: Path) -> None:
    conversion = prepare(CHECKPOINTS / "text", OPTIONS)

    write(conversion, tmp_path / "out", executor=Backwards(len(conversion.plan.shards)))

    assert digests(tmp_path / "out") == digests(converted("text", max_shard_size=SHARD_SIZE))


def test_a_relative_source_is_found_by_processes_that_run_elsewhere(
    pools: dict[str, Executor], converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools["processes"].submit(os.getpid).result()
    monkeypatch.chdir(CHECKPOINTS)

    hf_to_mlx("text", tmp_path / "out", options=OPTIONS, executor=pools["processes"])

    assert digests(tmp_path / "out") == digests(converted("text", max_shard_size=SHARD_SIZE))


# -- failures ----------------------------------------------------------------------------------------------------------


@EXECUTORS
def test_a_shard_that_fails_ends_it_all(pool: str, pools: dict[str, Executor], tmp_path: Path) -> None:
    source, home = copy_of("text", tmp_path / "source"), tmp_path / "home"
    last = prepare(source, OPTIONS).plan.shards[-1].steps[-1].source.name
    edit_tensors(source, lambda tensors: tensors[last].fill(float("nan")))
    home.mkdir()

    with pytest.raises(NonFiniteError, match=f"model.safetensors: {last} holds NaN or infinity; repair") as caught:
        hf_to_mlx(source, home / "out", options=OPTIONS, executor=pools[pool])

    assert caught.value.where == "model.safetensors"
    assert list(home.iterdir()) == []


def test_jobs_that_have_not_begun_are_called_off(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    first = prepare(source, OPTIONS).plan.shards[0].steps[0].source.name
    edit_tensors(source, lambda tensors: tensors[first].fill(float("nan")))
    futures: list[Future[Any]] = []

    class OnlyTheFirst(Immediate):
        def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            futures.append(Future() if futures else super().submit(function, *args, **kwargs))
            return futures[-1]

    with pytest.raises(NonFiniteError):
        hf_to_mlx(source, tmp_path / "out", options=OPTIONS, executor=OnlyTheFirst())

    assert len(futures) > 3
    assert all(future.cancelled() for future in futures[1:])


def test_an_interruption_leaves_what_is_done(converted: Convert, tmp_path: Path) -> None:
    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        if len(done) == 2:
            raise KeyboardInterrupt

    first, second = Immediate(), Immediate()
    with pytest.raises(KeyboardInterrupt):
        hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=OPTIONS, executor=first, progress=stop)
    assert len(list(work_path(tmp_path / "out").glob("*.safetensors"))) == 2
    assert not list(work_path(tmp_path / "out").glob("attempts-*"))

    hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=OPTIONS, executor=second)

    assert len(second.jobs) == len(first.jobs) - 2
    assert digests(tmp_path / "out") == digests(converted("text", max_shard_size=SHARD_SIZE))


def test_a_pool_that_breaks_costs_nothing_that_is_done(converted: Convert, tmp_path: Path) -> None:
    lost: list[Future[Any]] = []
    done: list[int] = []

    class Breaks(Immediate):
        def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if len(self.jobs) < 2:
                return super().submit(function, *args, **kwargs)
            lost.append(Future())
            return lost[-1]

    def break_after_two(count: int) -> None:
        done.append(count)
        if len(done) == 2:
            lost[0].set_exception(BrokenProcessPool("A process was terminated."))

    with pytest.raises(ExecutorError) as caught:
        hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=OPTIONS, executor=Breaks(), progress=break_after_two)
    assert str(caught.value) == (
        "a shard was not made: BrokenProcessPool: A process was terminated; the same call goes on where it stopped"
    )

    rest = Immediate()
    hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=OPTIONS, executor=rest)

    assert len(rest.jobs) == len(lost)
    assert digests(tmp_path / "out") == digests(converted("text", max_shard_size=SHARD_SIZE))


def test_a_pool_that_is_closed_is_one_line(tmp_path: Path) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()

    with pytest.raises(ExecutorError, match="RuntimeError: cannot schedule new futures after shutdown"):
        hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=OPTIONS, executor=pool)


# -- workers that are lost, or others than we think --------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> ShardJob:
    """A shard of a sample, of many tensors, to be made in a folder of its own."""
    conversion = prepare(copy_of("text", tmp_path / "source"), OPTIONS)
    (tmp_path / "work").mkdir()
    largest = max(conversion.plan.shards, key=lambda shard: len(shard.steps))
    return ShardJob(largest, tmp_path / "work", conversion.stamps, None, 1)


class Paused:
    """Progress that stops a shard in the middle until somebody lets it go on."""

    def __init__(self) -> None:
        self.here, self.on = threading.Event(), threading.Event()

    def __call__(self, _: int) -> None:
        self.here.set()
        assert self.on.wait(60)


def test_a_shard_may_be_made_twice_at_the_same_time(job: ShardJob) -> None:
    """As a cluster does when it has lost sight of a worker that goes on."""
    pause = Paused()
    record = make_shard(job, lambda _: None)
    whole = digests(job.folder)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(make_shard, job, pause)
        assert pause.here.wait(60)

        assert digests(job.folder)[job.shard.file] == whole[job.shard.file]
        pause.on.set()

        assert again.result() == record
    assert digests(job.folder) == whole


def test_who_makes_a_shard_that_was_given_up_stops(job: ShardJob) -> None:
    pause = Paused()
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(make_shard, job, pause)
        assert pause.here.wait(60)
        for path in job.folder.iterdir():
            path.unlink()
        pause.on.set()

        with pytest.raises(OutputError, match="nobody waits for it any more"):
            attempt.result()


def test_a_lost_workers_shard_comes_neither_into_this_output_nor_the_next(converted: Convert, tmp_path: Path) -> None:
    """Its run was interrupted, and the next one makes other shards of the same names, when it begins at last."""
    late: list[ShardJob] = []
    refused: list[OutputError] = []
    output = tmp_path / "out"

    class Lost(Executor):
        def submit(self, _: Callable[..., Any], /, *args: Any, **__: Any) -> Future[Any]:
            late.append(args[0])
            raise KeyboardInterrupt

    def begin(_: int) -> None:
        with pytest.raises(OutputError) as caught:
            make_shard(late[0], lambda _: None)
        refused.append(caught.value)

    with pytest.raises(KeyboardInterrupt):
        hf_to_mlx(CHECKPOINTS / "text", output, options=replace(OPTIONS, dtype="float16"), executor=Lost())
    hf_to_mlx(CHECKPOINTS / "text", output, options=OPTIONS, progress=begin)

    assert refused
    assert digests(output) == digests(converted("text", max_shard_size=SHARD_SIZE))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_version_is_refused_by_name(job: ShardJob) -> None:
    with pytest.raises(ExecutorError, match=rf"has g4convert {package_version()}, and 0\.0\.1 planned"):
        executors._make(job, "0.0.1")
    assert not list(job.folder.iterdir())


@pytest.mark.parametrize("gone", ["work", "source"])
def test_a_worker_that_does_not_see_a_folder_says_so(gone: str, job: ShardJob, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / gone)

    with pytest.raises(ExecutorError, match=rf"the worker on \S+: does not see {tmp_path / gone}\S*; give all workers"):
        executors._make(job, package_version())


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_can_be_sent_anywhere(kind: str) -> None:
    conversion = prepare(CHECKPOINTS / kind, OPTIONS)
    job = ShardJob(conversion.plan.shards[-1], Path("/shared"), conversion.stamps, 10**9, 2)

    assert pickle.loads(pickle.dumps(job)) == job


@EXECUTORS
def test_a_bound_on_memory_is_that_of_each_process(pool: str, pools: dict[str, Executor], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-memory: 50,000,000 bytes are too few"):
        hf_to_mlx(CHECKPOINTS / "text", tmp_path / "out", options=OPTIONS, max_memory=50_000_000, executor=pools[pool])
    assert list(tmp_path.iterdir()) == []


def test_the_bound_does_not_shrink_with_every_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of a process holds the chunks of its first shard."""
    shards.chunk_limit.cache_clear()
    monkeypatch.setattr("g4convert.convert.memory.peak_resident", lambda: 100_000_000)
    first = shards.chunk_limit(400_000_000, 2)
    monkeypatch.setattr("g4convert.convert.memory.peak_resident", lambda: 400_000_000)

    assert shards.chunk_limit(400_000_000, 2) == first
    shards.chunk_limit.cache_clear()


def every_error(kind: type[G4ConvertError]) -> list[type[G4ConvertError]]:
    return [kind, *(error for below in kind.__subclasses__() for error in every_error(below))]


@pytest.mark.parametrize("kind", every_error(G4ConvertError))
def test_an_error_of_another_process_arrives_as_it_was(kind: type[G4ConvertError]) -> None:
    for error in (kind("what"), kind("w" * 3000, where="where", fix="do"), kind("a; b", where=Path("c"))):
        other = pickle.loads(pickle.dumps(error))

        assert type(other) is kind
        assert (str(other), other.what, other.where, other.fix) == (str(error), error.what, error.where, error.fix)
