"""The loader refuses what is wrong before it gives out a model, within the same limits as the converter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders.checkpoint import read_config
from g4convert.loaders.loading import LoadedModel, load, open_prompt
from g4convert.schemas.errors import G4ConvertError
from g4convert.tests.support import CHECKPOINTS, read_json

from .breaks import Refusal
from .conftest import Plain
from .corpus import CONVERTED, CORPUS
from .fields import AMOUNTS, FREE, PLACES, broken
from .limits import LINE, limits, state
from .programs import PICKLES, program, trapped
from .test_conversion import hub_cache

# The tensors of a tower without its section are too many.
SILENT = {field: names for field, names in FREE.items() if not field.endswith("_config")}


def failure(open_checkpoint: Callable[[Path], object], folder: Path) -> G4ConvertError | None:
    """The error with which a checkpoint is refused, within the limits; None where it is opened."""
    with limits():
        try:
            open_checkpoint(folder)
        except G4ConvertError as error:
            return error
    return None


def check(folder: Path, expected: Refusal | None) -> None:
    """What is said of a checkpoint is what must be said, and nothing of it has changed."""
    before = state(folder.parent)

    found = failure(load, folder)

    if expected is None:
        assert found is None
    else:
        assert type(found) is expected.error, found
        assert expected.fits(str(found)), found
        assert str(found).isprintable()
        assert len(str(found)) < LINE
    assert state(folder.parent) == before


@pytest.mark.parametrize("case", CORPUS)
def test_a_bad_checkpoint_is_not_loaded(case: str, room: Path, plain: Plain) -> None:
    folder = plain(CORPUS[case].kind, room / "model")
    CORPUS[case].damage(folder)

    check(folder, CORPUS[case].loader_refusal)


@pytest.mark.parametrize("case", CONVERTED)
def test_a_bad_conversion_is_not_loaded(case: str, room: Path, packed: Plain) -> None:
    folder = packed(CONVERTED[case].kind, room / "model")
    CONVERTED[case].damage(folder)

    check(folder, CONVERTED[case].loader_refusal)


@pytest.mark.parametrize("form", ["plain", "packed"])
@pytest.mark.parametrize("kind", sorted({case.kind for case in (*CORPUS.values(), *CONVERTED.values())}))
def test_what_is_not_broken_is_loaded(kind: str, form: str, room: Path, plain: Plain, packed: Plain) -> None:
    folder = {"plain": plain, "packed": packed}[form](kind, room / "model")

    with limits():
        assert isinstance(load(folder), LoadedModel)


@pytest.mark.slow
@pytest.mark.parametrize("case", CORPUS)
def test_what_opens_a_prompt_opens_what_is_loaded(case: str, room: Path, plain: Plain) -> None:
    folder = plain(CORPUS[case].kind, room / "model")
    CORPUS[case].damage(folder)

    assert failure(open_prompt, folder) is None or CORPUS[case].loader_refusal is not None


@pytest.mark.parametrize("wrong", AMOUNTS)
@pytest.mark.parametrize(("kind", "section", "field"), PLACES)
def test_a_field_is_refused_or_changes_nothing(
    kind: str, section: str, field: str, wrong: Mapping[str, Any], room: Path, plain: Plain
) -> None:
    folder = plain(kind, room / "model")
    config = read_config(folder)[1]
    for name, document in broken(read_json(folder / "config.json"), section, field, wrong):
        (folder / "config.json").write_text(json.dumps(document))

        found = failure(open_prompt, folder)

        if found is None and read_config(folder)[1] != config and name not in SILENT.get(field, ()):
            found = failure(load, folder)
            assert found is not None, name
        assert str(found).isprintable()


def test_what_stands_beside_the_weights_is_not_run(room: Path, packed: Plain) -> None:
    folder = packed("e2b", room / "model")
    for name in ("modeling.py", "configuration_gemma4.py", "conftest.py", "sitecustomize.py"):
        program(name)(folder)
    for name in PICKLES:
        trapped(name)(folder)

    assert failure(load, folder) is None
    assert not (room / "trace").exists()


def test_links_of_the_hubs_cache_are_followed(room: Path, packed: Plain) -> None:
    assert failure(load, hub_cache(packed("e2b", room / "model"), room / "hub")) is None


def test_a_source_is_not_taken_for_a_conversion(room: Path) -> None:
    found = failure(load, CHECKPOINTS / "e2b")

    assert "convert it first" in str(found)
