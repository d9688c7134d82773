"""What is taken from the card of a source, and what of it cannot be believed."""

from __future__ import annotations

import pytest
from g4convert.model_cards.upstream import UPSTREAM, Upstream

CARD = """---
license: apache-2.0
language:
- en
- de
pipeline_tag: any-to-any
---

# Gemma 4

Text.
"""


def test_metadata_and_text_are_told_apart() -> None:
    upstream = Upstream.parse(CARD)

    assert upstream.words("license") == "apache-2.0"
    assert upstream.names("language") == ["en", "de"]
    assert upstream.text == "# Gemma 4\n\nText."


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n"])
def test_however_the_file_was_saved(newline: str, before: str) -> None:
    upstream = Upstream.parse(before + CARD.replace("\n", newline))

    assert upstream.words("pipeline_tag") == "any-to-any"
    assert upstream.text.startswith("# Gemma 4")


def test_of_a_card_of_ours_the_text_is_what_it_says_of_its_own_source() -> None:
    ours = f"---\nlicense: mit\n---\n\n# Converted\n\n{UPSTREAM}\n\n# The source\n"

    assert Upstream.parse(ours).text == "# The source"
    assert Upstream.parse(ours).words("license") == "mit"


BROKEN = {
    "no metadata": "# Gemma 4",
    "a line that is a rule": "text\n---\nlicense: mit\n---\n",
    "not closed": "---\nlicense: mit\n",
    "no YAML": "---\nlicense: [mit\n---\n",
    "a list": "---\n- license\n---\n",
    "an object of Python": "---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
    "no number": "---\nlicense: mit\nsize: !!int ''\n---\n",
    "no date": "---\nlicense: mit\ndate: 2001-99-99\n---\n",
    "no truth": "---\nlicense: mit\nsure: !!bool perhaps\n---\n",
    "too large a number": f"---\nlicense: mit\nsize: 1{':1' * 9000}.5\n---\n",
    "too long": f"---\nlicense: mit\ntags: [{'x,' * 100_000}]\n---\n",
    "nested too deep": f"---\nlicense: {'[' * 5000}\n---\n",
    "empty": "",
}


@pytest.mark.parametrize("card", BROKEN.values(), ids=BROKEN)
def test_metadata_that_cannot_be_read_are_none(card: str) -> None:
    assert Upstream.parse(card).words("license") is None


def test_text_of_a_card_without_metadata_is_kept() -> None:
    assert Upstream.parse("text\n---\nlicense: mit\n---\n").text == "text\n---\nlicense: mit\n---"


@pytest.mark.parametrize("value", ["[1, 2]", "{a: b}", "12", '"a\\nb"', '"\\e[31m"', "''", "null"])
def test_what_is_no_line_of_text_is_no_licence(value: str) -> None:
    upstream = Upstream.parse(f"---\nlicense: {value}\nlanguage: {value}\n---\n")

    assert upstream.words("license") is None
    assert upstream.names("language") == []


def test_an_explosion_of_merged_keys_costs_nothing() -> None:
    lines = ["a0: &a0 {x: y}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]

    assert Upstream.parse("---\n" + "\n".join([*lines, "license: mit"]) + "\n---\n").words("license") is None


def test_an_explosion_of_aliases_costs_nothing() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    upstream = Upstream.parse("---\n" + "\n".join([*lines, "license: mit", "language: *a11"]) + "\n---\n")

    assert upstream.words("license") == "mit"
    assert upstream.names("language") == []
