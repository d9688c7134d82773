"""The small files beside the weights: is there what the config calls for, and does it agree with the config?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...loaders.checkpoint import CONFIG_FILE
from ...loaders.config import ModelConfig
from ...loaders.consistency import GENERATION_CONFIG, check_processor, check_token_ids
from ...loaders.media import MediaSettings
from ...loaders.template import TOKENIZER_CONFIG
from ...loaders.tokenizer import TOKENIZER_FILE, read_tokenizer
from ...schemas import read_json, validate
from ..source import PROCESSOR, SCHEMAS
from .checking import Notes
from .listing import attempt
from .outcome import Finding
from .subject import Subject

FROM_SOURCE = "take the file of the source"
# What `tokenizer_config.json` calls a token that `config.json` has an id for.
NAMED_IDS = ("image_token", "audio_token", "boi_token", "eoi_token", "boa_token", "eoa_token")


def sidecars(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """What prepares text and media is there for everything that the config has, and valid."""
    found = subject.sidecars
    for name in _called_for(subject):
        if name not in found:
            yield Finding("the file is missing", name, FROM_SOURCE)
    for name in SCHEMAS:
        if name in found:
            yield from _valid(subject.config, name, found[name])
    notes.figures["files"] = sorted(found)


def _called_for(subject: Subject) -> Iterator[str]:
    """The files that the config calls for, and those that only a poor source lacks."""
    yield TOKENIZER_FILE
    if subject.config.vision is not None or subject.config.audio is not None:
        yield PROCESSOR
    for name in (TOKENIZER_CONFIG, GENERATION_CONFIG):
        if subject.source is not None:
            had = name in subject.source.sidecars
        else:
            had = subject.manifest is None or name in subject.manifest["sidecars"]
        if had:
            yield name


def _valid(config: ModelConfig, name: str, path: Path) -> Iterator[Finding]:
    findings = list(attempt(lambda: validate(read_json(path), SCHEMAS[name], where=name)))
    yield from findings
    if name == PROCESSOR and not findings:
        yield from _processor(config, read_json(path))


def _processor(config: ModelConfig, document: dict[str, Any]) -> Iterator[Finding]:
    yield from attempt(lambda: check_processor(config, document), lambda: MediaSettings.from_dict(document))
    clips = config.vision is not None and config.media_tokens.video_token_id is not None
    if clips and document.get("video_processor") is None:
        yield Finding("$: found no key 'video_processor', and the config has a video_token_id", PROCESSOR, FROM_SOURCE)


def token_ids(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Ids of the config and special tokens of the tokenizer's config are those of the tokenizer."""
    tokenizer = subject.prompt.tokenizer
    yield from attempt(lambda: check_token_ids(subject.document, read_tokenizer(subject.folder / TOKENIZER_FILE)))
    special = dict(_special_tokens(subject))
    for name, text in special.items():
        if tokenizer.token_to_id(text) is None:
            yield Finding(f"$.{name}: found {text!r}, which {TOKENIZER_FILE} lacks", TOKENIZER_CONFIG, FROM_SOURCE)
    for name, wanted in _ids(subject.config).items():
        found = tokenizer.token_to_id(special[name]) if name in special else None
        if None not in (found, wanted) and found != wanted:
            what = f"$.{name}: found {special[name]!r}, whose id is {found}, {CONFIG_FILE} has {wanted}"
            yield Finding(what, TOKENIZER_CONFIG, FROM_SOURCE)
    notes.figures.update(tokens=tokenizer.get_vocab_size(), special_tokens=len(special))


def _special_tokens(subject: Subject) -> Iterator[tuple[str, str]]:
    """Every special token that the tokenizer's config names, by its key."""
    yield from subject.prompt.special_tokens.items()
    path = subject.folder / TOKENIZER_CONFIG
    extra = read_json(path).get("extra_special_tokens") if path.exists() else None
    named = extra if isinstance(extra, dict) else dict(enumerate(extra or ()))
    yield from ((f"extra_special_tokens[{key}]", text) for key, text in named.items() if isinstance(text, str))


def _ids(config: ModelConfig) -> dict[str, int | None]:
    media = {name: getattr(config.media_tokens, f"{name}_id") for name in NAMED_IDS}
    return {"bos_token": config.text.bos_token_id, "pad_token": config.text.pad_token_id, **media}
