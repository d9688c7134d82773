"""What the card of a conversion says: where it came from, how to make it again, and nothing of whoever made it."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from g4convert.convert import Options
from g4convert.convert.card import conversion_card
from g4convert.convert.cli import cli
from g4convert.convert.pipeline import prepare
from g4convert.convert.publication.run import prepare as prepare_publication
from g4convert.convert.publication.run import published_card
from g4convert.convert.verification.outcome import Verification
from g4convert.model_cards.card import render
from g4convert.model_cards.sections import USE, VERIFICATION
from g4convert.model_cards.upstream import UPSTREAM
from g4convert.schemas.errors import ConfigError, UnsafeFileError
from g4convert.tests.hub.cards import judge
from g4convert.tests.support import CHECKPOINTS, KINDS, copy_of, digests
from huggingface_hub import ModelCard

Convert = Callable[..., Path]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = """---
license: gemma
license_link: https://ai.google.dev/gemma/terms
language:
- en
- de
pipeline_tag: image-text-to-text
tags: [private]
---
# The source

It says this.
"""
RECIPE = """name = "mine"
default = { bits = 8, group_size = 64 }
"""
PASSED = Verification("model", None, (), 0, "1.0")


def card_of(source: Path, **options: Any) -> str:
    """The card of a conversion that is planned and not made."""
    conversion = prepare(source, Options(**options))
    return render(conversion_card(conversion.source, conversion.plan, conversion.options, ()))


def metadata(card: str) -> dict[str, Any]:
    found: dict[str, Any] = ModelCard(card).data.to_dict()
    return found


def command(card: str) -> list[str]:
    """What makes it again."""
    found = re.findall(r"```sh\n(g4convert hf-to-mlx .*)\n```", card)
    assert len(found) == 1
    return shlex.split(found[0])[1:]


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """The smallest sample with a card of its own."""
    folder = copy_of("text", tmp_path / "described")
    (folder / "README.md").write_text(README)
    return folder


@pytest.fixture
def cached(described: Path, tmp_path: Path) -> Path:
    """The same, as it lies in the Hub's cache."""
    folder = tmp_path / "hub" / "models--google--gemma-4-mini-it" / "snapshots" / COMMIT
    folder.parent.mkdir(parents=True)
    return Path(shutil.move(described, folder))


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_has_a_card_that_the_hub_takes(kind: str) -> None:
    card = card_of(CHECKPOINTS / kind)

    assert judge(card) == judge("---\nlicense: mit\n---\n")  # neither errors nor warnings
    assert {"mlx", "g4convert", "4-bit", "text"} <= set(metadata(card)["tags"])
    assert (f"<!-- g4convert: {USE} -->" in card, f"<!-- g4convert: {VERIFICATION} -->" in card) == (True, True)


def test_metadata_come_from_the_sources_card(described: Path) -> None:
    found = metadata(card_of(described))

    assert found["license"] == "gemma"
    assert found["license_link"] == "https://ai.google.dev/gemma/terms"
    assert found["language"] == ["en", "de"]
    assert found["library_name"] == "mlx"
    assert "private" not in found["tags"]
    assert "base_model" not in found


def test_the_task_is_the_sources_if_the_model_can_still_do_it(tmp_path: Path) -> None:
    source = copy_of("e2b", tmp_path / "e2b")
    (source / "README.md").write_text(README)

    assert metadata(card_of(source))["pipeline_tag"] == "image-text-to-text"
    text = metadata(card_of(source, modalities=("text",)))
    assert text["pipeline_tag"] == "text-generation"
    assert {"image", "audio", "video"}.isdisjoint(text["tags"])
    assert metadata(card_of(source, modalities=("text", "audio")))["pipeline_tag"] == "audio-text-to-text"
    assert "mlx_vlm" not in card_of(source, modalities=("text",))
    assert metadata(card_of(CHECKPOINTS / "e2b"))["pipeline_tag"] == "any-to-any"


