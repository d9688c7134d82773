"""A message names the file, the JSON path, what was found and what is allowed, for every kind of violation."""

import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from g4convert.schemas import validate
from g4convert.schemas.errors import ConfigError

Read = Callable[[str], Any]

GONE = object()
E2B, MOE, UNIFIED, SAVED = (
    f"config/{name}.json" for name in ("E2B-published", "26B-A4B-published", "12B-published", "E2B-saved")
)
EQUAL_HEADS = "config/small-equal-heads-saved.json"
PROCESSOR, SHORT, WAVEFORM = (f"processor_config/{name}.json" for name in ("published", "short", "unified-published"))
GENERATION, TOKENIZER = "generation_config/published.json", "tokenizer_config/published.json"
TOKENIZER_FILE = "tokenizer/small.json"
BLOCK, RECIPE, MANIFEST = "quantization/26B-A4B-mlx-community.json", "recipe/example.toml", "conversion/example.json"
ROUTER = "language_model.model.layers.0.router.proj"
ROUTER_PATH = f'$["{ROUTER}"]'
WEIGHT = "language_model.model.layers.0.mlp.up_proj.weight"
WEIGHT_PATH = f'$.tensors["{WEIGHT}"]'
FULL, SLIDING = (["text_config", "rope_parameters", f"{kind}_attention"] for kind in ("full", "sliding"))
FULL_PATH, SLIDING_PATH = (".".join(["$", *steps]) for steps in (FULL, SLIDING))
SIZE = "an integer from 1 to 131072"
ID = "an integer from 0 to 9999999"

