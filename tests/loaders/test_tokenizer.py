"""What a tokenizer's file may say, and what is not taken from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders.checkpoint import read_config
from g4convert.loaders.prompt import PromptFormat
from g4convert.loaders.tokenizer import open_tokenizer, read_tokenizer
from g4convert.schemas.errors import ConfigError
from g4convert.tests.hostile.tokenizers import template
from g4convert.tests.support import CHECKPOINTS, KINDS, copy_of, edit_json, read_json

FILE = "tokenizer.json"
LONG = "What is the capital of France? " * 20


def edited(folder: Path, edit: Callable[[Any], object]) -> Path:
    copy_of("text", folder)
    edit_json(folder / FILE, edit)
    return folder / FILE


@pytest.mark.parametrize("kind", KINDS)
def test_samples_pass(kind: str) -> None:
    folder = CHECKPOINTS / kind

    assert open_tokenizer(folder / FILE, read_json(folder / "config.json")).get_vocab_size() == 768
    assert read_tokenizer(folder / FILE) == read_json(folder / FILE)


TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 4000}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "<pad>",
}  # fmt: skip


@pytest.mark.parametrize(
    "settings", [{"truncation": TRUNCATION}, {"padding": PADDING}], ids=lambda one: next(iter(one))
)
def test_what_training_left_behind_does_not_touch_a_prompt(settings: dict[str, Any], tmp_path: Path) -> None:
    file = edited(tmp_path / "model", lambda content: content.update(settings))

    expected = open_tokenizer(CHECKPOINTS / "text" / FILE).encode(LONG).ids
    assert open_tokenizer(file).encode(LONG).ids == expected


STEPS: dict[str, list[Any]] = {
    "normalizer": [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}],
    "pre_tokenizer": [None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}],
    "post_processor": [None, template("A")],
    "decoder": [None, {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}],
}


@pytest.mark.parametrize(("part", "step"), [(part, step) for part, steps in STEPS.items() for step in steps])
def test_other_harmless_steps_pass(part: str, step: Any, tmp_path: Path) -> None:
    open_tokenizer(edited(tmp_path / "model", lambda content: content.update({part: step})))


def test_a_text_that_the_tokenizer_fails_on_is_an_error(tmp_path: Path) -> None:
    def edit(content: Any) -> None:
        content["model"].update(unk_token="nowhere", byte_fallback=False)

    folder = edited(tmp_path / "model", edit).parent
    prompt = PromptFormat.open(folder, read_config(folder)[1])

    with pytest.raises(ConfigError, match=r"tokenizer\.json: the tokenizer fails: "):
        prompt.encode("\N{SNOWMAN}")


def test_the_words_of_the_library_are_passed_on(tmp_path: Path) -> None:
    file = edited(tmp_path / "model", lambda content: content["model"]["merges"].append(["<p", "ad>"]))

    with pytest.raises(ConfigError, match=r"^tokenizer\.json: not a tokenizer: .*`<p` out of vocabulary"):
        open_tokenizer(file)


def test_the_limits_leave_room_for_the_published_one(tmp_path: Path) -> None:
    """The published file has 262,144 tokens, 514,906 merges, and 32,169,626 bytes."""
    tokens = [f"{number:x}".rjust(40, "_") for number in range(262_144)]
    merges = [[token[:20], token[20:]] for token in tokens] * 2  # each makes a token, as it must
    document = {"model": {"type": "BPE", "vocab": {t: n for n, t in enumerate(tokens)}, "merges": merges}}
    (tmp_path / FILE).write_text(json.dumps(document))

    assert (tmp_path / FILE).stat().st_size > 32_169_626
    assert len(read_tokenizer(tmp_path / FILE)["model"]["vocab"]) == 262_144
