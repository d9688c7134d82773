"""What a published card says of the verification, and what is not published unasked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from g4convert.convert.publication.section import COLUMNS, plotted, verified
from g4convert.convert.source import PLOT
from g4convert.convert.verification.outcome import Check, Finding, Status, Step, Verification
from g4convert.loaders.checkpoint import Checkpoint
from g4convert.model_cards.card import verification as render
from g4convert.tests.convert.publication.shop import NAME, SOURCE, Shell, content, flip, held, shards
from g4convert.tests.hub.client import UPLOADS
from g4convert.tests.hub.state import Hub
from g4convert.tests.support import edit_json

pytestmark = UPLOADS

Convert = Callable[..., Path]
SECTION = re.compile(r"<!-- g4convert: verification -->\n(.*?)\n<!-- g4convert: end of verification -->", re.DOTALL)


def section(folder: Path) -> str:
    """What a folder's card says of the verification."""
    found = SECTION.findall((folder / "README.md").read_text())
    assert len(found) == 1
    return str(found[0])


def row(text: str, name: str) -> list[str]:
    """The cells of a table's row by the first of them."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_without_a_source_two_steps_are_taken(shell: Shell, folder: Path) -> None:
    shell.published(folder)

    text = section(folder)
    assert [row(text, step)[1] for step in ("files", "tensors")] == ["pass", "pass"]
    assert "| numerics |" not in text
    assert PLOT not in text
    assert not (folder / PLOT).exists()


def test_with_the_source_all_steps_are_taken_and_the_card_has_the_numbers(shell: Shell, hub: Hub, folder: Path) -> None:
    outcome = shell.published(folder, "--source", SOURCE, "--json")

    text = section(folder)
    steps = ("files", "tensors", "numerics", "reference", "behaviour")
    assert [row(text, step)[1] for step in steps] == ["pass", "pass", "pass", "skipped", "pass"]
    found = outcome.document["verification"]
    figures = next(
        check["figures"] for step in found["steps"] for check in step["checks"] if check["name"] == "beside the source"
    )
    assert row(text, COLUMNS[0]) == list(COLUMNS)
    for name, figure in figures.items():
        cells = row(text, name)
        assert float(cells[2]) == pytest.approx(figure["converted"]["logits"]["kl_mean"], rel=0.01)
        assert cells[4] == f"{figure['converted']['logits']['top1']:.1%}"
        assert float(cells[5]) == pytest.approx(figure["bfloat16"]["logits"]["kl_mean"], rel=0.01)
    assert re.search(r"Perplexity of a text: [\d.,]+; the source's is [\d.,]+\.", text)
    assert re.search(r"Right answers .*: \d+ of \d+; the source's: \d+\.", text)
    assert "Compared with its source." in text

    assert f"![Relative error after each layer]({PLOT})" in text
    picture = held(hub)[PLOT]
    assert picture == (folder / PLOT).read_bytes()
    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 2
    assert held(hub) == content(folder)


def test_the_same_twice_gives_the_same_bytes(
    shell: Shell, hub: Hub, folder: Path, verifications: dict[str, Verification]
) -> None:
    """Each verified anew: times and memory differ, and nothing of them is in a file."""
    shell.published(folder, "--source", SOURCE)
    first, commits = content(folder), len(hub.repositories[NAME].commits)
    for key in [key for key in verifications if "'source': '" in key]:
        del verifications[key]

    shell.published(folder, "--source", SOURCE)

    assert content(folder) == first
    assert len(hub.repositories[NAME].commits) == commits


def test_a_later_publication_without_the_source_leaves_no_picture_in_the_card(
    shell: Shell, hub: Hub, folder: Path
) -> None:
    shell.published(folder, "--source", SOURCE)

    shell.published(folder)

    assert PLOT not in held(hub)["README.md"].decode()


def test_a_dry_run_with_the_source_lists_the_picture(shell: Shell, hub: Hub, folder: Path) -> None:
    document = shell.published(folder, "--source", SOURCE, "--dry-run", "--json").document

    assert not (folder / PLOT).exists()
    shell.published(folder, "--source", SOURCE)
    assert document["files"] == {path: len(data) for path, data in sorted(held(hub).items())}


# -- defects -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--source", SOURCE)], ids=["alone", "with source"])
def test_a_checkpoint_with_a_defect_is_not_published(
    shell: Shell, hub: Hub, folder: Path, options: tuple[object, ...]
) -> None:
    flip(shards(folder)[1])
    before = content(folder)

    outcome = shell.publish(folder, *options)

    assert outcome.code == 1
    assert "defect" in outcome.line
    assert "--allow-defects" in outcome.line
    assert [one.method for one in hub.requests if one.method != "GET"] == []
    assert (content(folder), hub.repositories) == (before, {})


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "model.safetensors.index.json"])
def test_so_is_one_with_an_altered_file(shell: Shell, hub: Hub, folder: Path, file: str) -> None:
    with (folder / file).open("a") as stream:
        stream.write(" ")

    outcome = shell.publish(folder)

    assert (outcome.code, hub.repositories) == (1, {})
    assert file in outcome.line


def test_a_defect_that_is_allowed_is_published_and_said(shell: Shell, hub: Hub, folder: Path) -> None:
    flip(shards(folder)[1])

    found = shell.published(folder, "--allow-defects", "--json").document["verification"]

    first = next(
        finding["where"] for step in found["steps"] for check in step["checks"] for finding in check["findings"]
    )
    text = SECTION.findall(held(hub)["README.md"].decode())[0]
    assert found["verdict"] == "fail"
    assert "**Published in spite of what follows.**" in text
    assert row(text, "files")[1] == "fail"
    assert f"- {first}: " in text
    assert held(hub) == content(folder)


def test_a_number_that_is_none_is_a_defect_though_its_digest_is_right(shell: Shell, hub: Hub, folder: Path) -> None:
    info = next(one for one in Checkpoint.open(folder).tensors.values() if one.name.endswith("norm.weight"))
    with info.file.open("r+b") as stream:
        stream.seek(info.offset)
        stream.write(b"\xc0\x7f")  # in bfloat16
        stream.seek(info.offset)
        digest = hashlib.sha256(stream.read(info.nbytes)).hexdigest()
    edit_json(folder / "conversion.json", lambda manifest: manifest["tensors"][info.name].update(sha256=digest))

    outcome = shell.publish(folder)

    assert (outcome.code, hub.repositories) == (1, {})
    assert info.name in outcome.line


def test_a_sound_checkpoint_says_nothing_of_defects(shell: Shell, folder: Path) -> None:
    shell.published(folder, "--allow-defects")

    assert "in spite" not in section(folder)


FOUND = Verification(
    "model",
    None,
    (
        Step(
            "files",
            (Check("config", Status.FAIL, (Finding("is\nwrong", "<b>|x|<!-- g4convert: end of verification -->"),)),),
        ),
    ),
    10**9,
    "1.0",
)


def test_names_of_strangers_stay_a_line_and_close_no_section() -> None:
    text = render(verified(FOUND))

    assert "- &lt;b>|x|&lt;!-- g4convert: end of verification -->: is wrong" in text
    assert "<" not in text


def test_where_nothing_was_measured_there_is_no_picture() -> None:
    assert plotted(FOUND) is None
    assert verified(replace(FOUND, steps=())).plot is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("google/gemma@0123", "Compared with google/gemma@0123."),
        ("secret-folder", "Compared with its source."),
        (None, ""),
    ],
)
def test_the_name_of_a_folder_is_nobodys_business(source: str | None, said: str) -> None:
    verdict = verified(Verification("model", source, (), 0, "1.0")).verdict

    assert verdict.endswith(said or "checks.")
    assert "secret" not in verdict
