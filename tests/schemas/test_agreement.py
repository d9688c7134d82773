"""The schema of config.json and the loader's dataclasses agree on what may be left out and what may be said."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from g4convert.loaders.config import ModelConfig
from g4convert.schemas import validate
from g4convert.schemas.errors import ConfigError, UnsupportedModelError
from hypothesis import example, given, settings
from hypothesis import strategies as st

DOCUMENTS = Path(__file__).with_name("documents") / "config"
# One of each family and spelling; the others differ in numbers only.
ORIGINALS = {
    name: json.loads((DOCUMENTS / f"{name}.json").read_text(encoding="utf-8"))
    for name in (
        "E2B-published",
        "12B-published",
        "26B-A4B-published",
        "small-ple-saved",
        "small-moe-saved",
        "small-unified-saved",
        "small-unified-text-saved",
        "small-equal-heads-saved",
    )
}

Path_ = tuple[str | int, ...]


def _paths(value: Any, at: Path_ = ()) -> list[Path_]:
    """Every key and list entry of a document, inner ones included."""
    match value:
        case dict():
            steps: Any = value.items()
        case list():
            steps = enumerate(value[:7])
        case _:
            return []
    return [path for step, inner in steps for path in [(*at, step), *_paths(inner, (*at, step))]]


PLACES = [(name, path) for name, document in ORIGINALS.items() for path in _paths(document)]

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-3, max_value=40),
    st.sampled_from([10**6, 10**7 + 1, 2**31, 2**63, 10**30, -(10**9)]),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from(["full_attention", "sliding_attention", "default", "proportional", "vision", "all"]),
    st.lists(st.one_of(st.integers(), st.sampled_from(["full_attention", "sliding_attention"])), max_size=7),
    st.dictionaries(
        st.sampled_from(["0", "5", "05", "head_dim", "num_key_value_heads"]), st.integers(-1, 64), max_size=2
    ),
)


class Gone:
    """A key that is left out."""

    def __repr__(self) -> str:
        return "gone"


GONE = Gone()


def _changed(document: Any, path: Path_, value: Any) -> Any:
    document = copy.deepcopy(document)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return document


def _read(document: Any) -> ModelConfig | ConfigError | UnsupportedModelError:
    """What the loader makes of a document; any other exception is a defect, and so is a config that cannot be used."""
    try:
        validate(document, "config", where="config.json")
        config = ModelConfig.from_dict(document)
    except (ConfigError, UnsupportedModelError) as error:
        return error
    for layer in config.text.layers:
        assert layer.q_size > 0
        assert layer.kv_size > 0
        assert layer.kv_source <= layer.index
        assert not layer.has_experts or 0 < config.text.top_k_experts <= layer.num_experts
    assert config.text.ple_size >= 0
    for tower in (config.vision, config.audio):
        assert tower is None or tower.output_size > 0
    return config


@pytest.mark.parametrize("value", [GONE, None, "x", -1, 10**30, [], {}, True, 2.5], ids=repr)
@pytest.mark.parametrize("name", ORIGINALS)
def test_one_change_gives_a_config_or_a_named_error(name: str, value: Any) -> None:
    for path in _paths(ORIGINALS[name]):
        _read(_changed(ORIGINALS[name], path, value))


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
@example([(("E2B-published", ("text_config", "num_kv_shared_layers")), 34)])
@example([(("E2B-published", ("text_config", "num_kv_shared_layers")), 35)])
@example([(("small-moe-saved", ("text_config", "per_layer_config")), {"05": 1})])
def test_any_change_gives_a_config_or_a_named_error(changes: list[tuple[tuple[str, Path_], Any]]) -> None:
    name = changes[0][0][0]
    document = ORIGINALS[name]
    for (_, path), value in changes:
        try:
            document = _changed(document, path, value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away, or another document has it
    _read(document)


def _keys(*at: str) -> Callable[[str], set[Path_]]:
    return lambda names: {(*at, name) for name in names.split()}


def _text(*at: str) -> set[Path_]:
    rope = (*at, "rope_parameters")
    return (
        _keys(*at)(
            "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim "
            "num_key_value_heads layer_types sliding_window rms_norm_eps rope_parameters final_logit_softcapping "
            "use_bidirectional_attention attention_k_eq_v num_kv_shared_layers use_double_wide_mlp"
        )
        | _keys(*rope)("sliding_attention full_attention")
        | _keys(*rope, "sliding_attention")("rope_type rope_theta")
        | _keys(*rope, "full_attention")("rope_type rope_theta")
    )


TOP = _keys()("model_type text_config")
TEXT = _keys("text_config")
PLE = TEXT("hidden_size_per_layer_input vocab_size_per_layer_input")
EXPERTS = TEXT("num_experts top_k_experts moe_intermediate_size")
VISION = _keys("vision_config")(
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim patch_size "
    "pooling_kernel_size position_embedding_size use_clipped_linears standardize"
) | _keys("vision_config", "rope_parameters")("rope_type rope_theta")
AUDIO = _keys("audio_config")(
    "hidden_size num_hidden_layers num_attention_heads subsampling_conv_channels conv_kernel_size output_proj_dims "
    "attention_chunk_size attention_context_left attention_context_right use_clipped_linears"
)
EMBEDDERS = _keys("vision_config")(
    "patch_size pooling_kernel_size mm_embed_dim mm_posemb_size output_proj_dims"
) | _keys("audio_config")("audio_embed_dim")

REQUIRED: dict[str, set[Path_]] = {
    "E2B-published": TOP | _text("text_config") | PLE | TEXT("global_head_dim") | VISION | AUDIO,
    "small-ple-saved": TOP | _text("text_config") | PLE | TEXT("per_layer_config") | VISION | AUDIO,
    "26B-A4B-published": TOP
    | _text("text_config")
    | EXPERTS
    | TEXT("hidden_size_per_layer_input global_head_dim")
    | VISION,
    "12B-published": TOP | _text("text_config") | TEXT("global_head_dim") | EMBEDDERS,
    "small-unified-saved": TOP | _text("text_config") | TEXT("per_layer_config") | EMBEDDERS,
    "small-unified-text-saved": _text() | _keys()("per_layer_config"),
    "small-equal-heads-saved": _text() | _keys()("per_layer_config hidden_size_per_layer_input"),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_exactly_these_keys_are_required_and_named_when_missing(name: str) -> None:
    keys = [
        path for path in _paths(ORIGINALS[name]) if isinstance(path[-1], str) and "per_layer_config" not in path[:-1]
    ]
    results = {path: _read(_changed(ORIGINALS[name], path, GONE)) for path in keys}

    refused = {path: str(result) for path, result in results.items() if not isinstance(result, ModelConfig)}

    assert REQUIRED[name] == set(refused)
    assert not [path for path, message in refused.items() if str(path[-1]) not in message]


def test_both_spellings_give_the_same_layers(document: Callable[[str], Any]) -> None:
    for published, saved in [("E2B-published", "E2B-saved"), ("26B-A4B-published", "26B-A4B-saved")]:
        pair = [ModelConfig.from_dict(document(f"config/{name}.json")) for name in (published, saved)]

        assert pair[0].text.layers == pair[1].text.layers
