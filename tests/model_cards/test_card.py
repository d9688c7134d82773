"""The card as the Hub reads it: metadata that survive a round trip, sections that can be replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from g4convert.model_cards.card import NOT_VERIFIED, Card, Group, Runtimes, Verified, render, task, use, verification
from g4convert.model_cards.sections import USE, VERIFICATION, replace_section
from g4convert.model_cards.upstream import Upstream
from g4convert.tests.hub.cards import judge
from huggingface_hub import ModelCard

ALL = ("text", "image", "audio", "video")
SOURCE_CARD = Upstream(
    {"license": "apache-2.0", "license_link": "https://ai.google.dev/gemma/terms", "pipeline_tag": "any-to-any",
     "language": ["en", "de"], "tags": ["private"], "extra_gated_prompt": "agree"},
    "# Gemma 4\n\nThe source says this.",
)  # fmt: skip
CARD = Card(
    title="gemma-4-E2B-it for MLX, 4-bit",
    summary="recipe balanced, 4-bit affine, groups of 64",
    model_type="gemma4",
    source="google/gemma-4-E2B-it",
    origin="google/gemma-4-E2B-it, commit `0123`",
    bits=4,
    modalities=ALL,
    size="3.676 GB",
    source_size="10.2 GB",
    bits_per_weight="5.76",
    packed=[Group("4-bit affine, groups of 64", 275, ["self_attn.q_proj", "mlp.up_proj"])],
    unpacked=[Group("towers stay in the source's precision", 300, ["vision_tower"])],
    exactness=None,
    memory=[(4096, "3.8 GB")],
    command="g4convert hf-to-mlx google/gemma-4-E2B-it --revision 0123 OUTPUT",
    recipe=None,
    version="0.1.0",
    runtimes=Runtimes(ALL, ("mlx-lm", "mlx-vlm", "mlx-swift-lm")),
    upstream=SOURCE_CARD,
)
VERIFIED = Verified("No defect found in 24 checks.", [])


def front_matter(card: Card) -> dict[str, Any]:
    found: dict[str, Any] = ModelCard(render(card)).data.to_dict()
    return found


def test_the_metadata_say_what_the_hub_asks_for() -> None:
    assert front_matter(CARD) == {
        "library_name": "mlx",
        "base_model": "google/gemma-4-E2B-it",
        "base_model_relation": "quantized",
        "license": "apache-2.0",
        "license_link": "https://ai.google.dev/gemma/terms",
        "language": ["en", "de"],
        "pipeline_tag": "any-to-any",
        "tags": ["mlx", "g4convert", "4-bit", *ALL],
    }


def test_the_hub_finds_nothing_wrong() -> None:
    assert judge(render(CARD)).errors == ()


def test_the_metadata_survive_a_round_trip() -> None:
    card = ModelCard(render(CARD))

    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert str(card) == render(CARD)
    assert yaml.safe_load(card.data.to_yaml()) == card.data.to_dict()


def test_an_unquantized_card_claims_no_relation() -> None:
    found = front_matter(replace(CARD, bits=None, packed=[]))

    assert found["base_model"] == "google/gemma-4-E2B-it"
    assert "base_model_relation" not in found
    assert not {tag for tag in found["tags"] if tag.endswith("-bit")}


def test_a_source_that_is_not_on_the_hub_is_no_base_model() -> None:
    found = front_matter(replace(CARD, source=None, upstream=Upstream()))

    assert found.keys() == {"library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize(
    ("modalities", "upstream", "expected"),
    [
        (ALL, "any-to-any", "any-to-any"),
        (ALL, "image-text-to-text", "image-text-to-text"),
        (ALL, None, "any-to-any"),
        (("text", "image", "video"), "any-to-any", "image-text-to-text"),
        (("text", "image", "video"), None, "image-text-to-text"),
        (("text", "audio"), "any-to-any", "audio-text-to-text"),
        (("text",), "image-text-to-text", "text-generation"),
        (ALL, "text-generation", "text-generation"),
        (ALL, "robotics", "robotics"),
    ],
)
def test_a_task_that_the_model_can_do(modalities: tuple[str, ...], upstream: str | None, expected: str) -> None:
    assert task(modalities, upstream) == expected


@pytest.mark.parametrize(
    "text", ["google/gemma-4-E2B-it", "0123", "3.676 GB", "10.2 GB", "`self_attn.q_proj`", "275", "`vision_tower`",
             "4,096", "3.8 GB", "--revision 0123", "Not verified yet", "The source says this."]
)  # fmt: skip
def test_the_card_says(text: str) -> None:
    assert text in render(CARD)


def test_what_the_source_says_comes_last_and_can_be_found_again() -> None:
    assert render(CARD).rstrip().endswith("The source says this.")
    assert Upstream.parse(render(CARD)).text == SOURCE_CARD.text


def test_a_table_holds_what_it_is_given() -> None:
    odd = replace(CARD, packed=[Group("recipe a|b\nleaves it", 1, ["x|y"])])

    assert "| recipe a\\|b leaves it | 1 | `x\\|y` |" in render(odd)


@pytest.mark.parametrize("names", [("mlx-lm",), ("mlx-vlm",), ("mlx-swift-lm",), ()])
def test_only_runtimes_that_know_the_model_are_named(names: tuple[str, ...]) -> None:
    said = use(Runtimes(ALL, names))

    assert {name for name in ("mlx_lm.", "mlx_vlm.", "ChatSession") if name in said} == {
        {"mlx-lm": "mlx_lm.", "mlx-vlm": "mlx_vlm.", "mlx-swift-lm": "ChatSession"}[name] for name in names
    }


def test_a_published_card_says_where_it_is() -> None:
    published = replace_section(render(CARD), USE, use(replace(CARD.runtimes, repo="me/gemma-4bit")))

    assert "hf download me/gemma-4bit --local-dir gemma-4bit\n" in published
    assert "g4convert run gemma-4bit -p" in published
    assert "mlx_vlm.generate --model me/gemma-4bit" in published
    assert 'ModelConfiguration(id: "me/gemma-4bit")' in published
    assert "--model ." not in published


def test_a_section_is_replaced_as_often_as_need_be_and_nothing_else_changes() -> None:
    first = replace_section(render(CARD), VERIFICATION, verification(VERIFIED))
    second = replace_section(first, VERIFICATION, verification(replace(VERIFIED, verdict="Two defects \\1 found.")))

    assert NOT_VERIFIED in render(CARD)
    assert "No defect found in 24 checks." in first
    assert "Two defects \\1 found." in second
    assert first.replace("No defect found in 24 checks.", "") == second.replace("Two defects \\1 found.", "")
    assert NOT_VERIFIED not in second


def test_a_card_without_the_section_stays_as_it_is() -> None:
    assert replace_section("# Mine\n", USE, use(CARD.runtimes)) == "# Mine\n"
