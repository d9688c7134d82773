"""Relations between the files of a checkpoint: config and tokenizer, config and processor.

Everything here is a function of parsed documents that their schemas have passed; nothing is read from disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..schemas.errors import ConfigError
from .config import UNIFIED, AudioConfig, ModelConfig, UnifiedAudioConfig, token_ids

CONFIG, TOKENIZER, PROCESSOR = "config.json", "tokenizer.json", "processor_config.json"
GENERATION_CONFIG = "generation_config.json"

# The strings that Gemma 4 gives to the ids of its config, and the section without which an id is of no use.
TOKENS: Mapping[str, tuple[str, str | None]] = {
    "image_token_id": ("<|image|>", "vision_config"),
    "boi_token_id": ("<|image>", "vision_config"),
    "eoi_token_id": ("<image|>", "vision_config"),
    "video_token_id": ("<|video|>", "vision_config"),
    "audio_token_id": ("<|audio|>", "audio_config"),
    "boa_token_id": ("<|audio>", "audio_config"),
    "eoa_token_id": ("<audio|>", "audio_config"),
    "eoa_token_index": ("<audio|>", "audio_config"),
    "bos_token_id": ("<bos>", None),
    "pad_token_id": ("<pad>", None),
}
# How the two families' processor parts are called: `Gemma4` or `Gemma4Unified`, then one of these.
PART_TYPES = {
    "image_processor": ("image_processor_type", "ImageProcessor"),
    "video_processor": ("video_processor_type", "VideoProcessor"),
    "feature_extractor": ("feature_extractor_type", "AudioFeatureExtractor"),
}

Json = Mapping[str, Any]


def check_token_ids(config: Json, tokenizer: Any) -> None:
    """Check every token id of a config against the tokenizer.

    An id must be in the vocabulary, and be that of the string which Gemma 4 has for it, where the tokenizer knows the
    string. Ids of a modality that the checkpoint lacks may lie outside: transformers always writes them.

    Args:
        config: the parsed `config.json`.
        tokenizer: the parsed `tokenizer.json`.

    Raises:
        ConfigError: an id is another token's, or no token's; the embedding has no row for a token.
    """
    vocabulary, added = _vocabulary(tokenizer)
    _check_rows(config, vocabulary)
    for path, section in _sections(config):
        for key, (string, needs) in TOKENS.items():
            used = needs is None or config.get(needs) is not None
            _check_id(f"{path}.{key}", section.get(key), string, used, vocabulary)
        for found in token_ids(section.get("eos_token_id")):
            if found not in added:
                raise _wrong_id(f"{path}.eos_token_id", found, "the id of a special token")


def _check_id(path: str, found: int | None, string: str, used: bool, vocabulary: Mapping[str, int]) -> None:
    wanted = vocabulary.get(string)
    exists = found in vocabulary.values()
    unused = not exists and not used
    renamed = exists and wanted is None
    if found in (None, wanted) or unused or renamed:
        return
    raise _wrong_id(path, found, "an id of the vocabulary" if wanted is None else f"{wanted}, the id of {string}")


def _sections(config: Json) -> Iterator[tuple[str, Json]]:
    yield "$", config
    if "text_config" in config:
        yield "$.text_config", config["text_config"]


def _wrong_id(path: str, found: int | None, allowed: str) -> ConfigError:
    return ConfigError(f"{path}: found {found}, allowed is {allowed} in {TOKENIZER}", where=CONFIG)


def _check_rows(config: Json, vocabulary: Mapping[str, int]) -> None:
    """A token without a row in the embedding table would read beyond its end."""
    rows = config.get("text_config", config)["vocab_size"]
    string, last = max(vocabulary.items(), key=lambda entry: entry[1])
    if last >= rows:
        raise ConfigError(f"vocab_size is {rows}, and {TOKENIZER} has {string!r} with the id {last}", where=CONFIG)


def check_generation(config: ModelConfig, generation: Json) -> None:
    """Check the token ids of a generation config.

    Args:
        config: the model's config.
        generation: the parsed `generation_config.json`.

    Raises:
        ConfigError: the model has no such token.
    """
    for key in ("bos_token_id", "pad_token_id", "eos_token_id", "suppress_tokens"):
        check_rows(token_ids(generation.get(key)), config.text.vocab_size, f"{GENERATION_CONFIG}: $.{key}")


def check_rows(ids: Iterable[int], rows: int, where: str) -> None:
    """Reading behind the last row of a table is no error in mlx, and gives whatever lies there.

    Raises:
        ConfigError: an id has no row; `where` says who names it.
    """
    if strays := [token for token in ids if token >= rows]:
        raise ConfigError(f"names the token {strays[0]}, the model has {rows}", where=where)


def _vocabulary(tokenizer: Any) -> tuple[dict[str, int], set[int]]:
    """Every token of a `tokenizer.json` with its id, and the ids of the added ones, which are matched as a whole."""
    try:
        vocab = tokenizer["model"]["vocab"]
        # A Unigram model lists pairs of string and score; other models map strings to ids.
        listed = {entry[0]: index for index, entry in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
        added = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise ConfigError("is not the file of a tokenizer with a vocabulary", where=TOKENIZER) from None
    known = {**listed, **added}
    if not known or not all(isinstance(string, str) and type(number) is int for string, number in known.items()):
        raise ConfigError("its vocabulary does not map strings to ids", where=TOKENIZER)
    return known, set(added.values())


def check_processor(config: ModelConfig, processor: Json) -> None:
    """Check a processor config against the model that it feeds.

    Args:
        config: the model's config.
        processor: the parsed `processor_config.json`.

    Raises:
        ConfigError: a part is of the other family, of another size, or missing.
    """
    _check_family(config, processor)
    if config.vision is not None:
        _require(processor, "image_processor", "vision_config")
        for part in ("image_processor", "video_processor"):
            for key in ("patch_size", "pooling_kernel_size"):
                _equal(
                    f"{part}.{key}",
                    (processor.get(part) or {}).get(key),
                    f"vision_config.{key}",
                    getattr(config.vision, key),
                )
    if config.audio is not None:
        _require(processor, "feature_extractor", "audio_config")
        _check_features(config.audio, processor["feature_extractor"])


def _check_family(config: ModelConfig, processor: Json) -> None:
    family = "Gemma4Unified" if config.family == UNIFIED else "Gemma4"
    names = [("processor_class", processor.get("processor_class"), "Processor")]
    for part, (key, kind) in PART_TYPES.items():
        names.append((f"{part}.{key}", (processor.get(part) or {}).get(key), kind))
    for path, found, kind in names:
        if found is not None and found != family + kind:
            allowed = f"{family + kind}, for {CONFIG} has the model_type {config.model_type}"
            raise ConfigError(f"$.{path}: found {found}, allowed is {allowed}", where=PROCESSOR)


def _require(processor: Json, part: str, section: str) -> None:
    if processor.get(part) is None:
        raise ConfigError(
            f"$: found no key {part!r}, allowed is an object, for {CONFIG} has a {section}",
            where=PROCESSOR,
            fix="take the file of the base model",
        )


def _check_features(audio: AudioConfig | UnifiedAudioConfig, extractor: Json) -> None:
    if isinstance(audio, UnifiedAudioConfig):
        for key in ("feature_size", "audio_samples_per_token"):
            _equal(
                f"feature_extractor.{key}", extractor.get(key), "audio_config.audio_embed_dim", audio.audio_embed_dim
            )
        return
    key = "num_mel_filters" if "num_mel_filters" in extractor else "feature_size"
    bins = extractor[key]
    # Each of the two convolutions halves the bins, rounding up.
    if -(-bins // 4) * audio.conv_channels_1 != audio.subsampled_size:
        raise ConfigError(
            f"$.feature_extractor.{key}: found {bins}, allowed is {audio.conv_channels_0}, "
            f"the first of audio_config.subsampling_conv_channels in {CONFIG}",
            where=PROCESSOR,
        )


def _equal(path: str, found: int | None, other: str, allowed: int) -> None:
    if found is not None and found != allowed:
        raise ConfigError(f"$.{path}: found {found}, allowed is {allowed}, the {other} of {CONFIG}", where=PROCESSOR)
