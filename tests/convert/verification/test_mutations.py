"""Every way to break a checkpoint is noticed by the check that is there for it, which names what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from g4convert.convert.manifest import MANIFEST
from g4convert.convert.verification.outcome import Status
from g4convert.tests.convert.verification.mutations import MUTATIONS, Mutation
from g4convert.tests.convert.verification.workshop import CHECKS, Piece, said, verify
from g4convert.tests.support import digests

Convert = Callable[..., Path]
CIRCUMSTANCES = ("alone", "manifest", "source", "foreign")


@pytest.fixture(scope="module", autouse=True)
def untouched(converted: Convert) -> Iterator[None]:
    """What is shared is a link away: no mutation may reach it."""
    before = digests(converted("e2b"))
    yield
    assert digests(converted("e2b")) == before


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_a_mutation_is_found(mutation: Mutation, circumstance: str, converted: Convert, tmp_path: Path) -> None:
    piece = Piece(converted(mutation.kind, **mutation.options), tmp_path / "piece")
    mutation.change(piece)
    if circumstance in ("alone", "foreign"):
        (piece.folder / MANIFEST).unlink()
    elif circumstance == "source":
        piece.refresh_manifest()
    check = getattr(mutation, circumstance)
    kind = mutation.kind if circumstance in ("source", "foreign") else None

    found = verify(piece.folder, kind, check)

    if check is None:
        assert said(found) == []
        return
    assert found[check].status is Status.FAIL, found[check]
    assert mutation.names(check) in " ".join(said(found)), said(found)


def test_every_check_has_a_mutation_that_it_catches() -> None:
    caught = {getattr(mutation, circumstance) for mutation in MUTATIONS for circumstance in CIRCUMSTANCES}

    assert caught - {None} == CHECKS.keys()


def test_nothing_escapes_the_manifest_or_the_source() -> None:
    assert [mutation.name for mutation in MUTATIONS if None in (mutation.manifest, mutation.source)] == []


def test_a_manifest_that_breaks_its_schema(converted: Convert, tmp_path: Path) -> None:
    piece = Piece(converted("e2b"), tmp_path / "piece")
    with piece.json(MANIFEST) as manifest:
        manifest["tensors"]["language_model.model.norm.weight"].pop("sha256")

    checks = verify(piece.folder, "e2b")

    assert [name for name, check in checks.items() if check.status is Status.FAIL] == ["recorded files"]
    assert "conversion.json" in said(checks)[0]
    assert checks["recorded tensors"].status is Status.SKIPPED


def test_no_two_mutations_share_a_name() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
