"""Loading is strict: whatever a checkpoint has too much, too little or in another form is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import loading
from g4convert.loaders.checkpoint import Checkpoint
from g4convert.loaders.loading import load
from g4convert.loaders.tables import PLE_TABLE
from g4convert.schemas.errors import (
    ConfigError,
    G4ConvertError,
    MissingTensorError,
    ShardError,
    SourceNotFoundError,
    TensorShapeError,
    UnknownTensorError,
    UnsupportedModelError,
    UsageError,
)
from g4convert.tests.loaders.samples import (
    VISION,
    Weights,
    moe_block,
    multimodal,
    random_network,
    rewrite,
    rewrite_config,
    text_block,
    text_only,
    write_checkpoint,
)
from g4convert.tests.support import CHECKPOINTS

TEXT = "language_model.model"
GATE = f"{TEXT}.layers.0.mlp.gate_proj"
MXFP4 = f"{TEXT}.layers.0.mlp.up_proj"
BOUND = "vision_tower.encoder.layers.0.mlp.gate_proj.input_min"
AFFINE = {"group_size": 32, "bits": 4, "mode": "affine"}
QUANTIZATION = {**AFFINE, GATE: AFFINE, MXFP4: {"group_size": 32, "bits": 4, "mode": "mxfp4"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A multimodal checkpoint with two packed modules."""
    return write_checkpoint(tmp_path / "model", multimodal(), quantization=QUANTIZATION)


def drop(name: str) -> Callable[[Weights], object]:
    return lambda weights: weights.pop(name)


def put(name: str, array: mx.array) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: array})


def recast(name: str, dtype: mx.Dtype) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: weights[name].astype(dtype)})


def flatten(name: str) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: weights[name].reshape(-1)})


def dequantize(weights: Weights) -> None:
    del weights[f"{GATE}.scales"], weights[f"{GATE}.biases"]
    weights[f"{GATE}.weight"] = mx.zeros((64, 32))


