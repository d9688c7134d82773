"""`config.json`: every key that differs, and whether the model is another one for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ...loaders.checkpoint import CONFIG_FILE
from ...loaders.config import ModelConfig
from ...schemas.explain import json_path
from ..document import runtime_keys
from ..verification.listing import GONE, Path, differences
from ..verification.origin import meaning
from .documents import document_differences, is_there, refusal
from .meanings import SPELLED
from .outcome import Difference, Severity
from .side import Side

Json = Mapping[str, Any]

TEXT = "text_config"
BLOCKS: tuple[Path, ...] = (("quantization",), ("quantization_config",), (TEXT, "quantization_config"))
PACKED_ALIKE = "how weights are packed; of every weight that both hold it says the same"
STOPS = "eos_token_id"
IMPLIED = "follows from other keys; some MLX runtimes look for it here and nowhere else"
SAME_STOPS = "where answers stop; config.json and generation_config.json together name the same tokens"

# Keys that are read into a field of another name.
FIELDS: Mapping[Path, Path] = {
    (TEXT, "per_layer_config"): (TEXT, "overrides"),
    (TEXT, "global_head_dim"): (TEXT, "overrides"),
    (TEXT, "num_global_key_value_heads"): (TEXT, "overrides"),
    ("vision_config", "rope_parameters"): ("vision_config", "rope_theta"),
    ("eoa_token_index",): ("eoa_token_id",),
    ("tie_word_embeddings",): (TEXT, "tie_word_embeddings"),
}
# What stands at the top of a config whose language model has no section of its own.
TOP = frozenset({"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"})


def config_differences(a: Side, b: Side) -> Iterator[Difference]:
    """What the configs say otherwise; how weights are packed is left to `block_differences`."""
    yield from refusal(CONFIG_FILE, a.fault, b.fault)
    sides = Meanings(a, b)
    for difference in document_differences(CONFIG_FILE, *sides.documents, sides.harmless):
        yield replace(difference, where=sides.shown(difference.where))


def block_differences(a: Side, b: Side) -> Iterator[Difference]:
    """Quantization blocks that differ, where all weights are packed alike."""
    for path in BLOCKS:
        one, other = (_found(side.document, path) for side in (a, b))
        if any(differences(one, other)):
            yield Difference(CONFIG_FILE, json_path(path), one, other, PACKED_ALIKE, Severity.FORM)


def same_stops(a: Side, b: Side) -> bool:
    """Whether answers stop at the same tokens, wherever that is said."""
    return a.stop_ids is not None and a.stop_ids == b.stop_ids


def is_stop(path: Path) -> bool:
    """Whether a path leads to where answers stop."""
    return STOPS in path


@dataclass(frozen=True)
class Meanings:
    """Two configs, as they are spelled and as they are read."""

    a: Side
    b: Side

    @cached_property
    def documents(self) -> tuple[Json, Json]:
        """Both without quantization blocks; the language model has a section in both or, if in neither, in both."""
        one, other = (_wrapped(_without_blocks(side.document), side.config) for side in (self.a, self.b))
        return one, other

    def shown(self, where: str) -> str:
        """A path as the files have it."""
        both = self.a.config.text_only and self.b.config.text_only
        return where.replace(f"$.{TEXT}", "$", 1) if both else where

    def harmless(self, path: Path) -> str | None:
        """Why the model is the same."""
        if is_stop(path):
            return SAME_STOPS if same_stops(self.a, self.b) else None
        if self.a.fault is not None or self.b.fault is not None:
            return None
        one, other = self._implied
        if path in one and path in other and one[path] == other[path]:
            return IMPLIED
        return SPELLED if self._is_read_alike(path) else None

    @cached_property
    def _implied(self) -> tuple[dict[Path, Any], dict[Path, Any]]:
        """Keys that a conversion adds, as each config says them or as they follow from the rest."""
        one, other = (_with_runtime_keys(*pair) for pair in zip(self.documents, self._configs, strict=True))
        return one, other

    @property
    def _configs(self) -> tuple[ModelConfig, ModelConfig]:
        return self.a.config, self.b.config

    def _is_read_alike(self, path: Path) -> bool:
        field = FIELDS.get(path[:2]) or FIELDS.get(path[:1]) or path[:2]
        one, other = map(_fields, self._configs)
        return field in one and field in other and not any(differences(one[field], other[field]))


def _fields(config: ModelConfig) -> dict[Path, Any]:
    """What a config says by the name of the field, a missing section as one field."""
    found: dict[Path, Any] = {}
    for key, value in meaning(config).items():
        fields = value.items() if isinstance(value, Mapping) else ()
        found |= {(key,): value} if not fields else {(key, name): field for name, field in fields}
    return found


def _with_runtime_keys(document: Json, config: ModelConfig) -> dict[Path, Any]:
    root: Path = (TEXT,) if config.text_only else ()
    keys = {(*root, key) if section is None else (section, key): value for section, key, value in runtime_keys(config)}
    said = {path: _found(document, path) for path in keys}
    return {path: said[path] if is_there(said[path]) else value for path, value in keys.items()}


def _wrapped(document: Json, config: ModelConfig) -> Json:
    if not config.text_only:
        return document
    text = {key: value for key, value in document.items() if key not in TOP}
    return {**{key: document[key] for key in sorted(TOP & document.keys())}, TEXT: text}


def _without_blocks(document: Json) -> Json:
    kept = {key: value for key, value in document.items() if (key,) not in BLOCKS}
    text = kept.get(TEXT)
    if isinstance(text, Mapping):
        kept[TEXT] = {key: value for key, value in text.items() if (TEXT, key) not in BLOCKS}
    return kept


def _found(document: Any, path: Path) -> Any:
    for step in path:
        document = document.get(step, GONE) if isinstance(document, Mapping) else GONE
    return document
