"""What is printed: for people, readable; for programs, everything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from g4convert.convert import diff
from g4convert.convert.comparison.grouping import groups
from g4convert.convert.comparison.outcome import Comparison, Difference, Severity, Summary
from g4convert.convert.comparison.text import text
from g4convert.convert.verification.listing import GONE
from g4convert.tests.convert.verification.mutations import added, both, config_set, json_set, put
from g4convert.tests.convert.verification.workshop import Piece
from g4convert.tests.support import CHECKPOINTS

Convert = Callable[..., Path]
TEXT = CHECKPOINTS / "text"


def compared(*differences: Difference) -> Comparison:
    side = Summary("name", "gemma4", 1, 2)
    return Comparison(side, side, differences, weights=1, files=1, peak_memory=0, version="0")


def weight(name: str, rms: float, meaning: str = "other values") -> Difference:
    figures = {"elements": 8, "differing": 3, "beyond_rounding": 0, "relative_rms": rms, "largest": 2 * rms}
    return Difference("tensors", name, "bfloat16", "bfloat16", meaning, Severity.ANSWERS, figures)


def test_nothing_is_one_line(tmp_path: Path) -> None:
    found = diff(TEXT, Piece(TEXT, tmp_path / "other").folder)

    assert text(found) == "no difference between text and other: 98 weights and 4 files are the same"


def test_a_whole_text(converted: Convert, tmp_path: Path) -> None:
    piece = Piece(converted("text"), tmp_path / "other")
    change = both(
        config_set("sliding_window", to=16),
        json_set("tokenizer_config.json", "is_local", to=True),
        json_set("tokenizer_config.json", "name_or_path", to="x"),
        put("model.layers.0.mlp.up_proj.scales", 0, (0, 0)),
        put("model.layers.2.mlp.up_proj.scales", 0, (0, 0)),
        put("model.norm.weight", 0x7FC0, (3,)),
        added("LICENSE", b"Apache"),
    )
    change(piece)

    said = text(diff(converted("text"), piece.folder)).splitlines()

    before, weights, verdict = said[:-6], said[-6:-2], said[-1]
    assert before == [
        "A: text, gemma4_text, 198 tensors, 432.7 kB",
        "B: other, gemma4_text, 198 tensors, 432.7 kB",
        "",
        "config.json",
        "  answers  $.sliding_window: 32 -> 16",
        "           how many tokens a sliding layer sees",
        "",
        "tokenizer_config.json",
        "  form     $.is_local, $.name_or_path",
        "           where transformers found the tokenizer when it was saved",
        "",
        "LICENSE",
        "  files    nothing -> 6 bytes",
        "           for people; no runtime reads it",
        "",
        "tensors",
    ]
    assert weights[0] == "  answers  model.layers.N.mlp.up_proj.weight (2): 4-bit affine, groups of 64 in both"
    assert weights[1].startswith("           other values, further apart than rounding explains; relative RMS 0.3")
    assert weights[2] == "  answers  model.norm.weight: bfloat16 in both"
    assert weights[3] == "           B holds NaN or infinity; 1 of 64 elements"
    assert verdict == "7 differences: 4 may change answers, 2 of form, 1 in files that no runtime reads"


def test_layers_are_told_together_with_their_range() -> None:
    names = [f"language_model.model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 3, 12)]
    found = compared(*(weight(name, rms) for name, rms in zip(names, (0.2, 0.1, 0.3), strict=True)))

    said = text(found)

    assert "language_model.model.layers.N.mlp.up_proj.weight (3): bfloat16 in both\n" in said
    assert "relative RMS 0.100 to 0.300; largest difference 0.600\n" in said


def test_what_means_something_else_is_told_apart() -> None:
    layers = [
        weight("layers.0.a.weight", 0.1),
        weight("layers.1.a.weight", 0.1, "the same"),
        weight("layers.2.a.weight", 1),
    ]

    assert [len(group.members) for group in groups(layers)] == [2, 1]


def test_a_name_that_a_terminal_would_act_on() -> None:
    found = compared(Difference("a\x1b[2Jb.json", "", "1\n2", GONE, "me\x07aning", Severity.FILES))

    assert "\x1b" not in text(found)
    assert "\x07" not in text(found)
    assert text(found).count("\n") == 7


def test_json_has_every_tensor_and_no_key_for_nothing(converted: Convert) -> None:
    document: dict[str, Any] = json.loads(json.dumps(diff(CHECKPOINTS / "e2b", converted("e2b")).to_dict()))

    weights = [one for one in document["differences"] if "elements" in one["figures"]]
    assert document["equal"] is False
    assert document["counts"] == {"answers": 52, "form": len(document["differences"]) - 52, "files": 0}
    assert len(weights) == len({one["where"] for one in weights}) == 52
    assert weights[0].keys() == {"part", "where", "a", "b", "meaning", "severity", "figures"}
    (dead,) = (one for one in document["differences"] if one["meaning"].startswith("dead weight"))
    assert "b" not in dead
    assert len(dead["figures"]["tensors"]) == 6


def test_figures_that_are_no_numbers_are_null() -> None:
    found = compared(weight("norm.weight", float("nan")))

    (difference,) = found.to_dict()["differences"]
    assert difference["figures"]["relative_rms"] is None
    assert "nan" not in text(found)
