"""Files beside the config: how media are read, when to stop, how a tokenizer is called, what a card says."""

from __future__ import annotations

import os
from typing import Any

from g4convert.schemas.errors import ConfigError, OutputError

from .breaks import Break, Breaks, Damage, document, remove, text

PROCESSOR, GENERATION, TOKENIZER_CONFIG = "processor_config.json", "generation_config.json", "tokenizer_config.json"
CARD = "README.md"
FILES = (PROCESSOR, GENERATION, TOKENIZER_CONFIG)

# What is no document at all, whichever file it stands in.
NO_DOCUMENTS: dict[str, tuple[str | bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "no JSON": ("<html>404</html>", "not valid JSON"),
    "no UTF-8": (b'{"a": "\xff"}', "cannot be read"),
    "null": ("null", "found null, allowed is an object"),
    "a list": ("[]", "allowed is an object"),
    "a number": ("1e400", "too large a number"),
    "nested 100,000 deep": ('{"a":' * 100_000, "cannot be read"),
    "a key twice": ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
    "NaN": ('{"a": NaN}', "NaN is not a JSON number"),
    "eleven megabytes": (b" " * 11_000_000 + b"{}", "more than 10,000,000 bytes"),
}


def part(name: str, **changes: Any) -> Damage:
    """Change a part of the processor's config."""
    return document(PROCESSOR, lambda content: content[name].update(changes))


def without(name: str, key: str) -> Damage:
    return document(PROCESSOR, lambda content: content[name].pop(key))


def generation(**changes: Any) -> Damage:
    return document(GENERATION, lambda content: content.update(changes))


def tokenizer_config(**changes: Any) -> Damage:
    return document(TOKENIZER_CONFIG, lambda content: content.update(changes))


def sparse(name: str, size: int) -> Damage:
    def apply(folder: Any) -> None:
        (folder / name).touch()
        os.truncate(folder / name, size)

    return apply


IMAGE, VIDEO, AUDIO = "image_processor", "video_processor", "feature_extractor"

BREAKS: Breaks = {
    **{
        f"{file}: {name}": Break(text(file, content), ConfigError, says)
        for file in FILES
        for name, (content, says) in NO_DOCUMENTS.items()
    },
    "no processor config": Break(remove(PROCESSOR), ConfigError, f"{PROCESSOR}: the file is missing", loading=False),
    "patches of minus one": Break(part(IMAGE, patch_size=-1), ConfigError, f"{PROCESSOR}: $.{IMAGE}.patch_size"),
    "patches of another model": Break(part(IMAGE, patch_size=14), ConfigError, "the vision_config.patch_size"),
    "patches of a clip of another model": Break(part(VIDEO, patch_size=14), ConfigError, "the vision_config.patch_size"),
    "patches of 2**62": Break(part(IMAGE, patch_size=1 << 62), ConfigError, f"$.{IMAGE}.patch_size"),
    "patches of half a pixel": Break(part(IMAGE, patch_size=0.5), ConfigError, f"$.{IMAGE}.patch_size"),
    "other pooling": Break(part(IMAGE, pooling_kernel_size=2), ConfigError, "the vision_config.pooling_kernel_size"),
    "soft tokens that no model has": Break(part(IMAGE, max_soft_tokens=71), ConfigError, f"$.{IMAGE}.max_soft_tokens"),
    "division by a deviation of zero": Break(part(IMAGE, image_std=[1, 0, 1]), ConfigError, f"$.{IMAGE}.image_std[1]"),
    "two colours": Break(part(IMAGE, image_mean=[0, 0]), ConfigError, f"$.{IMAGE}.image_mean"),
    "100,000 colours": Break(part(IMAGE, image_mean=[0] * 100_000), ConfigError, f"$.{IMAGE}.image_mean"),
    "a filter that does not exist": Break(part(IMAGE, resample=6), ConfigError, f"$.{IMAGE}.resample"),
    "pictures are a list": Break(document(PROCESSOR, lambda c: c.update({IMAGE: []})), ConfigError, f"$.{IMAGE}"),
    "no pictures": Break(document(PROCESSOR, lambda c: c.pop(IMAGE)), ConfigError, f"found no key '{IMAGE}'"),
    "no sounds": Break(document(PROCESSOR, lambda c: c.update({AUDIO: None})), ConfigError, f"found no key '{AUDIO}'"),
    "no kind of picture": Break(without(IMAGE, "image_processor_type"), ConfigError, "found no key 'image_processor_type'"),
    "the other family": Break(document(PROCESSOR, lambda c: c.update(processor_class="Gemma4UnifiedProcessor")), ConfigError, "$.processor_class"),
    "pictures of the other family": Break(part(IMAGE, image_processor_type="Gemma4UnifiedImageProcessor"), ConfigError, "image_processor_type"),
    "another model's processor": Break(document(PROCESSOR, lambda c: c.update(processor_class="LlavaProcessor")), ConfigError, "$.processor_class"),
    "clips without frames": Break(part(VIDEO, num_frames=0), ConfigError, f"$.{VIDEO}.num_frames"),
    "clips of 10**9 frames": Break(part(VIDEO, num_frames=10**9), ConfigError, f"$.{VIDEO}.num_frames"),
    "bins of another model": Break(part(AUDIO, feature_size=80), ConfigError, "subsampling_conv_channels"),
    "silence per second": Break(part(AUDIO, sampling_rate=0), ConfigError, f"$.{AUDIO}.sampling_rate"),
    "no hop": Break(part(AUDIO, hop_length=0), ConfigError, f"$.{AUDIO}.hop_length"),
    "a transform of 2**40": Break(part(AUDIO, fft_length=1 << 40), ConfigError, f"$.{AUDIO}.fft_length"),
    "stops at a word": Break(generation(eos_token_id="<eos>"), ConfigError, f"{GENERATION}: $.eos_token_id"),
    "stops at true": Break(generation(eos_token_id=True), ConfigError, f"{GENERATION}: $.eos_token_id"),
    "stops at a fraction": Break(generation(eos_token_id=1.0), ConfigError, f"{GENERATION}: $.eos_token_id"),
    "stops at minus one": Break(generation(eos_token_id=-1), ConfigError, f"{GENERATION}: $.eos_token_id"),
    "stops at a list of lists": Break(generation(eos_token_id=[[1]]), ConfigError, f"{GENERATION}: $.eos_token_id"),
    "stops at 2**63": Break(generation(eos_token_id=1 << 63), ConfigError, f"{GENERATION}: $.eos_token_id"),
    "stops at 100,000 tokens": Break(generation(eos_token_id=[1] * 100_000), ConfigError, f"{GENERATION}: $.eos_token_id"),
    "stops outside of the vocabulary": Break(generation(eos_token_id=[1, 5000]), ConfigError, f"{GENERATION}: $.eos_token_id: names the token 5000, the model has 768"),
    "pads outside of the vocabulary": Break(generation(pad_token_id=768), ConfigError, f"{GENERATION}: $.pad_token_id: names the token 768, the model has 768"),
    "suppresses outside of the vocabulary": Break(generation(suppress_tokens=[768]), ConfigError, f"{GENERATION}: $.suppress_tokens: names the token 768"),
    "suppresses 100,000 tokens": Break(generation(suppress_tokens=[1] * 100_000), ConfigError, f"{GENERATION}: $.suppress_tokens"),
    "temperature below zero": Break(generation(temperature=-1), ConfigError, f"{GENERATION}: $.temperature"),
    "top_p above one": Break(generation(top_p=2), ConfigError, f"{GENERATION}: $.top_p"),
    "top_k is a word": Break(generation(top_k="all"), ConfigError, f"{GENERATION}: $.top_k"),
    "special token is a number": Break(tokenizer_config(bos_token=2), ConfigError, f"{TOKENIZER_CONFIG}: $.bos_token"),
    "special token is empty": Break(tokenizer_config(bos_token=""), ConfigError, f"{TOKENIZER_CONFIG}: $.bos_token"),
    "template is a number": Break(tokenizer_config(chat_template=7), ConfigError, f"{TOKENIZER_CONFIG}: $.chat_template"),
    "100,000 templates": Break(tokenizer_config(chat_template=[0] * 100_000), ConfigError, f"{TOKENIZER_CONFIG}: $.chat_template"),
    "a card of a terabyte": Break(sparse(CARD, 1 << 40), ConfigError, f"{CARD}: the file has more than", loading=False),
    "a licence of eight terabytes": Break(sparse("LICENSE", 1 << 43), OutputError, "bytes are needed", loading=False),
}  # fmt: skip
