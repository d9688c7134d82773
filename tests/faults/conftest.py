"""A place for conversions to go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from g4convert.tests.faults.victim import CHANGES, At, End, calls_of, convert
from g4convert.tests.support import copy_of, digests

SHARD_SIZE = 300_000


@dataclass(frozen=True)
class Scene:
    """A source of one's own, and a folder in which nothing is but what a conversion makes there.

    Attributes:
        source: a sample checkpoint.
        home: where the output goes.
        log: what the last conversion said.
        expected: SHA-256 of the output's files.
    """

    source: Path
    home: Path
    log: Path
    expected: dict[str, str]

    @property
    def output(self) -> Path:
        """The folder to make."""
        return self.home / "out"

    @property
    def arguments(self) -> list[str | Path]:
        """Of `g4convert hf-to-mlx`; five shards, and nothing to compile."""
        return [self.source, self.output, "--no-quantize", "--max-shard-size", str(SHARD_SIZE)]

    def convert(self, *more: str, at: At | None = None) -> End:
        """A conversion in a process of its own."""
        return convert([*self.arguments, *more], self.log, at)

    def calls(self, *more: str, functions: tuple[str, ...] = CHANGES) -> list[str]:
        """What an undisturbed conversion calls, which is made here."""
        return calls_of([*self.arguments, *more], self.log, functions)

    def assert_done(self) -> None:
        """The output is whole, and there is nothing beside it."""
        assert digests(self.output) == self.expected
        assert [path.name for path in self.home.iterdir()] == ["out"]


@pytest.fixture
def scene(tmp_path: Path, converted: Callable[..., Path]) -> Scene:
    home = tmp_path / "home"
    home.mkdir()
    expected = digests(converted("text", quantize=False, max_shard_size=SHARD_SIZE))
    return Scene(copy_of("text", tmp_path / "source"), home, tmp_path / "log", expected)
