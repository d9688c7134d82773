"""Every field of a config that anything reads, with everything that may stand there instead."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from g4convert.schemas import load_schema
from g4convert.tests.support import CHECKPOINTS, read_json

GONE = object()
WRONG: Mapping[str, Any] = {"missing": GONE, "null": None, "a word": "many", "minus one": -1, "10**18": 10**18}
MORE_WRONG: Mapping[str, Any] = {"a list": [1], "an object": {"a": 1}, "true": True, "a half": 0.5, "zero": 0}

# Sections by sample: the E2B has them all but the experts and the other family's.
ROPE = "text_config.rope_parameters"
SECTIONS = [
    ("e2b", ""), ("e2b", "text_config"), ("e2b", ROPE), ("e2b", f"{ROPE}.full_attention"),
    ("e2b", f"{ROPE}.sliding_attention"), ("e2b", "vision_config"), ("e2b", "vision_config.rope_parameters"),
    ("e2b", "audio_config"), ("26b-a4b", "text_config"), ("12b", "vision_config"), ("12b", "audio_config"),
    ("text", ""),
]  # fmt: skip
# Of samples that come later, what is theirs alone.
OWN = {
    "26b-a4b": {
        "enable_moe_block", "num_experts", "top_k_experts", "moe_intermediate_size", "num_global_key_value_heads",
    },
    "text": {"model_type", "per_layer_config", "hidden_size_per_layer_input"},
}  # fmt: skip

# What no tensor and no other file shows, or what may be left out: another value makes another model, not a wrong file.
FREE = {
    "attention_invalid_logits_value": {"minus one"}, "audio_config": {"missing", "null"},
    "audio_token_id": {"missing", "null"}, "boa_token_id": {"missing", "null"}, "boi_token_id": {"missing", "null"},
    "attention_logit_cap": {"a half"}, "eoi_token_id": {"missing", "null"},
    "eos_token_id": {"missing", "null", "a list", "zero"}, "final_logit_softcapping": {"null", "a half"},
    "gradient_clipping": {"a half", "10**18"}, "image_token_id": {"missing", "null"},
    "max_position_embeddings": {"missing", "null"},
    "partial_rotary_factor": {"missing", "a half"}, "residual_weight": {"a half"}, "rope_theta": {"a half"},
    "video_token_id": {"missing", "null"}, "vision_config": {"missing", "null"},
    "use_bidirectional_attention": {"null"},
}  # fmt: skip


def known_fields() -> set[str]:
    """The names of all properties of the config's schema."""
    return set(_properties(load_schema("config")))


def _properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        yield from schema.get("properties", {})
    inner = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, Sequence) else ()
    for one in () if isinstance(schema, str) else inner:
        yield from _properties(one)


def fields(kind: str, section: str) -> list[str]:
    """The fields of a section of a sample that its schema knows."""
    names = set(at(read_json(CHECKPOINTS / kind / "config.json"), section)) & known_fields()
    return sorted(names & OWN.get(kind, names))


def at(document: Any, section: str) -> Any:
    """A section of a config."""
    for key in section.split(".") if section else ():
        document = document[key]
    return document


def broken(document: Any, section: str, field: str, wrong: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Copies of a config in which one field is something else, with the name of what it is."""
    for name, value in wrong.items():
        changed = copy.deepcopy(document)
        place = at(changed, section)
        if value is GONE:
            del place[field]
        else:
            place[field] = value
        if changed != document:
            yield name, changed


# Parameters of a test: which fields of which section of which sample, and what stands there.
PLACES = [(kind, section, field) for kind, section in SECTIONS for field in fields(kind, section)]
AMOUNTS = [pytest.param(WRONG, id="some"), pytest.param(MORE_WRONG, id="more", marks=pytest.mark.slow)]
