"""A bad source costs little and leaves nothing: exit status 2, one line, nothing written, nothing run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders.checkpoint import read_config
from g4convert.schemas.errors import G4ConvertError
from g4convert.tests.conftest import Convert
from g4convert.tests.support import (
    CHECKPOINTS,
    command,
    copy_of,
    digests,
    only_error_line,
    read_json,
    weights_and_index,
)

from .breaks import raw_header
from .corpus import CORPUS
from .fields import AMOUNTS, FREE, PLACES, broken
from .limits import LINE, SECONDS, limits, run_process, state
from .programs import PICKLES, program, trapped

GIGABYTE = 10**9


@pytest.fixture(autouse=True)
def compiled(converted: Convert) -> None:
    """The first conversion on a machine compiles the quantizer, which takes longer than any refusal may."""
    converted("e2b")


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 150


@pytest.mark.parametrize("case", CORPUS)
def test_a_bad_source_is_refused(case: str, room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = copy_of(CORPUS[case].kind, room / "source")
    CORPUS[case].damage(source)
    before = state(room)

    with limits():
        status, error = command("hf-to-mlx", source, room / "out")

    captured = capsys.readouterr()
    line = only_error_line(captured.err)
    assert (status, type(error), captured.out) == (2, CORPUS[case].error, ""), line
    assert CORPUS[case].refusal.fits(line), line
    assert line.isprintable()
    assert len(line) < LINE
    assert str(source) not in line.replace(f"{source}:", "")
    assert state(room) == before


@pytest.mark.parametrize("wrong", AMOUNTS)
@pytest.mark.parametrize(("kind", "section", "field"), PLACES)
def test_a_field_is_refused_or_changes_nothing(
    kind: str, section: str, field: str, wrong: Mapping[str, Any], room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = copy_of(kind, room / "source")
    config = read_config(source)[1]
    for name, document in broken(read_json(source / "config.json"), section, field, wrong):
        (source / "config.json").write_text(json.dumps(document))
        with limits():
            status, error = command("hf-to-mlx", source, room / "out", "--dry-run", "--no-quantize", "--quiet")

        said = capsys.readouterr().err
        if status == 0:
            assert read_config(source)[1] == config or name in FREE.get(field, ()), name
        else:
            assert (status, isinstance(error, G4ConvertError)) == (2, True), name
            assert only_error_line(said).isprintable()
    assert sorted(room.iterdir()) == [source]


def test_what_stands_beside_the_weights_is_neither_run_nor_copied(room: Path, converted: Convert) -> None:
    source = copy_of("e2b", room / "source")
    for name in ("modeling.py", "configuration_gemma4.py", "conftest.py", "tokenizer.py", "setup.py"):
        program(name)(source)
    for name in PICKLES:
        trapped(name)(source)
    (source / ".git").mkdir()
    (source / "model.gguf").write_bytes(b"GGUF")

    with limits():
        status, _ = command("hf-to-mlx", source, room / "out", "--quiet")

    assert status == 0
    assert digests(room / "out") == digests(converted("e2b"))
    assert not (room / "trace").exists()


def hub_cache(source: Path, cache: Path) -> Path:
    """The folder of a commit in the Hub's cache: links into `blobs`, which are named by what they hold."""
    snapshot, blobs = (
        cache / "models--google--gemma" / "snapshots" / "c0ffee",
        cache / "models--google--gemma" / "blobs",
    )
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, digest in digests(source).items():
        shutil.copy(source / name, blobs / digest)
        (snapshot / name).symlink_to(Path("../../blobs") / digest)
    return snapshot


def test_links_of_the_hubs_cache_are_followed(room: Path, converted: Convert) -> None:
    snapshot = hub_cache(CHECKPOINTS / "e2b", room / "hub")

    with limits():
        status, _ = command("hf-to-mlx", snapshot, room / "out", "--quiet")

    made, expected = digests(room / "out"), digests(converted("e2b"))
    assert status == 0
    assert {name for name in made if made[name] != expected[name]} == {"README.md", "conversion.json"}


def test_a_header_that_is_not_aligned_is_read(room: Path, converted: Convert) -> None:
    source = copy_of("e2b", room / "source")
    raw_header(lambda raw: raw + b" ")(source)

    status, _ = command("hf-to-mlx", source, room / "out", "--quiet")

    assert status == 0
    assert weights_and_index(room / "out") == weights_and_index(converted("e2b"))


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CORPUS)[::5])
def test_a_process_refuses_a_bad_source(case: str, room: Path) -> None:
    source = copy_of(CORPUS[case].kind, room / "source")
    CORPUS[case].damage(source)
    before = state(room)

    ended = run_process("hf-to-mlx", source, room / "out")

    assert (ended.status, ended.out) == (2, ""), ended.err
    assert CORPUS[case].refusal.fits(only_error_line(ended.err))
    assert ended.seconds < SECONDS
    assert ended.peak < GIGABYTE
    assert state(room) == before
