"""Every known edit is told, and nothing else; with the sides exchanged, the same the other way round."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert import diff
from g4convert.convert.comparison.outcome import Difference
from g4convert.tests.convert.comparison.edits import EDITS, Edit, lines
from g4convert.tests.convert.verification.workshop import Piece
from g4convert.tests.support import CHECKPOINTS

Convert = Callable[..., Path]
EXCHANGED = {"A": "B", "B": "A", "only_a": "only_b", "only_b": "only_a"}


def said() -> dict[str, list[str]]:
    """What must be told of every edit, by its name."""
    sections = Path(__file__).with_name("said.txt").read_text(encoding="utf-8").split("## ")[1:]
    return {name: text for name, *text in (section.rstrip().splitlines() for section in sections)}


SAID = said()


def mirrored(difference: Difference) -> Difference:
    """The same difference with the sides exchanged."""
    meaning = re.sub(r"\b[AB]\b", lambda letter: EXCHANGED[letter[0]], difference.meaning)
    figures = {EXCHANGED.get(name, name): value for name, value in difference.figures.items()}
    return replace(difference, a=difference.b, b=difference.a, meaning=meaning, figures=figures)


def in_order(differences: tuple[Difference, ...]) -> list[Any]:
    return sorted((difference.to_dict() for difference in differences), key=repr)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name.replace(" ", "-"))
def test_an_edit_is_told_and_nothing_else(edit: Edit, converted: Convert, tmp_path: Path) -> None:
    original = CHECKPOINTS / edit.kind if edit.options is None else converted(edit.kind, **edit.options)
    piece = Piece(original, tmp_path / "piece")
    edit.change(piece)

    found = diff(original, piece.folder)
    back = diff(piece.folder, original)

    assert lines(found) == SAID[edit.name]
    assert in_order(tuple(map(mirrored, back.differences))) == in_order(found.differences)


def test_every_edit_has_its_lines() -> None:
    assert [edit.name for edit in EDITS] == list(SAID)
    assert len(EDITS) >= 40
