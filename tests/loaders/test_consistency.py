"""A config whose token ids are another tokenizer's, or whose processor is another model's, is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders.config import ModelConfig
from g4convert.loaders.consistency import check_processor, check_token_ids
from g4convert.schemas.errors import ConfigError

DOCUMENTS = Path(__file__).parents[1] / "schemas" / "documents"

# Gemma 4's ids, as published (tokenizer.json itself has 32 MB).
PUBLISHED_IDS = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<|tool_response>": 50,
    "<turn|>": 106,
    "<|image>": 255999,
    "<|audio>": 256000,
    "<|image|>": 258880,
    "<|audio|>": 258881,
    "<image|>": 258882,
    "<audio|>": 258883,
    "<|video|>": 258884,
}
MEDIA_KEYS = [
    *("image_token_id", "video_token_id", "audio_token_id", "boi_token_id", "eoi_token_id", "boa_token_id"),
    *("eoa_token_id", "eoa_token_index"),
]


def _tokenizer(**changes: Any) -> dict[str, Any]:
    added = [{"id": number, "content": string, "special": True} for string, number in PUBLISHED_IDS.items()]
    vocab = {"a": 300, **{entry["content"]: entry["id"] for entry in added}}
    return {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": added, **changes}


def _read(name: str) -> Any:
    return json.loads((DOCUMENTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(DOCUMENTS.glob("config/*-published.json")), ids=lambda path: path.stem)
def test_published_ids_pass(path: Path) -> None:
    check_token_ids(_read(f"config/{path.stem}"), _tokenizer())


@pytest.mark.parametrize("sample", sorted(Path(__file__).parents[1].glob("checkpoints/*/tokenizer.json")), ids=str)
def test_samples_pass(sample: Path) -> None:
    config = json.loads(sample.with_name("config.json").read_text(encoding="utf-8"))
    check_token_ids(config, json.loads(sample.read_text(encoding="utf-8")))

    processor = sample.with_name("processor_config.json")
    if processor.exists():
        check_processor(ModelConfig.from_dict(config), json.loads(processor.read_text(encoding="utf-8")))


@pytest.mark.parametrize("wrong", [300, 258885, 0], ids=["a word", "no token", "another token"])
@pytest.mark.parametrize("key", MEDIA_KEYS)
def test_wrong_media_id_is_refused(key: str, wrong: int) -> None:
    config = _read("config/E2B-published") | {key: wrong}

    with pytest.raises(
        ConfigError, match=rf"^config\.json: \$\.{key}: found {wrong}, allowed is \d+, .* tokenizer\.json$"
    ):
        check_token_ids(config, _tokenizer())


@pytest.mark.parametrize("section", [None, "text_config"])
@pytest.mark.parametrize(("key", "wrong"), [("bos_token_id", 1), ("pad_token_id", 5), ("eos_token_id", 300)])
def test_wrong_text_id_is_refused(section: str | None, key: str, wrong: int) -> None:
    config = _read("config/E2B-published")
    (config if section is None else config[section])[key] = wrong
    place = "$" if section is None else "$.text_config"

    with pytest.raises(ConfigError) as caught:
        check_token_ids(config, _tokenizer())
    assert str(caught.value).startswith(f"config.json: {place}.{key}: found {wrong}, allowed is ")
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize("wrong", [[1, 300], [999_999], 258_885])
def test_stop_id_that_is_no_special_token_is_refused(wrong: int | list[int]) -> None:
    config = _read("config/E2B-published") | {"eos_token_id": wrong}

    with pytest.raises(ConfigError, match="the id of a special token"):
        check_token_ids(config, _tokenizer())


def test_null_and_absent_ids_pass() -> None:
    config = _read("config/E2B-published")
    for key in MEDIA_KEYS[:4]:
        config[key] = None
    for key in (*MEDIA_KEYS[4:], "eos_token_id"):
        del config[key]

    check_token_ids(config, _tokenizer())


def test_ids_that_transformers_writes_for_absent_modalities_may_lie_outside() -> None:
    config = _read("config/small-ple-saved")
    config["text_config"]["vocab_size"] = 300
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "a": 3}
    tokenizer = {"model": {"vocab": words}, "added_tokens": [{"id": 1, "content": "<eos>"}]}
    with pytest.raises(ConfigError, match=r"\$\.image_token_id: found 258880, allowed is an id of the vocabulary"):
        check_token_ids(config, tokenizer)

    config["vision_config"] = config["audio_config"] = None
    check_token_ids(config, tokenizer)


def test_token_without_an_embedding_row_is_refused() -> None:
    config = _read("config/E2B-published")
    config["text_config"]["vocab_size"] = 258_884

    with pytest.raises(
        ConfigError, match=r"vocab_size is 258884, and tokenizer\.json has '<\|video\|>' with the id 258884"
    ):
        check_token_ids(config, _tokenizer())


def test_unigram_vocabulary_is_read_by_position() -> None:
    config = {"model_type": "gemma4_text", "vocab_size": 4, "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 1}
    pieces = [["<pad>", 0.0], ["<eos>", 0.0], ["<bos>", 0.0], ["a", -1.0]]
    tokenizer = {"model": {"vocab": pieces}, "added_tokens": [{"id": 1, "content": "<eos>"}]}

    check_token_ids(config, tokenizer)
    with pytest.raises(ConfigError, match=r"\$\.bos_token_id: found 3, allowed is 2, the id of <bos>"):
        check_token_ids(config | {"bos_token_id": 3}, tokenizer)


@pytest.mark.parametrize(
    "tokenizer",
    [
        *(None, [], {}, {"model": None}, {"model": {}}, {"model": {"vocab": None}}, {"model": {"vocab": {}}}),
        *({"model": {"vocab": {"a": "0"}}}, {"model": {"vocab": [1]}}, {"model": {"vocab": [[]]}}),
        *(_tokenizer(added_tokens=[{}]), _tokenizer(added_tokens=[1]), _tokenizer(added_tokens=7)),
        _tokenizer(added_tokens=[{"id": None, "content": "x"}]),
    ],
    ids=repr,
)
def test_damaged_tokenizer_is_named(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"^tokenizer\.json: "):
        check_token_ids(_read("config/E2B-published"), tokenizer)


PROCESSORS = [
    ("E2B-published", "published"),
    ("E2B-published", "short"),
    ("E4B-published", "published"),
    ("26B-A4B-published", "published"),
    ("31B-published", "published"),
    ("12B-published", "unified-published"),
    ("12B-saved", "unified-published"),
]


@pytest.mark.parametrize(("config", "processor"), PROCESSORS)
def test_published_processor_passes(config: str, processor: str) -> None:
    check_processor(ModelConfig.from_dict(_read(f"config/{config}")), _read(f"processor_config/{processor}"))


@pytest.mark.parametrize(
    ("config", "processor", "path", "value", "allowed"),
    [
        ("E2B-published", "published", "processor_class", "Gemma4UnifiedProcessor", "Gemma4Processor"),
        ("12B-published", "unified-published", "processor_class", "Gemma4Processor", "Gemma4UnifiedProcessor"),
        ("E2B-published", "published", "image_processor.patch_size", 14, "16, the vision_config.patch_size"),
        ("E2B-published", "published", "video_processor.patch_size", 14, "16, the vision_config.patch_size"),
        ("E2B-published", "published", "image_processor.pooling_kernel_size", 2, "3, the vision_config.pooling"),
        (
            "12B-published",
            "unified-published",
            "video_processor.pooling_kernel_size",
            2,
            "3, the vision_config.pooling",
        ),
        ("E2B-published", "published", "feature_extractor.feature_size", 80, "128, the first of audio_config"),
        ("E2B-published", "short", "feature_extractor.num_mel_filters", 80, "128, the first of audio_config"),
        ("12B-published", "unified-published", "feature_extractor.feature_size", 320, "640, the audio_config.audio_em"),
        ("12B-published", "unified-published", "feature_extractor.audio_samples_per_token", 320, "640, the audio_"),
    ],
)
def test_processor_of_another_model_is_refused(
    config: str, processor: str, path: str, value: Any, allowed: str
) -> None:
    document = copy.deepcopy(_read(f"processor_config/{processor}"))
    *parts, key = path.split(".")
    (document[parts[0]] if parts else document)[key] = value

    with pytest.raises(ConfigError) as caught:
        check_processor(ModelConfig.from_dict(_read(f"config/{config}")), document)
    assert str(caught.value).startswith(f"processor_config.json: $.{path}: found {value}, allowed is {allowed}")
    assert "config.json" in str(caught.value).removeprefix("processor_config.json")


@pytest.mark.parametrize("part", ["image_processor", "video_processor", "feature_extractor"])
def test_part_of_the_other_family_is_refused(part: str) -> None:
    document = _read("processor_config/published")
    document[part] = _read("processor_config/unified-published")[part]

    with pytest.raises(
        ConfigError, match=rf"\$\.{part}\.\w+_type: found Gemma4Unified\w+, allowed is Gemma4(?!Unified)"
    ):
        check_processor(ModelConfig.from_dict(_read("config/E2B-published")), document)


@pytest.mark.parametrize("gone", [None, ...])
@pytest.mark.parametrize(
    ("part", "section"), [("image_processor", "vision_config"), ("feature_extractor", "audio_config")]
)
def test_modality_without_its_part_is_refused(part: str, section: str, gone: Any) -> None:
    config, document = _read("config/E2B-published"), _read("processor_config/published")
    document[part] = None
    if gone is ...:
        del document[part]
    with pytest.raises(ConfigError, match=rf"found no key '{part}', .* config\.json has a {section}; take the file of"):
        check_processor(ModelConfig.from_dict(config), document)

    config[section] = None
    check_processor(ModelConfig.from_dict(config), document)