MUTATIONS: dict[str, tuple[Callable[[Weights], object], type[G4ConvertError], str]] = {
    "text weight missing": (drop(f"{TEXT}.norm.weight"), MissingTensorError, f"{TEXT}.norm.weight"),
    "tower weight missing": (
        drop("audio_tower.layers.1.norm_out.weight"),
        MissingTensorError,
        "audio_tower.layers.1.norm_out.weight",
    ),
    "clip bound missing": (drop(BOUND), MissingTensorError, BOUND),
    "scales missing": (drop(f"{GATE}.scales"), MissingTensorError, f"{GATE}.scales"),
    "biases missing": (drop(f"{GATE}.biases"), MissingTensorError, f"{GATE}.biases"),
    "biases where the mode has none": (
        put(f"{MXFP4}.biases", mx.zeros((64, 1))),
        UnknownTensorError,
        f"{MXFP4}.biases",
    ),
    "keys in the tail": (
        put(f"{TEXT}.layers.4.self_attn.k_proj.weight", mx.zeros((32, 32))),
        UnknownTensorError,
        f"{TEXT}.layers.4.self_attn.k_proj.weight",
    ),
    "a layer too many": (
        put(f"{TEXT}.layers.6.layer_scalar", mx.ones(1)),
        UnknownTensorError,
        f"{TEXT}.layers.6.layer_scalar",
    ),
    "head of a tied model": (
        put("language_model.lm_head.weight", mx.zeros((272, 32))),
        UnknownTensorError,
        "language_model.lm_head.weight",
    ),
    "another shape": (flatten(f"{TEXT}.embed_tokens.weight"), TensorShapeError, f"{TEXT}.embed_tokens.weight"),
    "clip bound with an axis": (flatten(BOUND), TensorShapeError, BOUND),
    "layer scalar without an axis": (
        put(f"{TEXT}.layers.0.layer_scalar", mx.array(1.0)),
        TensorShapeError,
        f"{TEXT}.layers.0.layer_scalar",
    ),
    "convolution in PyTorch's layout": (
        put("audio_tower.subsample_conv_projection.layer1.conv.weight", mx.zeros((4, 8, 3, 3))),
        TensorShapeError,
        "audio_tower.subsample_conv_projection.layer1.conv.weight",
    ),
    "integers where numbers belong": (
        recast(f"{TEXT}.norm.weight", mx.int32),
        TensorShapeError,
        f"{TEXT}.norm.weight",
    ),
    "packed weight of another kind": (recast(f"{GATE}.weight", mx.int32), TensorShapeError, f"{GATE}.weight"),
    "fp4 scales as numbers": (recast(f"{MXFP4}.scales", mx.float32), TensorShapeError, f"{MXFP4}.scales"),
    "affine scales as bytes": (recast(f"{GATE}.scales", mx.uint8), TensorShapeError, f"{GATE}.scales"),
    "unpacked where the config says packed": (dequantize, MissingTensorError, f"{GATE}.biases"),
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_wrong_tensor_is_an_error_that_names_it(
    folder: Path, mutation: tuple[Callable[[Weights], object], type[G4ConvertError], str]
) -> None:
    change, kind, name = mutation
    rewrite(folder, change)

    with pytest.raises(kind) as caught:
        load(folder)

    assert caught.value.where == name
    assert "\n" not in str(caught.value)


def set_quantization(path: str, entry: object) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["quantization"].update({path: entry})


CONFIG_MUTATIONS: dict[str, tuple[Callable[[dict[str, Any]], object], type[G4ConvertError]]] = {
    "other bits": (set_quantization(GATE, {**AFFINE, "bits": 8}), TensorShapeError),
    "other group": (set_quantization(GATE, {**AFFINE, "group_size": 64}), ConfigError),
    "other mode": (set_quantization(GATE, {"group_size": 32, "bits": 4, "mode": "mxfp4"}), UnknownTensorError),
    "not packed": (set_quantization(GATE, False), UnknownTensorError),
    "packed, but is not": (set_quantization(f"{TEXT}.layers.1.mlp.up_proj", AFFINE), MissingTensorError),
    "a path of another spelling": (set_quantization("model.layers.0.mlp.gate_proj", AFFINE), ConfigError),
    "a module without a weight": (set_quantization(f"{TEXT}.layers.0.mlp", AFFINE), ConfigError),
    "a norm": (set_quantization(f"{TEXT}.norm", AFFINE), ConfigError),
    "settings that mlx lacks": (set_quantization(GATE, {**AFFINE, "bits": 7}), ConfigError),
    "no quantization": (lambda config: config.pop("quantization"), UnknownTensorError),
    "fewer layers": (lambda config: config["text_config"].update(num_hidden_layers=5), ConfigError),
    "another width": (lambda config: config["text_config"].update(intermediate_size=96), TensorShapeError),
    "no audio": (lambda config: config.update(audio_config=None), UnknownTensorError),
    "no sharing": (lambda config: config["text_config"].update(num_kv_shared_layers=0), MissingTensorError),
    "unclipped vision": (lambda config: config["vision_config"].update(use_clipped_linears=False), UnknownTensorError),
    "untied": (lambda config: config.update(tie_word_embeddings=False), MissingTensorError),
    "a drafter": (lambda config: config.update(model_type="gemma4_assistant"), G4ConvertError),
}


@pytest.mark.parametrize("mutation", CONFIG_MUTATIONS.values(), ids=CONFIG_MUTATIONS.keys())
def test_a_config_that_says_something_else_is_an_error(
    folder: Path, mutation: tuple[Callable[[dict[str, Any]], object], type[G4ConvertError]]
) -> None:
    change, kind = mutation
    rewrite_config(folder, change)

    with pytest.raises(kind) as caught:
        load(folder)

    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    rewrite_config(folder, lambda config: config.update(model_type="llama"))

    with pytest.raises((UnsupportedModelError, ConfigError), match="llama"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_an_error(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(ConfigError, match=name):
        load(folder)


def test_a_missing_folder_and_a_truncated_shard_are_errors(folder: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        load(folder / "nothing")
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ShardError, match="truncated"):
        load(folder)


def test_what_was_saved_is_what_runs(folder: Path) -> None:
    model = load(folder)

    gate = model.text.model.layers[0].mlp.gate_proj
    plain = random_network(multimodal()).language_model.model.layers[0].mlp.gate_proj.weight
    assert gate.bits == 4
    assert mx.array_equal(gate.weight, mx.quantize(plain, 32, 4)[0])
    assert mx.array_equal(model.text.model.norm.weight, random_network(multimodal()).language_model.model.norm.weight)


def test_a_module_without_an_entry_follows_the_settings_at_the_top(folder: Path) -> None:
    rewrite_config(folder, lambda config: config["quantization"].pop(GATE))

    assert load(folder).text.model.layers[0].mlp.gate_proj.bits == 4


@pytest.mark.parametrize(
    "document", [text_only(), multimodal(moe_block(), audio_config=None), text_only(tie_word_embeddings=False)]
)
def test_everything_packed_loads_and_runs(tmp_path: Path, document: dict[str, Any]) -> None:
    quantization: dict[str, Any] = dict(AFFINE)
    for path, module in random_network(document).named_modules():
        if hasattr(module, "to_quantized"):
            quantization[path] = AFFINE if module.weight.shape[-1] % 32 == 0 else False

    model = load(write_checkpoint(tmp_path, document, quantization=quantization, dtype=mx.bfloat16))
    logits = model.text(mx.array([[2, 30, 40]]))

    assert logits.dtype == mx.float32
    assert np.isfinite(np.array(logits)).all()


def test_the_cpu_computes_in_float32_and_bounds_stay_as_they_are(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, multimodal(), quantization=QUANTIZATION, dtype=mx.bfloat16)

    with cpu():
        model = load(folder)

    text = model.text.model
    assert model.dtype == "float32"
    assert text.norm.weight.dtype == text.layers[0].mlp.down_proj.weight.dtype == mx.float32
    assert text.layers[0].mlp.gate_proj.scales.dtype == mx.bfloat16
    assert text.layers[0].mlp.up_proj.scales.dtype == mx.uint8
    assert text.embed_tokens_per_layer(mx.array([[1]])).dtype == mx.bfloat16
    assert model.network.vision_tower.encoder.layers[0].mlp.gate_proj.input_min.dtype == mx.bfloat16


def test_the_scales_of_experts_are_float32_on_the_cpu(tmp_path: Path) -> None:
    """A product with a few experts would cast those of all."""
    gate = f"{TEXT}.layers.0.experts.switch_glu.gate_proj"
    document = multimodal(moe_block(), audio_config=None)
    folder = write_checkpoint(tmp_path, document, quantization={**AFFINE, gate: AFFINE}, dtype=mx.bfloat16)

    with cpu():
        packed = load(folder).text.model.layers[0].experts.switch_glu.gate_proj

    assert packed.scales.dtype == packed.biases.dtype == mx.float32


def test_a_gpu_computes_in_one_dtype(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "on_cpu", lambda: False)

    text = load(folder, dtype="float16").text.model

    assert text.norm.weight.dtype == text.layers[0].mlp.gate_proj.scales.dtype == mx.float16


class cpu:  # noqa: N801 (a context manager used like a function)
    """Makes the CPU the default device for a while."""

    def __enter__(self) -> None:
        self._before = mx.default_device()
        mx.set_default_device(mx.Device(mx.cpu))

    def __exit__(self, *_: object) -> None:
        mx.set_default_device(self._before)


def test_the_dtype_can_be_chosen(folder: Path) -> None:
    model = load(folder, dtype="bfloat16")

    assert model.dtype == "bfloat16"
    assert model.text(mx.array([[2, 30]])).dtype == mx.bfloat16
    with pytest.raises(UsageError, match="int8"):
        load(folder, dtype="int8")


def test_a_dtype_that_the_cpu_lacks_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, multimodal(moe_block(), audio_config=None), dtype=mx.bfloat16)

    with cpu():
        assert load(folder).dtype == "float32"
        with pytest.raises(UsageError, match="experts in bfloat16"):
            load(folder, dtype="bfloat16")


def test_an_unconverted_checkpoint_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="this is a Hugging Face checkpoint; convert it first"):
        load(CHECKPOINTS / "e2b")


# Large enough that the weights and not the rest decide what memory is taken.
LARGE_TEXT = {"vocab_size": 4096, "vocab_size_per_layer_input": 4096, "hidden_size": 512, "intermediate_size": 1024}
LARGE_VISION = {**VISION, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "head_dim": 64}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in 4 bits and bfloat16: a PLE table, a language model and a tower of some megabytes each."""
    document = multimodal(text_block(**LARGE_TEXT), vision_config=LARGE_VISION)
    names = [name for name, module in random_network(document).named_modules() if hasattr(module, "to_quantized")]
    quantization = {name: AFFINE for name in names if name.startswith(TEXT)}
    return write_checkpoint(
        tmp_path_factory.mktemp("large") / "model", document, quantization={**AFFINE, **quantization}, dtype=mx.bfloat16
    )


def stored_bytes(folder: Path) -> int:
    """Of the language model, without its PLE table."""
    tensors = Checkpoint.open(folder).tensors
    return sum(info.nbytes for name, info in tensors.items() if name.startswith(TEXT) and PLE_TABLE not in name)


def peak_of(folder: Path, dtype: str | None) -> int:
    """What mlx took at most while it loaded."""
    with cpu():
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        model = load(folder, dtype=dtype)
        peak = mx.get_peak_memory() - before
    assert model.network is not None
    return peak


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_loading_takes_the_bytes_of_the_language_model_and_no_more(large: Path, dtype: str | None) -> None:
    assert stored_bytes(large) < peak_of(large, dtype) <= stored_bytes(large) + 500_000


MISTAKES: dict[str, tuple[str, Any]] = {
    "the table is loaded": ("map_table", lambda *_: None),
    "the towers are read": ("language_model", lambda network: network),
    "the scales are cast": ("PACKING", ()),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_loader_that_takes_more_is_noticed(
    large: Path, mistake: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, *mistake)

    assert peak_of(large, None) > stored_bytes(large) + 500_000
