"""Tokenizers that are no tokenizer, do not fit the model, or would crash the library that reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from g4convert.schemas.errors import ConfigError

from .breaks import Break, Breaks, Damage, document, remove, text

FILE = "tokenizer.json"
JSON = f"{FILE}: "


def edited(edit: Callable[[Any], object]) -> Damage:
    return document(FILE, edit)


def model(**changes: Any) -> Damage:
    return edited(lambda content: content["model"].update(changes))


def vocabulary(**changes: Any) -> Damage:
    return edited(lambda content: content["model"]["vocab"].update(changes))


def merge(value: Any) -> Damage:
    return edited(lambda content: content["model"]["merges"].append(value))


def added(**changes: Any) -> Damage:
    """Add a token that is matched as a whole."""
    entry = {"id": 20, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return edited(lambda content: content["added_tokens"].append({**entry, "special": True, **changes}))


def part(name: str, value: Any) -> Damage:
    return edited(lambda content: content.update({name: value}))


def renamed(old: str, new: str) -> Damage:
    """Give a special token another name, everywhere."""

    def apply(folder: Path) -> None:
        path = folder / FILE
        path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))

    return apply


def without(string: str) -> Damage:
    """Remove a token everywhere."""

    def edit(content: Any) -> None:
        content["model"]["vocab"].pop(string)
        content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] != string]

    return edited(edit)


def splinters(content: Any) -> None:
    """A merge that makes a token, of parts that are none."""
    content["model"]["vocab"].pop("<mask>")
    content["model"]["merges"].append(["<p", "ad>"])


def prefixed(content: Any) -> None:
    """A prefix that ends within a character of a merged token."""
    content["model"].update(continuing_subword_prefix="é", vocab={"a": 0, "aé": 1, "aaé": 2}, merges=[["a", "aé"]])


def bulk(name: str, item: str, count: int) -> Damage:
    """A part of the file that holds as much as a file can."""

    def apply(folder: Path) -> None:
        items = ",".join([item] * count)
        (folder / FILE).write_text(f'{{"model":{{"type":"BPE","vocab":{{"a":0}},"merges":[]}},"{name}":[{items}]}}')

    return apply


def many_merges(content: Any) -> None:
    """Many merges, and one of tokens that are not there."""
    content["model"]["merges"] = [content["model"]["merges"][0]] * 100_000 + [["qqqq", "wwww"]]


def many_tokens(folder: Path) -> None:
    vocab = ",".join(f'"{number:x}":{number}' for number in range(600_000))
    (folder / FILE).write_text(f'{{"model":{{"type":"BPE","vocab":{{{vocab}}},"merges":[]}}}}')


def huge(folder: Path) -> None:
    os.truncate(folder / FILE, 1 << 40)


def nested(count: int) -> Any:
    """Steps within steps."""
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(count):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


def template(text: str) -> Any:
    """How special tokens surround a text."""
    single = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": text, "type_id": 0}}]
    token = {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {"<bos>": token}}


SPLIT: dict[str, Any] = {"type": "Split", "behavior": "Isolated", "invert": False}

BREAKS: Breaks = {
    "missing": Break(remove(FILE), ConfigError, f"{JSON}the file is missing"),
    "empty": Break(text(FILE, b""), ConfigError, f"{JSON}not valid JSON"),
    "no JSON": Break(text(FILE, "tokenizer"), ConfigError, f"{JSON}not valid JSON"),
    "no UTF-8": Break(text(FILE, b'{"a": "\xff"}'), ConfigError, f"{JSON}cannot be read"),
    "null": Break(text(FILE, "null"), ConfigError, f"{JSON}$: found null"),
    "a list": Break(text(FILE, "[]"), ConfigError, f"{JSON}$: found []"),
    "empty object": Break(text(FILE, "{}"), ConfigError, f"{JSON}$: found no key 'model'"),
    "another schema": Break(text(FILE, '{"vocab": {"a": 0}}'), ConfigError, f"{JSON}$: found no key 'model'"),
    "a key twice": Break(text(FILE, '{"model": {}, "model": {}}'), ConfigError, "the key 'model' stands twice"),
    "nested 100,000 deep": Break(text(FILE, '{"a":' * 100_000), ConfigError, f"{JSON}cannot be read"),
    "a terabyte": Break(huge, ConfigError, "the file has more than 64,000,000 bytes"),
    "ten million values": Break(bulk("padding", "[]", 10_000_000), ConfigError, "it holds more than 3,000,000 values"),
    "100,000 values": Break(bulk("normalizer", "[]", 100_000), ConfigError, f"{JSON}$.normalizer"),
    "100,000 merges": Break(edited(many_merges), ConfigError, "makes no token of the vocabulary"),
    "600,000 tokens": Break(many_tokens, ConfigError, "$.model.vocab: found an object of 600000 keys"),
    "a model of another kind": Break(model(type="Unigram"), ConfigError, "$.model.type"),
    "a model of no kind": Break(model(type=None), ConfigError, "$.model.type"),
    "no vocabulary": Break(edited(lambda c: c["model"].pop("vocab")), ConfigError, "found no key 'vocab'"),
    "vocabulary is empty": Break(model(vocab={}, merges=[]), ConfigError, "$.model.vocab"),
    "vocabulary is a list": Break(model(vocab=[["a", 0]]), ConfigError, "$.model.vocab"),
    "vocabulary of the base alone": Break(model(vocab={"<pad>": 0}, merges=[]), ConfigError, "a special token|is another token's|not a tokenizer"),
    "no merges": Break(edited(lambda c: c["model"].pop("merges")), ConfigError, "found no key 'merges'"),
    "merges of words": Break(model(merges=["a b c"]), ConfigError, "the merge 'a b c' makes no token"),
    "merge of one": Break(merge(["a"]), ConfigError, f"{JSON}not a tokenizer: "),
    "merge of numbers": Break(merge([1, 2]), ConfigError, "the merge [1, 2] makes no token"),
    "merge of unknown tokens": Break(merge(["qqqq", "wwww"]), ConfigError, "makes no token of the vocabulary"),
    "merge that is longer than any token": Break(merge(["<|tool_response>", "<tool_response|>"]), ConfigError, "makes no token of the vocabulary"),
    "merge of what is no token": Break(edited(splinters), ConfigError, f"{JSON}not a tokenizer: "),
    "merges in a circle": Break(model(merges=[["ab", "a"], ["a", "ba"], ["b", "a"], ["a", "b"]]), ConfigError, "makes no token of the vocabulary"),
    "id is a word": Break(vocabulary(zzz="1"), ConfigError, "its vocabulary does not map strings to ids"),
    "id is a fraction": Break(vocabulary(zzz=1.5), ConfigError, "its vocabulary does not map strings to ids"),
    "id is true": Break(vocabulary(zzz=True), ConfigError, "its vocabulary does not map strings to ids"),
    "id is null": Break(vocabulary(zzz=None), ConfigError, "its vocabulary does not map strings to ids"),
    "id of minus one": Break(vocabulary(zzz=-1), ConfigError, f"{JSON}not a tokenizer"),
    "id of 2**40": Break(vocabulary(zzz=1 << 40), ConfigError, "vocab_size is 768, and tokenizer.json has 'zzz'"),
    "id behind the embedding": Break(vocabulary(zzz=768), ConfigError, "vocab_size is 768, and tokenizer.json has 'zzz' with the id 768"),
    "special token behind the embedding": Break(added(id=768), ConfigError, "vocab_size is 768, and tokenizer.json has '<new>'"),
    "special token with another's id": Break(added(id=100), ConfigError, "the id 100 of '<new>' is another token's"),
    "special token without an id": Break(added(id=None), ConfigError, "its vocabulary does not map strings to ids"),
    "special token is a number": Break(added(content=7), ConfigError, "its vocabulary does not map strings to ids"),
    "special token is a word": Break(edited(lambda c: c["added_tokens"].append("<new>")), ConfigError, "is not the file of a tokenizer"),
    "special tokens are a number": Break(part("added_tokens", 7), ConfigError, "$.added_tokens"),
    "no special tokens": Break(part("added_tokens", []), ConfigError, "the id of a special token"),
    "no image token": Break(without("<|image|>"), ConfigError, "image_token_id"),
    "no beginning": Break(without("<bos>"), ConfigError, "bos_token_id"),
    "image token is the sound's": Break(edited(lambda c: _swap(c, "<|image|>", "<|audio|>")), ConfigError, "_token_id: found"),
    "random dropout": Break(model(dropout=0.1), ConfigError, "$.model.dropout"),
    "a prefix that ends within a character": Break(edited(prefixed), ConfigError, "$.model.continuing_subword_prefix"),
    "a prefix longer than a token": Break(model(continuing_subword_prefix="aaaaaaaa"), ConfigError, "$.model.continuing_subword_prefix"),
    "a suffix": Break(model(end_of_word_suffix="</w>"), ConfigError, "$.model.end_of_word_suffix"),
    "a compiled table": Break(part("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}), ConfigError, "$.normalizer.type"),
    "a compiled table in a sequence": Break(part("normalizer", {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": ""}]}), ConfigError, "$.normalizer.normalizers[0].type"),
    "a catastrophic expression": Break(part("pre_tokenizer", {**SPLIT, "pattern": {"Regex": "(a+)+$"}}), ConfigError, "$.pre_tokenizer.pattern"),
    "an expression that replaces": Break(part("normalizer", {"type": "Replace", "pattern": {"Regex": "(a|a)*"}, "content": ""}), ConfigError, "$.normalizer.pattern"),
    "an expression that decodes": Break(part("decoder", {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}), ConfigError, "$.decoder.pattern"),
    "an empty pattern": Break(part("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "aaaaaaaa"}), ConfigError, "$.normalizer.pattern"),
    "a template for a second text": Break(part("post_processor", template("B")), ConfigError, "$.post_processor.single[1].Sequence.id"),
    "a step that does not exist": Break(part("pre_tokenizer", {"type": "Gemma"}), ConfigError, "$.pre_tokenizer.type"),
    "a step that prepends nothing": Break(part("normalizer", {"type": "Prepend", "prepend": ""}), ConfigError, "$.normalizer.prepend"),
    "a step that strips too much": Break(part("decoder", {"type": "Strip", "content": "a", "start": 0, "stop": 1 << 62}), ConfigError, "$.decoder.stop"),
    "a step without a kind": Break(part("decoder", {}), ConfigError, "found no key 'type'"),
    "a step that lacks its pattern": Break(part("normalizer", {"type": "Replace"}), ConfigError, f"{JSON}not a tokenizer"),
    "200 steps within each other": Break(part("normalizer", nested(200)), ConfigError, f"{JSON}"),
}  # fmt: skip


def _swap(content: Any, one: str, other: str) -> None:
    vocab = content["model"]["vocab"]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    for entry in content["added_tokens"]:
        entry["id"] = vocab[entry["content"]]
