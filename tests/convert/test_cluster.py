"""A conversion on a Dask cluster: a scheduler and workers, each a process, on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from g4convert.convert import Options, hf_to_mlx
from g4convert.convert import cluster as module
from g4convert.convert.cli import main
from g4convert.convert.cluster import cluster
from g4convert.convert.manifest import package_version
from g4convert.schemas.errors import ExecutorError, NonFiniteError, UsageError
from g4convert.tests.convert.odd_worker import STUCK, VERSION
from g4convert.tests.support import CHECKPOINTS, copy_of, digests, edit_tensors, only_error_line, read_json

pytest.importorskip("distributed")

Convert = Callable[..., Path]
COMMAND = [sys.executable, "-c", "from g4convert.convert.cli import main; main()", "hf-to-mlx"]
SECONDS = 60


class Cluster:
    """A scheduler, and workers that come and go."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", str(file))
        wait(lambda: file.exists() and file.read_text().endswith("}"))  # it is not written in one step
        self.address: str = read_json(file)["address"]

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        """One more worker, of one thread, with these additions to its environment."""
        more = ["--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder)]
        if environment:
            more += ["--preload", str(Path(__file__).with_name("odd_worker.py"))]
        return self._start("worker", self.address, *more, **environment)

    def _start(self, what: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, *arguments, "--no-dashboard"]
        log = self._stack.enter_context((self.folder / f"{what}.log").open("ab"))
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def wait_for_workers(self, count: int) -> list[str]:
        """Until so many have come; their addresses."""
        wait(lambda: len(self._workers()) == count)
        return self._workers()

    def _workers(self) -> list[str]:
        return list(asyncio.run(module._ask(self.address))["workers"])


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path_factory.mktemp("dask"), stack)


def test_who_is_refused(dask: Cluster) -> None:
    with pytest.raises(ExecutorError, match="--dask: the cluster has no workers; start some"), cluster(dask.address):
        pass

    dask.worker(**{VERSION: "0.0.1"})
    (worker,) = dask.wait_for_workers(1)
    message = rf"the worker {worker}: has g4convert 0\.0\.1, and this is {package_version()}; install the same"
    with pytest.raises(ExecutorError, match=message), cluster(dask.address):
        pass
    with pytest.raises(ExecutorError, match=f"{worker}: it is no scheduler; give the address"), cluster(worker):
        pass


def test_a_worker_is_killed_in_the_middle_of_a_shard(dask: Cluster, converted: Convert, tmp_path: Path) -> None:
    marker, home = tmp_path / "marker", tmp_path / "home"
    home.mkdir()
    stuck = dask.worker(**{STUCK: str(marker)})
    dask.worker()
    dask.wait_for_workers(2)
    command = [*COMMAND, str(CHECKPOINTS / "e2b-qat"), str(home / "out"), "--max-shard-size", "100000"]
    with subprocess.Popen(
        [*command, "--dask", dask.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait(marker.exists)
        stuck.kill()
        said = process.communicate(timeout=SECONDS)[1]

    assert (process.returncode, said) == (0, "")
    assert digests(home / "out") == digests(converted("e2b-qat", max_shard_size=100_000))
    assert [path.name for path in home.iterdir()] == ["out"]


def test_an_error_of_a_worker_is_ours(dask: Cluster, tmp_path: Path) -> None:
    source, home = copy_of("text", tmp_path / "source"), tmp_path / "home"
    edit_tensors(source, lambda tensors: tensors["model.norm.weight"].fill(float("nan")))
    home.mkdir()
    dask.worker()
    dask.wait_for_workers(1)

    with cluster(dask.address) as executor, pytest.raises(NonFiniteError, match=r"norm\.weight holds NaN or infinity"):
        hf_to_mlx(source, home / "out", options=Options(max_shard_size=100_000), executor=executor)
    assert list(home.iterdir()) == []


# -- nobody there ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["localhost", "host:8786", "tcp://host", "http://host:8786", "tcp://a b:1", ""])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match=r"--dask: .* is no address of a scheduler; write it like"), cluster(address):
        pass


@pytest.mark.parametrize("listens", [False, True], ids=["nobody", "somebody who says nothing"])
def test_nobody_answers(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.3)
    with closing(socket.socket()) as port:
        port.bind(("127.0.0.1", 0))
        if listens:
            port.listen()
        address = f"tcp://127.0.0.1:{port.getsockname()[1]}"

        with pytest.raises(ExecutorError, match=f"{address}: no Dask scheduler answers there"), cluster(address):
            pass


def test_nobody_answers_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.3)
    command = [
        "g4convert",
        "hf-to-mlx",
        str(CHECKPOINTS / "text"),
        str(tmp_path / "out"),
        "--dask",
        "tcp://127.0.0.1:9",
    ]
    monkeypatch.setattr("sys.argv", command)

    with pytest.raises(SystemExit) as caught:
        main()

    assert caught.value.code == 2
    assert "tcp://127.0.0.1:9: no Dask scheduler answers there" in only_error_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_without_dask_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)

    with (
        pytest.raises(UsageError, match=r"--dask: Dask is not installed; pip install 'g4convert\[dask\]'"),
        cluster("tcp://127.0.0.1:9"),
    ):
        pass
