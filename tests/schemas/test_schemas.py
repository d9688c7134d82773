"""The schemas themselves, and the documents that they must let pass."""

import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders.config import ModelConfig
from g4convert.schemas import _validator, load_schema, read_json, validate
from g4convert.schemas.errors import ConfigError
from jsonschema import Draft202012Validator

FILES = (Path(__file__).parents[2] / "schemas").glob("*.schema.json")
SCHEMAS = sorted(path.name.removesuffix(".schema.json") for path in FILES)
DOCUMENTS = Path(__file__).with_name("documents")
NAMES = sorted(str(path.relative_to(DOCUMENTS)) for path in DOCUMENTS.glob("*/*"))
CONFIGS = [name for name in NAMES if name.startswith("config/")]

Read = Callable[[str], Any]


def test_every_file_has_a_schema() -> None:
    files = ["config", "conversion", "generation_config", "messages", "processor_config", "quantization", "recipe"]

    assert ["chat_request", *files, "tokenizer", "tokenizer_config"] == SCHEMAS


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_legal_and_says_what_it_is(name: str) -> None:
    schema = load_schema(name)

    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["title"]
    assert schema["description"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_refers_to_itself_only(name: str) -> None:
    schema = load_schema(name)

    references = {value for key, value in _items(schema) if key == "$ref"}

    assert {f"#/$defs/{defined}" for defined in schema.get("$defs", {})} == references
    assert not [key for key, _ in _items(schema) if key in {"$id", "$anchor", "$dynamicRef"}]


def _items(schema: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        yield from schema.items()
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _items(inner)


# What comes with a checkpoint; the others are ours, or the user's own.
STRANGERS = sorted(set(SCHEMAS) - {"conversion", "messages", "recipe"})


@pytest.mark.parametrize("name", STRANGERS)
def test_lists_and_maps_of_strangers_are_bounded(name: str) -> None:
    for schema in _inner(load_schema(name)):
        assert "maxItems" in schema or "items" not in schema, schema
        assert "maxProperties" in schema or not any(isinstance(schema.get(key), dict) for key in MAPS), schema


MAPS = ("additionalProperties", "patternProperties")


def _inner(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _inner(inner)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("config", {"model_type": "gemma4", "architectures": [0] * 1000}),
        ("generation_config", {"suppress_tokens": [-1] * 100_000}),
        ("quantization", {"bits": 4, "group_size": 64, **{f"module {number}": 0 for number in range(20_000)}}),
    ],
)
def test_what_is_too_long_is_told_once(name: str, document: Any) -> None:
    told = [error for error in _validator(name).iter_errors(document) if error.validator.startswith(("max", "type"))]

    assert len(told) == 1


def test_what_is_nested_too_deep_is_an_error() -> None:
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(300):
        step = {"type": "Sequence", "normalizers": [step]}

    with pytest.raises(ConfigError, match=r"^tokenizer\.json: \$: it is nested too deep$"):
        validate({"model": {}, "normalizer": step}, "tokenizer", where="tokenizer.json")


@pytest.mark.parametrize("name", NAMES)
def test_real_document_passes(name: str, document: Read) -> None:
    validate(document(name), name.partition("/")[0], where=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_real_config_loads(name: str, document: Read) -> None:
    config = ModelConfig.from_dict(document(name))

    assert len(config.text.layers) == config.text.num_hidden_layers


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_block_inside_a_config_is_checked_with_its_own_path(key: str, document: Read) -> None:
    config = document("config/E2B-mlx-community.json")
    validate(config[key], "quantization", where="config.json", at=f"$.{key}")

    config[key]["bits"] = 7
    with pytest.raises(ConfigError, match=rf"^config\.json: \$\.{key}\.bits: found 7, allowed is 2, 3, 4, 5, 6 or 8"):
        validate(config[key], "quantization", where="config.json", at=f"$.{key}")


@pytest.mark.parametrize("extra", [{"my_key": 1}, {"unsloth_version": "2026.9"}, {"auto_map": {"a": "b"}}])
def test_unknown_keys_of_fine_tunes_pass(extra: dict[str, Any], document: Read) -> None:
    config = document("config/E2B-published.json")
    for section in (config, config["text_config"], config["vision_config"], config["audio_config"]):
        section.update(extra)

    validate(config, "config", where="config.json")


@pytest.mark.parametrize("section", ["vision_config", "audio_config"])
@pytest.mark.parametrize("name", ["config/E2B-published.json", "config/12B-published.json"])
def test_tower_may_be_null_or_absent(section: str, name: str, document: Read) -> None:
    config = document(name)
    config[section] = None
    validate(config, "config", where="config.json")

    del config[section]
    validate(config, "config", where="config.json")
    assert getattr(ModelConfig.from_dict(config), section.removesuffix("_config")) is None


@pytest.mark.parametrize("entry", [False, {"bits": 8, "group_size": 32, "mode": "mxfp8"}])
@pytest.mark.parametrize(
    ("mode", "bits", "group_size"),
    [("affine", bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]
    + [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)],
)
def test_what_mlx_can_pack_passes(mode: str, bits: int, group_size: int, entry: Any) -> None:
    block = {"mode": mode, "bits": bits, "group_size": group_size, "language_model.lm_head": entry}

    validate(block, "quantization", where="config.json")


def test_manifest_of_a_whole_model_is_checked_quickly(document: Read) -> None:
    manifest = document("conversion/example.json")
    (tensor, *_) = manifest["tensors"].values()
    manifest["tensors"] = {f"layers.{index}.weight": tensor for index in range(3000)}

    start = time.perf_counter()
    validate(manifest, "conversion", where="conversion.json")

    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b"{", "not valid JSON"),
        (b'"\xff"', "cannot be read"),
        (b"[" * 200_000, "cannot be read"),
        (b"1" * 5000, "not valid JSON"),
    ],
)
def test_unreadable_file_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=what) as caught:
        read_json(path)
    assert caught.value.where == "config.json"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^config\.json: the file is missing$"):
        read_json(tmp_path / "config.json")


def test_infinity_by_overflow_is_refused(tmp_path: Path, document: Read) -> None:
    config = document("config/E2B-published.json")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config).replace('"rope_theta": 100.0', '"rope_theta": 1e999'), encoding="utf-8")

    with pytest.raises(ConfigError, match="1e999 is too large a number"):
        validate(read_json(path), "config", where="config.json")


@pytest.mark.parity
@pytest.mark.parametrize("unified", [False, True])
def test_what_transformers_saves_passes(unified: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(DOCUMENTS.parents[1] / "checkpoints" / "scripts")
    importlib.import_module("torchvision_on_cpu")  # before transformers imports torchvision
    transformers = pytest.importorskip("transformers")
    kind = "Gemma4Unified" if unified else "Gemma4"
    sections = {
        f"{part.lower()}_config": getattr(transformers, f"{kind}{part}Config")() for part in ("Text", "Vision", "Audio")
    }
    saved = json.loads(getattr(transformers, f"{kind}Config")(**sections).to_json_string())

    for config in (saved, saved["text_config"]):
        validate(config, "config", where="config.json")
        ModelConfig.from_dict(config)