# Document, path to change, new value; then the path, what was found, and what is allowed, as the message has them.
Mutation = tuple[str, list[str | int], Any, str, str, str]
MUTATIONS: list[Mutation] = [
    # A key that is missing
    (E2B, ["model_type"], GONE, "$", "no key 'model_type'", '"gemma4", "gemma4_unified", "gemma4_text"'),
    (E2B, ["text_config"], GONE, "$", "no key 'text_config'", "an object"),
    (E2B, ["text_config", "head_dim"], GONE, "$.text_config", "no key 'head_dim'", "an integer from 2 to 8192"),
    (
        E2B,
        ["text_config", "num_kv_shared_layers"],
        GONE,
        "$.text_config",
        "no key 'num_kv",
        "an integer from 0 to 256",
    ),
    (E2B, ["text_config", "use_double_wide_mlp"], GONE, "$.text_config", "no key 'use_double", "true or false"),
    (E2B, ["text_config", "final_logit_softcapping"], GONE, "$.text_config", "no key 'final_logit", "or null"),
    (
        E2B,
        ["text_config", "vocab_size_per_layer_input"],
        GONE,
        "$.text_config",
        "no key 'vocab_size_per",
        "with hidden_",
    ),
    (E2B, ["vision_config", "standardize"], GONE, "$.vision_config", "no key 'standardize'", "true or false"),
    (UNIFIED, ["audio_config", "audio_embed_dim"], GONE, "$.audio_config", "no key 'audio_embed_dim'", SIZE),
    (EQUAL_HEADS, ["hidden_size_per_layer_input"], GONE, "$", "no key 'hidden_size_per", "an integer from 0 to 65536"),
    # A tokenizer of another kind
    (TOKENIZER_FILE, ["model", "type"], "Unigram", "$.model.type", '"Unigram"', '"BPE"'),
    (TOKENIZER_FILE, ["model", "vocab"], {}, "$.model.vocab", "{}", "an object with at least 1 key of at most 524288"),
    (
        TOKENIZER_FILE,
        ["normalizer", "type"],
        "Precompiled",
        "$.normalizer.type",
        '"Precompiled"',
        '"Replace", "Prepend"',
    ),
    (
        TOKENIZER_FILE,
        ["pre_tokenizer", "pattern"],
        {"Regex": "a+"},
        "$.pre_tokenizer.pattern",
        "no key 'String'",
        "a string of at least 1",
    ),
    # One of two keys
    (
        E2B,
        ["text_config", "global_head_dim"],
        GONE,
        "$.text_config",
        "no key global_head_dim or per_layer",
        "one or more",
    ),
    # The wrong type
    (E2B, ["text_config"], None, "$.text_config", "null", "an object"),
    (E2B, ["vision_config"], [], "$.vision_config", "[]", "an object or null"),
    (E2B, ["text_config", "hidden_size"], 1536.0, "$.text_config.hidden_size", "1536.0", SIZE),
    (E2B, ["text_config", "hidden_size"], "1536", "$.text_config.hidden_size", '"1536"', SIZE),
    (E2B, ["text_config", "num_hidden_layers"], True, "$.text_config.num_hidden_layers", "true", "an integer"),
    (E2B, ["text_config", "attention_k_eq_v"], 1, "$.text_config.attention_k_eq_v", "1", "true or false"),
    (
        E2B,
        ["eos_token_id"],
        {"a": 1},
        "$.eos_token_id",
        "an object of 1 key",
        f"{ID}, a list of 0 to 100, each {ID} or",
    ),
    (E2B, ["eos_token_id", 1], "106", "$.eos_token_id[1]", '"106"', ID),
    # Out of bounds
    (E2B, ["text_config", "num_key_value_heads"], 0, "$.text_config.num_key_value_heads", "0", "from 1 to 1024"),
    (E2B, ["text_config", "vocab_size"], 10**12, "$.text_config.vocab_size", str(10**12), "from 1 to 10000000"),
    (E2B, ["text_config", "num_hidden_layers"], 257, "$.text_config.num_hidden_layers", "257", "from 1 to 256"),
    (E2B, ["text_config", "rms_norm_eps"], 0, "$.text_config.rms_norm_eps", "0", "a number above 0 and up to 0.1"),
    (E2B, ["text_config", "head_dim"], 255, "$.text_config.head_dim", "255", "in steps of 2"),
    (E2B, ["vision_config", "head_dim"], 66, "$.vision_config.head_dim", "66", "in steps of 4"),
    (E2B, ["image_token_id"], -1, "$.image_token_id", "-1", f"{ID} or null"),
    # What the loader does not do
    (E2B, ["model_type"], "gemma3", "$.model_type", '"gemma3"', '"gemma4"'),
    (E2B, ["text_config", "model_type"], "gemma4", "$.text_config.model_type", '"gemma4"', '"gemma4_text"'),
    (E2B, ["text_config", "attention_bias"], True, "$.text_config.attention_bias", "true", "false"),
    (E2B, ["text_config", "hidden_activation"], "silu", "$.text_config.hidden_activation", '"silu"', '"gelu_pytorch_t'),
    (E2B, ["audio_config", "hidden_act"], "gelu", "$.audio_config.hidden_act", '"gelu"', '"silu"'),
    (MOE, ["text_config", "use_bidirectional_attention"], "all", "$.text_config.use_bid", '"all"', '"vision" or null'),
    (
        E2B,
        ["text_config", "layer_types", 3],
        "linear",
        "$.text_config.layer_types[3]",
        '"linear"',
        '"sliding_attention"',
    ),
    (UNIFIED, ["text_config", "enable_moe_block"], True, "$.text_config.enable_moe_block", "true", "false"),
    (E2B, ["dtype"], "float8_e4m3fn", "$.dtype", '"float8_e4m3fn"', '"bfloat16", "float16", "float32" or null'),
    # Under a condition
    (
        E2B,
        ["text_config", "enable_moe_block"],
        True,
        "$.text_config",
        "no key 'moe_intermediate",
        "with enable_moe_block",
    ),
    (MOE, ["text_config", "num_experts"], None, "$.text_config.num_experts", "null", "65536 with enable_moe_block"),
    (MOE, ["text_config", "top_k_experts"], 0, "$.text_config.top_k_experts", "0", "from 1 to 65536 with enable_moe"),
    # Lists
    (E2B, ["text_config", "layer_types"], [], "$.text_config.layer_types", "[]", "a list of 1 to 256"),
    (
        E2B,
        ["audio_config", "subsampling_conv_channels"],
        [1],
        "$.audio_config.subs",
        "[1]",
        "a list of 2, each an integer",
    ),
    (
        PROCESSOR,
        ["image_processor", "image_mean"],
        [0, 0],
        "$.image_processor.image_mean",
        "[0, 0]",
        "a list of 3, each",
    ),
    (PROCESSOR, ["video_processor", "image_std", 2], 0, "$.video_processor.image_std[2]", "0", "a number above 0"),
    (MANIFEST, ["options", "modalities"], ["text"] * 2, "$.options.modalities", '["text", "text"]', "without repeats"),
    (MANIFEST, ["tensors", WEIGHT, "sources"], [], f"{WEIGHT_PATH}.sources", "[]", "a list of at least 1"),
    # Keys that may not be there
    (
        SAVED,
        ["text_config", "per_layer_config", "x"],
        {},
        "$.text_config.per_layer_config",
        'the key "x"',
        "a key like",
    ),
    (
        SAVED,
        ["text_config", "per_layer_config", "04", "a"],
        1,
        '$.text_config.per_layer_config["04"]',
        'the key "a"',
        "head_dim",
    ),
    (
        E2B,
        ["text_config", "rope_parameters", "x"],
        {},
        "$.text_config.rope_parameters",
        'the key "x"',
        "full_attention",
    ),
    (RECIPE, ["rule", 0, "bit"], 8, "$.rule[0]", 'the key "bit"', "pattern, quantize, bits, group_size or mode"),
    (MANIFEST, ["time"], "now", "$", 'the key "time"', "format, generator, source"),
    (MANIFEST, ["shards", "../a.safetensors"], {"bytes": 9}, "$.shards", 'the key "../a.safetensors"', "a key like"),
    # Rotary embeddings
    (
        E2B,
        ["vision_config", "rope_parameters", "rope_type"],
        "2d",
        "$.vision_config.rope",
        '"2d"',
        '"default" or "axial"',
    ),
    (E2B, [*FULL, "rope_type"], "yarn", f"{FULL_PATH}.rope_type", '"yarn"', '"default" or "proportional"'),
    (E2B, [*SLIDING, "partial_rotary_factor"], 0.5, f"{SLIDING_PATH}.partial", "0.5", "1 with rope_type default"),
    (E2B, [*FULL, "partial_rotary_factor"], 1.5, f"{FULL_PATH}.partial", "1.5", "a number above 0 and up to 1"),
    (E2B, [*FULL, "factor"], 2, f"{FULL_PATH}.factor", "2", "1"),
    (E2B, [*FULL, "rope_theta"], GONE, FULL_PATH, "no key 'rope_theta'", "a number above 0"),
    # Processors
    (
        PROCESSOR,
        ["processor_class"],
        "Gemma3Processor",
        "$.processor_class",
        '"Gemma3',
        '"Gemma4Processor" or "Gemma4U',
    ),
    (
        PROCESSOR,
        ["image_processor", "max_soft_tokens"],
        100,
        "$.image_processor.max_soft",
        "100",
        "70, 140, 280, 560 or",
    ),
    (PROCESSOR, ["image_processor", "image_processor_type"], "X", "$.image_processor.image_p", '"X"', '"Gemma4ImageP'),
    (PROCESSOR, ["feature_extractor", "fft_length"], GONE, "$.feature_extractor", "no key 'fft_length'", "an integer"),
    (PROCESSOR, ["feature_extractor", "sampling_rate"], 0, "$.feature_extractor.sampling_rate", "0", "1000 to 192000"),
    (PROCESSOR, ["video_processor", "num_frames"], "32", "$.video_processor.num_frames", '"32"', "an integer from 1"),
    (SHORT, ["feature_extractor", "num_mel_filters"], -128, "$.feature_extractor.num_mel", "-128", "from 1 to 4096"),
    (
        SHORT,
        ["feature_extractor", "hop_length"],
        GONE,
        "$.feature_extractor",
        "no key 'hop_length'",
        "an integer from 1",
    ),
    (WAVEFORM, ["feature_extractor", "audio_samples_per_token"], GONE, "$.feature_ex", "no key 'audio_samples", SIZE),
    # Generation and tokenizer
    (GENERATION, ["temperature"], -1, "$.temperature", "-1", "a number from 0 to 100 or null"),
    (GENERATION, ["top_p"], 1.5, "$.top_p", "1.5", "a number from 0 to 1 or null"),
    (GENERATION, ["eos_token_id", 2], None, "$.eos_token_id[2]", "null", ID),
    (GENERATION, ["do_sample"], "yes", "$.do_sample", '"yes"', "true or false or null"),
    (TOKENIZER, ["bos_token"], {"lstrip": False}, "$.bos_token", "no key 'content'", "a string"),
    (TOKENIZER, ["eos_token"], 1, "$.eos_token", "1", "a string of at least 1 character, an object with"),
    (TOKENIZER, ["chat_template"], [{"name": "default"}], "$.chat_template[0]", "no key 'template'", "a string"),
    # Quantization
    (BLOCK, ["bits"], 7, "$.bits", "7", "2, 3, 4, 5, 6 or 8 with mode affine"),
    (BLOCK, ["group_size"], 16, "$.group_size", "16", "32, 64 or 128 with mode affine"),
    (BLOCK, ["mode"], "mxfp4", "$.group_size", "64", "32 with mode mxfp4"),
    (BLOCK, ["mode"], "int4", "$.mode", '"int4"', '"affine", "mxfp4", "mxfp8" or "nvfp4"'),
    (BLOCK, [ROUTER], True, ROUTER_PATH, "true", "false or an object with bits and group_size"),
    (BLOCK, [ROUTER, "bits"], 1, f"{ROUTER_PATH}.bits", "1", "2, 3, 4, 5, 6 or 8 with mode affine"),
    (BLOCK, [ROUTER, "mode"], "mxfp8", f"{ROUTER_PATH}.group_size", "64", "32 with mode mxfp8"),
    (BLOCK, [ROUTER, "bits"], GONE, ROUTER_PATH, "no key 'bits'", "2, 3, 4, 5, 6 or 8"),
    # Recipes
    (RECIPE, ["name"], "a b", "$.name", '"a b"', "letters, digits, dots, dashes and underscores"),
    (RECIPE, ["default", "bits"], 9, "$.default.bits", "9", "2, 3, 4, 5, 6 or 8"),
    (RECIPE, ["default", "mode"], "nvfp4", "$.default.group_size", "64", "16 with mode nvfp4"),
    (RECIPE, ["rule", 0, "bits"], GONE, "$.rule[0]", "no key 'bits'", "2, 3, 4, 5, 6 or 8"),
    (RECIPE, ["rule", 0, "pattern"], "a b", "$.rule[0].pattern", '"a b"', "a glob over module paths"),
    (RECIPE, ["rule", 1, "quantize"], True, "$.rule[1].quantize", "true", "false"),
    (RECIPE, ["rule", 1, "bits"], 4, "$.rule[1].bits", "4", "nothing beside quantize = false"),
    (RECIPE, ["rule"], {}, "$.rule", "{}", "a list"),
    # The manifest
    (MANIFEST, ["format"], 2, "$.format", "2", "1"),
    (MANIFEST, ["source", "commit"], "main", "$.source.commit", '"main"', "a commit in lower-case hex, or null"),
    (
        MANIFEST,
        ["tensors", WEIGHT, "sha256"],
        "A" * 64,
        f"{WEIGHT_PATH}.sha256",
        '"AAAA',
        "a SHA-256 in lower-case hex",
    ),
    (
        MANIFEST,
        ["tensors", WEIGHT, "dtype"],
        "I8",
        f"{WEIGHT_PATH}.dtype",
        '"I8"',
        '"BF16", "F16", "F32", "U32" or "U8"',
    ),
    (MANIFEST, ["tensors", WEIGHT, "quantization", "mode"], "mxfp4", f"{WEIGHT_PATH}.quan", "64", "32 with mode mxfp4"),
    (MANIFEST, ["dropped", "a"], "", "$.dropped.a", '""', "a string of at least 1 character"),
    (MANIFEST, ["shards", "model-00001-of-00001.safetensors", "bytes"], 7, "$.shards", "7", "an integer from 8"),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation[0]}:{'.'.join(map(str, mutation[1]))}")
