"""What the README says the published models take."""

from __future__ import annotations

import pytest
from g4convert.convert.inspection.parts import EMBEDDING, EXPERTS, PER_LAYER, active_parameters, planned_parts
from g4convert.loaders.footprint import kv_cache_bytes
from g4convert.tests.convert.inspection.published import planned, table
from g4convert.tests.support import TESTS, config_of


def test_the_table_of_the_published_models() -> None:
    assert "\n".join(table()) in (TESTS.parent / "README.md").read_text()


def test_the_parts_of_a_model_with_per_layer_embeddings() -> None:
    parts = {part.name: part for part in planned_parts(planned("E2B"))}

    assert parts[EMBEDDING].parameters == 262_144 * 1536
    assert parts[PER_LAYER].parameters == 262_144 * 35 * 256
    assert dict(parts[PER_LAYER].formats) == {"4-bit g64": parts[PER_LAYER].parameters}
    assert sum(part.nbytes for part in parts.values()) == planned("E2B").payload


def test_a_token_meets_eight_of_128_experts() -> None:
    parts, text = planned_parts(planned("26B-A4B")), config_of("26B-A4B-published").text
    experts = next(part.parameters for part in parts if part.name == EXPERTS)
    together = sum(part.parameters for part in parts if part.name in ("embedding", "decoder", "experts"))

    assert (text.top_k_experts, text.num_experts) == (8, 128)
    assert active_parameters(text, parts) == together - experts + experts // 16


@pytest.mark.parametrize("model", ["E2B", "E4B", "31B"])
def test_shared_layers_and_windows_are_not_counted(model: str) -> None:
    text = config_of(f"{model}-published").text
    grown = kv_cache_bytes(text, 65_536) - kv_cache_bytes(text, 32_768)
    full = [layer for layer in text.layers if not layer.is_sliding and layer.index < text.first_shared_layer]

    assert grown == 32_768 * sum(4 * layer.kv_size for layer in full)