def test_a_source_in_the_hubs_cache_is_the_base_model(cached: Path) -> None:
    card = card_of(cached)

    assert metadata(card)["base_model"] == "google/gemma-4-mini-it"
    assert metadata(card)["base_model_relation"] == "quantized"
    assert f"| made from | google/gemma-4-mini-it, commit `{COMMIT}` |" in card
    assert "# gemma-4-mini-it for MLX, 4-bit\n" in card
    assert command(card)[:4] == ["hf-to-mlx", "google/gemma-4-mini-it", "--revision", COMMIT]
    assert "base_model_relation" not in metadata(card_of(cached, quantize=False))


@pytest.mark.parametrize("options", [{}, {"bits": 8}, {"quantize": False}, {"modalities": ("text",)}])
def test_no_path_and_no_name_of_a_folder(options: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    home = tmp_path / "marker-of-a-person" / "marker-source"
    home.parent.mkdir()
    source = copy_of("text", home)
    recipe = home.parent / "marker-folder" / "mine.toml"
    recipe.parent.mkdir()
    recipe.write_text(RECIPE)
    if not options:
        options = {"recipe": str(recipe)}

    result = CliRunner().invoke(
        cli,
        [
            "hf-to-mlx",
            str(source),
            str(home.parent / "marker-output"),
            *(["--recipe", str(recipe)] if "recipe" in options else []),
        ],
    )

    assert result.exit_code == 0
    output = home.parent / "marker-output"
    assert not [path.name for path in output.iterdir() if b"marker" in path.read_bytes()]
    assert "marker" not in card_of(source, **options)
    found = prepare_publication(output, "alice/model", source=None)
    assert "marker" not in found.card
    assert str(tmp_path.parts[1]) + "/" not in found.card


def test_the_recipe_file_is_in_the_card(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE + "# ```\n# </details>\n")

    card = card_of(CHECKPOINTS / "text", recipe=str(recipe))

    assert f"\n````toml\n{RECIPE}# ```\n# </details>\n" in card
    assert command(card) == ["hf-to-mlx", "SOURCE", "--recipe", "mine.toml", "OUTPUT"]
    assert "toml" not in card_of(CHECKPOINTS / "text", recipe="uniform")


ASKED: list[dict[str, Any]] = [
    {},
    {"bits": 8},
    {"bits": 6, "group_size": 32, "recipe": "uniform"},
    {"mode": "mxfp4"},
    {"quantize": False, "dtype": "float16"},
    {"dtype": "float32", "max_shard_size": 90_000},
    {"modalities": ("text",)},
    {"recipe": "mine.toml"},
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: ",".join(asked) or "defaults")
def test_the_command_in_the_card_makes_the_same_bytes(
    asked: dict[str, Any], converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(RECIPE)
    first = converted("text", **asked)
    places = {"SOURCE": str(CHECKPOINTS / "text"), "OUTPUT": "again"}

    words = [places.get(word, word) for word in command((first / "README.md").read_text())]
    result = CliRunner().invoke(cli, words)

    assert (result.exit_code, result.exception) == (0, None)
    assert digests(tmp_path / "again") == digests(first)


def test_so_does_that_of_a_model_without_its_towers(tmp_path: Path) -> None:
    words = command(card_of(CHECKPOINTS / "e2b", modalities=("text", "image"), bits=8))

    again = [str(CHECKPOINTS / "e2b") if word == "SOURCE" else word for word in words]
    document = CliRunner().invoke(cli, [*again[:-1], "--dry-run", "--json"])
    same = CliRunner().invoke(
        cli, ["hf-to-mlx", str(CHECKPOINTS / "e2b"), "--modalities", "text,image", "--bits", "8", "--dry-run", "--json"]
    )
    assert document.stdout == same.stdout


# -- a conversion of a conversion --------------------------------------------------------------------------------------


@pytest.mark.parametrize("readme", [None, README])
def test_cards_do_not_nest(readme: str | None, tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    if readme:
        (source / "README.md").write_text(readme)
    for first, second in (("source", "one"), ("one", "two")):
        result = CliRunner().invoke(cli, ["hf-to-mlx", str(tmp_path / first), str(tmp_path / second), "--no-quantize"])
        assert result.exit_code == 0

    once, twice = ((tmp_path / name / "README.md").read_text() for name in ("one", "two"))
    assert twice == once
    assert twice.count("## Run it") == twice.count(f"<!-- g4convert: {USE} -->") == 1
    assert twice.count("It says this.") == twice.count(UPSTREAM) == (0 if readme is None else 1)


# -- when it is published ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(converted: Convert, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted("text"), tmp_path / "out"))


def test_edits_outside_the_two_sections_stay(folder: Path) -> None:
    card = folder / "README.md"
    before = card.read_text()
    edited = (
        before.replace("# Gemma 4", "# My Gemma 4").replace("tags:", "tags:\n- mine").replace("Not verified yet", "NO")
    )
    edited = edited.replace("\n## Memory\n", "\n## Thanks\n\nTo \\1 all.\n\n## Memory\n") + "\nThe end.\n"
    assert edited.count("NO") == 1
    card.write_text(edited)

    found = published_card(folder, "alice/model", None, PASSED)

    assert "NO. " not in found
    assert "hf download alice/model" in found
    outside = re.compile(r"(<!-- g4convert: (\w+) -->).*?(<!-- g4convert: end of \2 -->)", re.DOTALL)
    assert outside.sub(r"\1\3", found) == outside.sub(r"\1\3", edited)


def test_a_card_without_our_sections_stays_as_it_is(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"---\nlicense: mit\n---\r\n# Mine\r\n")

    assert published_card(folder, "alice/model", None, PASSED) == "---\nlicense: mit\n---\r\n# Mine\r\n"


def test_the_base_model_can_be_named(folder: Path) -> None:
    card = folder / "README.md"
    body = card.read_text().partition("\n---\n")[2]

    found = published_card(folder, "alice/model", "google/gemma-4-E2B-it", PASSED)

    assert metadata(found)["base_model"] == "google/gemma-4-E2B-it"
    assert metadata(found)["base_model_relation"] == "quantized"
    assert {**metadata(found), "base_model": 0, "base_model_relation": 0} == {
        **metadata(card.read_text()), "base_model": 0, "base_model_relation": 0,
    }  # fmt: skip
    assert body.partition("<!--")[0] == found.partition("\n---\n")[2].partition("<!--")[0]
    assert judge(found).errors == ()


def test_a_relation_that_somebody_wrote_stays_where_nothing_is_quantized(converted: Convert, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted("text", quantize=False), tmp_path / "plain"))
    card = folder / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nbase_model_relation: finetune\n", 1))

    found = metadata(published_card(folder, "alice/model", "google/gemma-4-E2B-it", PASSED))

    assert (found["base_model"], found["base_model_relation"]) == ("google/gemma-4-E2B-it", "finetune")


BROKEN = {
    "no YAML": b"---\nlicense: [mit\n---\n",
    "a tab": b"---\n\tlicense: mit\n---\n",
    "a list": b"---\n- license\n---\n",
    "a number for a name": b"---\n1: 2\n---\n",
    "an object of Python": b"---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
    "not UTF-8": b"---\nlicense: mit\n---\n\xff",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("base", [None, "google/gemma-4-E2B-it"])
def test_a_card_that_cannot_be_read_is_one_line(folder: Path, text: bytes, base: str | None) -> None:
    (folder / "README.md").write_bytes(text)

    with pytest.raises(ConfigError, match=r"^README.md: the card cannot be read: "):
        published_card(folder, "alice/model", base, PASSED)


def test_a_card_without_metadata_is_no_error(folder: Path) -> None:
    (folder / "README.md").write_text("# Mine\n")

    assert published_card(folder, "alice/model", None, PASSED) == "# Mine\n"


def test_a_huge_card(folder: Path) -> None:
    text = (folder / "README.md").read_text() + "x" * 20_000_000

    (folder / "README.md").write_text(text)

    assert len(published_card(folder, "alice/model", None, PASSED)) > 20_000_000


def test_a_missing_card(folder: Path) -> None:
    (folder / "README.md").unlink()

    with pytest.raises(ConfigError, match="the card cannot be read: No such file"):
        published_card(folder, "alice/model", None, PASSED)


def test_a_card_that_is_a_link_to_somewhere_else(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "id_ed25519"
    secret.write_text("secret")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(secret)

    with pytest.raises(UnsafeFileError, match="leads out of the checkpoint"):
        published_card(folder, "alice/model", None, PASSED)
