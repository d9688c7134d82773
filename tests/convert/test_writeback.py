"""Bytes reach the disk while more are made, and a disk that fails is not forgotten."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from g4convert.convert import Options, hf_to_mlx, writeback
from g4convert.convert.writeback import WriteBack
from g4convert.schemas.errors import OutputError
from g4convert.tests.support import CHECKPOINTS


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeback, "PORTION", 100)


def test_portions_are_synced_on_the_way_and_the_rest_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)

    with WriteBack(7) as disk:
        disk.wrote(99)
        assert not synced
        disk.wrote(1)
        disk.finish()

    assert synced == [7, 7]


def failing_once(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """A disk that reports an error for one sync only, as Linux does."""
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == which:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)


def test_an_error_of_an_earlier_portion_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_once(monkeypatch, 1)

    with WriteBack(7) as disk:
        disk.wrote(100)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            disk.finish()


def test_a_conversion_whose_disk_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_once(monkeypatch, 2)  # the first is the journal's
    home = tmp_path / "home"
    home.mkdir()

    with pytest.raises(OutputError, match=f"cannot be written: {os.strerror(errno.EIO)}"):
        hf_to_mlx(CHECKPOINTS / "text", home / "out", options=Options(rounding="min-max"))

    assert not list(home.iterdir())
