"""The limits of this folder's tests hold: what takes too long, too much, or a connection, fails."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from .limits import limits, run_process


def test_who_waits_is_interrupted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(pytest.fail.Exception, match=r"more than 0\.2 s"), limits(waiting=0.2):
        (tmp_path / "pipe").read_text()


def compute() -> None:
    while True:
        time.perf_counter()


def test_who_computes_is_interrupted() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"more than 0\.2 s"), limits(seconds=0.2):
        compute()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_who_takes_memory_and_gives_it_back_is_seen() -> None:
    with pytest.raises(pytest.fail.Exception, match="of memory"), limits(growth=50_000_000):
        bytearray(100_000_000)


def test_who_calls_is_seen() -> None:
    with socket.socket() as called, pytest.raises(pytest.fail.Exception, match="opens a connection"), limits():
        called.connect(("127.0.0.1", 9))


def test_who_stays_within_them_passes() -> None:
    with limits(seconds=1, growth=50_000_000):
        bytearray(1_000_000)


@pytest.mark.slow
def test_a_process_is_killed_and_measured(tmp_path: Path) -> None:
    assert run_process("--version", waiting=0.01).status < 0
    assert run_process("--version").status == 0
    assert run_process("--version").peak > 10_000_000