def test_message(mutation: Mutation, document: Read) -> None:
    name, steps, value, path, found, allowed = mutation
    schema, _, file = name.partition("/")
    changed = _change(document(name), steps, value)

    with pytest.raises(ConfigError) as caught:
        validate(changed, schema, where=file)

    message = str(caught.value)
    place, _, what = message.removeprefix(f"{file}: ").partition(": found ")
    assert message.startswith(f"{file}: {path}")
    assert place.startswith(path)
    assert what.startswith(found)
    assert allowed in what.partition(", allowed is ")[2]
    assert "\n" not in message
    assert len(message) < 400


def _change(document: Any, steps: list[str | int], value: Any) -> Any:
    inner = document
    for step in steps[:-1]:
        inner = inner[step]
    if value is GONE:
        del inner[steps[-1]]
    else:
        inner[steps[-1]] = value
    return document


def test_the_outermost_violation_comes_first(document: Read) -> None:
    config = document(E2B)
    config["text_config"]["hidden_size"] = config["audio_token_id"] = config["text_config"]["head_dim"] = "x"

    with pytest.raises(ConfigError, match=r"^config\.json: \$\.audio_token_id: "):
        validate(config, "config", where="config.json")


@pytest.mark.parametrize("value", ["x" * 10_000, list(range(10_000)), dict.fromkeys("abcdefgh", [1] * 9999)])
def test_long_values_are_cut(value: Any, document: Read) -> None:
    config = document(E2B) | {"image_token_id": value}

    with pytest.raises(ConfigError) as caught:
        validate(config, "config", where="config.json")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["\ud800", "a\nb", "\x1b[31m"])
def test_a_message_can_be_printed_on_one_line(value: str, document: Read) -> None:
    config = document(E2B) | {"image_token_id": value}

    with pytest.raises(ConfigError) as caught:
        validate(config, "config", where="config.json")
    assert str(caught.value).encode().isascii()
    assert str(caught.value).isprintable()


def test_long_keys_are_cut(document: Read) -> None:
    block = document(BLOCK) | {"k" * 10_000: True, "k " * 10_000: True}

    with pytest.raises(ConfigError) as caught:
        validate(block, "quantization", where="config.json")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("line", "found"),
    [("name = 2026-01-01", '"2026-01-01"'), ("name = inf", "Infinity"), ("name = 07:32:00", '"07:32:00"')],
)
def test_what_only_toml_has_can_be_told(line: str, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"^recipe\.toml: \$\.name: found {found}, allowed is letters"):
        validate(tomllib.loads(line), "recipe", where="recipe.toml")
