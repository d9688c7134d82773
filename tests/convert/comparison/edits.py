"""Known edits of a checkpoint; what a comparison with the original must say of each stands in `said.txt`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from g4convert.convert.comparison.grouping import groups
from g4convert.convert.comparison.outcome import Comparison
from g4convert.convert.quantize import Packed, dequantize, pack, quantize, unpack
from g4convert.convert.recipe import Quantization, quantization
from g4convert.tests.convert.verification.mutations import (
    Change,
    added,
    altered,
    both,
    coarse_router,
    config_set,
    copied,
    edited,
    exchanged,
    flipped,
    half,
    json_lost,
    json_set,
    lost,
    module_altered,
    packing_said,
    put,
    removed,
    renamed,
    replaced,
    retyped,
    reversed_rows,
    words_exchanged,
)
from g4convert.tests.convert.verification.workshop import Piece, Stored, Tensors, reshaped
from g4convert.tests.support import saved_form
from numpy.typing import NDArray

CONFIG, GENERATION, PROCESSOR = "config.json", "generation_config.json", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
LEAVES = ("weight", "scales", "biases")
FOUR_BITS: Mapping[str, Any] = {}
Bits = NDArray[Any]


@dataclass(frozen=True)
class Edit:
    """One edit of a checkpoint.

    Attributes:
        name: what is edited.
        change: edits it.
        kind: the sample.
        options: of the conversion that is edited; None edits the source.
    """

    name: str
    change: Change
    kind: str = "text"
    options: Mapping[str, Any] | None = None


def lines(comparison: Comparison) -> list[str]:
    """What a comparison says, two lines for each group of differences."""
    found = []
    for group in groups(comparison.differences):
        where = group.where if group.where is not None else ", ".join(member.where for member in group.members)
        count = f" ({len(group.members)})" if len(group.members) > 1 else ""
        values = "" if group.a is None else f": {group.a} -> {group.b}"
        what = " ".join(filter(None, [group.severity.value, group.part, f"{where}{count}"]))
        found += [f"{what}{values}", f"    {group.meaning}"]
    return found


# -- changes -----------------------------------------------------------------------------------------------------------


def rewritten(file: str, edit: Callable[[Any], object]) -> Change:
    """Change a JSON file in place."""

    def change(piece: Piece) -> None:
        with piece.json(file) as document:
            edit(document)

    return change


def restored(change: Callable[[Any], object]) -> Change:
    """Let a function that works on a folder change it; what it rewrites is no link any more."""

    def call(piece: Piece) -> None:
        for path in list(piece.folder.iterdir()):
            piece.write(path.name, path.read_bytes())
        change(piece.folder)

    return call


def repacked(module: str, packing: Quantization) -> Change:
    """Pack a 4-bit module otherwise, and say so."""

    def edit(tensors: Tensors) -> None:
        weight, scales, biases = (tensors[f"{module}.{leaf}"].bits for leaf in LEAVES)
        values = dequantize(Packed(weight.view(np.uint8), floats(scales), floats(biases)), Quantization(4, 64))
        packed = quantize(values, packing, "BF16")
        store(tensors, module, packed.weight, packed.scales, packed.biases)

    return both(edited(edit), packing_said(module, packing.as_dict()))


def respelled(module: str, packing: Quantization) -> Change:
    """Store the codes of a 4-bit module in more bits, or repeat scales for smaller groups: its values stay."""

    def edit(tensors: Tensors) -> None:
        weight, scales, biases = (tensors[f"{module}.{leaf}"].bits for leaf in LEAVES)
        codes = unpack(weight.view(np.uint8), 4)
        words = pack(codes.reshape(-1, packing.group_size), packing.bits).reshape(len(codes), -1)
        store(tensors, module, words, *(np.repeat(part, 64 // packing.group_size, 1) for part in (scales, biases)))

    return both(edited(edit), packing_said(module, packing.as_dict()))


def store(tensors: Tensors, module: str, words: Bits, scales: Bits, biases: Bits | None) -> None:
    """Put the parts of a packed module into a checkpoint."""
    for leaf in LEAVES:
        del tensors[f"{module}.{leaf}"]
    tensors[f"{module}.weight"] = Stored("U32", np.ascontiguousarray(words).view(np.uint32))
    for leaf, part in (("scales", scales), ("biases", biases)):
        if part is not None:
            shared = part.dtype == np.uint8
            tensors[f"{module}.{leaf}"] = Stored("U8" if shared else "BF16", part if shared else part.view(np.uint16))


def floats(bits: Bits) -> NDArray[np.float32]:
    """bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def shape_lost(name: str) -> Change:
    """Let the rows of a matrix be its columns."""
    return edited(lambda tensors: tensors.update({name: reshaped(tensors[name], tensors[name].bits.T)}))


def token_renamed(piece: Piece) -> None:
    """An ordinary token has another text."""
    with piece.json(TOKENIZER) as tokenizer:
        vocab = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = {("zebra" if number == 700 else word): number for word, number in vocab.items()}


def flag_cleared(tokenizer: Any) -> None:
    next(token for token in tokenizer["added_tokens"] if token["id"] == 16)["special"] = False


PUT_BEFORE: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
}
PUT_NOTHING = {**PUT_BEFORE, "single": PUT_BEFORE["single"][1:], "special_tokens": {}}


def template_moved(piece: Piece) -> None:
    """The template is in the tokenizer's config."""
    text = (piece.folder / TEMPLATE).read_text()
    lost(TEMPLATE)(piece)
    json_set(TOKENIZER_CONFIG, "chat_template", to=text)(piece)


LAYER = "model.layers"
UP, NORM, EMBEDDING = f"{LAYER}.1.mlp.up_proj", f"{LAYER}.1.input_layernorm.weight", "model.embed_tokens"
HF_NAME, MLX_NAME = "model.language_model.norm.weight", "language_model.model.norm.weight"
CONV = "audio_tower.subsample_conv_projection.layer1.conv.weight"
SHARED_KEYS = {f"{LAYER}.5.self_attn.k_proj.{leaf}": f"{LAYER}.2.self_attn.k_proj.{leaf}" for leaf in LEAVES}
TIED_HEAD = {f"lm_head.{leaf}": f"{EMBEDDING}.{leaf}" for leaf in LEAVES}
ROUTER, EXPERTS = "language_model.model.layers.0.router.proj", "language_model.model.layers.0.experts.switch_glu"
BOUND = "vision_tower.encoder.layers.1.mlp.up_proj"


def without_audio(piece: Piece) -> None:
    """Neither section nor tensors of the audio tower."""
    removed("", under="model.audio_tower.")(piece)
    removed("", under="model.embed_audio.")(piece)
    json_lost(CONFIG, "audio_config")(piece)


CONFIGS = (
    Edit("sliding window", config_set("sliding_window", to=16)),
    Edit("rope theta", config_set("rope_parameters", "full_attention", "rope_theta", to=10000.0)),
    Edit("partial rotary factor", config_set("rope_parameters", "full_attention", "partial_rotary_factor", to=0.5)),
    Edit("softcapping off", config_set("final_logit_softcapping", to=None)),
    Edit("epsilon of the norms", config_set("rms_norm_eps", to=1e-5)),
    Edit("untied", config_set("tie_word_embeddings", to=False)),
    Edit("layer types", rewritten(CONFIG, lambda c: c["layer_types"].__setitem__(0, "full_attention"))),
    Edit("more layers share keys", config_set("text_config", "num_kv_shared_layers", to=3), kind="e2b"),
    Edit("vision blocks off", config_set("text_config", "use_bidirectional_attention", to=None), kind="26b-a4b"),
    Edit("fewer experts to a token", config_set("text_config", "top_k_experts", to=1), kind="26b-a4b"),
    Edit("class", config_set("architectures", to=["Gemma4Model"])),
    Edit("version and dtype", both(config_set("transformers_version", to="5.0"), config_set("dtype", to="float32"))),
    Edit("training", config_set("initializer_range", to=0.1)),
    Edit("unknown key", config_set("speculative_layers", to=[1, 2])),
    Edit("audio section lost", json_lost(CONFIG, "audio_config"), kind="e2b"),
    Edit("audio section null", config_set("audio_config", to=None), kind="e2b"),
    Edit("null for absent", json_lost(CONFIG, "audio_config"), kind="26b-a4b"),
    Edit("another picture token", config_set("image_token_id", to=765), kind="e2b"),
    Edit("end of audio by another name", json_lost(CONFIG, "eoa_token_id"), kind="e2b"),
    Edit("soft tokens in the config", config_set("vision_soft_tokens_per_image", to=280), kind="e2b"),
    Edit("clipping off", config_set("vision_config", "use_clipped_linears", to=False), kind="e2b"),
    Edit("residual weight", config_set("audio_config", "residual_weight", to=1.0), kind="e2b"),
    Edit("as transformers saves it", restored(saved_form), kind="e2b"),
    Edit("key without which it is refused", json_lost(CONFIG, "sliding_window")),
    Edit("stop token lost in the config", config_set("eos_token_id", to=[1]), kind="e2b"),
    Edit(
        "stop token lost",
        both(config_set("eos_token_id", to=[1]), json_set(GENERATION, "eos_token_id", to=[1])),
        kind="e2b",
    ),
)

BESIDE = (
    Edit("floor of the mel bins", json_set(PROCESSOR, "feature_extractor", "mel_floor", to=0.002), kind="e2b"),
    Edit("frames of a clip", json_set(PROCESSOR, "video_processor", "num_frames", to=2), kind="e2b"),
    Edit("picture tokens", json_set(PROCESSOR, "image_processor", "max_soft_tokens", to=140), kind="e2b"),
    Edit(
        "normalization",
        both(
            json_set(PROCESSOR, "image_processor", "do_normalize", to=True),
            json_set(PROCESSOR, "image_processor", "image_mean", to=[0.5, 0.5, 0.0]),
        ),
        kind="e2b",
    ),
    Edit(
        "defaults left out",
        both(
            json_lost(PROCESSOR, "feature_extractor", "mel_floor"), json_lost(PROCESSOR, "video_processor", "resample")
        ),
        kind="e2b",
    ),
    Edit("feature extractor lost", json_lost(PROCESSOR, "feature_extractor"), kind="e2b"),
    Edit(
        "feature extractor of a model that does not hear",
        json_set(PROCESSOR, "feature_extractor", "mel_floor", to=0.1),
        kind="26b-a4b",
    ),
    Edit("processor lost", lost(PROCESSOR), kind="e2b"),
    Edit("sampling", json_set(GENERATION, "temperature", to=0.1)),
    Edit("generation config lost", lost(GENERATION)),
    Edit("first token's text", json_set(TOKENIZER_CONFIG, "bos_token", to="<s>")),
    Edit("token as an object", json_set(TOKENIZER_CONFIG, "bos_token", to={"content": "<bos>", "special": True})),
    Edit("first token by itself", json_set(TOKENIZER_CONFIG, "add_bos_token", to=True)),
    Edit("special tokens by name", json_set(TOKENIZER_CONFIG, "extra_special_tokens", to={"video_token": "<|video|>"})),
    Edit("special token lost", json_lost(TOKENIZER_CONFIG, "extra_special_tokens")),
    Edit("token renamed", token_renamed),
    Edit("tokens exchanged", words_exchanged),
    Edit("merge lost", rewritten(TOKENIZER, lambda t: t["model"]["merges"].pop(5))),
    Edit(
        "merges exchanged", rewritten(TOKENIZER, lambda t: t["model"]["merges"].insert(7, t["model"]["merges"].pop(5)))
    ),
    Edit(
        "merges as text",
        rewritten(TOKENIZER, lambda t: t["model"].update(merges=[" ".join(m) for m in t["model"]["merges"]])),
    ),
    Edit("special flag", rewritten(TOKENIZER, flag_cleared)),
    Edit("added token lost", rewritten(TOKENIZER, lambda t: t["added_tokens"].pop())),
    Edit("normalizer", json_set(TOKENIZER, "normalizer", "content", to="_")),
    Edit("decoder", rewritten(TOKENIZER, lambda t: t["decoder"]["decoders"].pop())),
    Edit("byte fallback", json_set(TOKENIZER, "model", "byte_fallback", to=False)),
    Edit("token put in front", json_set(TOKENIZER, "post_processor", to=PUT_BEFORE)),
    Edit("nothing put in front", json_set(TOKENIZER, "post_processor", to=PUT_NOTHING)),
    Edit(
        "template with other spaces",
        replaced(TEMPLATE, "{%- set empty_thought = false -%}", "{%-   set empty_thought   =   false -%}\n"),
    ),
    Edit("template with another turn", replaced(TEMPLATE, "<|turn>model", "<|turn>assistant")),
    Edit("template without tools or sounds", replaced(TEMPLATE, "'image', 'audio', 'video'", "'image', 'video'")),
    Edit("template that fails", replaced(TEMPLATE, "| trim", "| trimmed")),
    Edit("template lost", lost(TEMPLATE)),
    Edit("template moved", template_moved),
    Edit("stale template", json_set(TOKENIZER_CONFIG, "chat_template", to="{{ messages }}")),
    Edit("card and manifest", both(added("README.md", b"# Another"), added("conversion.json", b"{}"))),
    Edit("licence", added("LICENSE", b"Apache")),
    Edit("program", added("modeling_gemma4.py", b"import os\n")),
    Edit("unknown JSON", added("adapter_config.json", b"{}")),
    Edit("shard that no index names", added("model-00001-of-00002.safetensors", b"x")),
)

VALUES = (
    Edit("highest bit of a weight", flipped(f"{UP}.weight", 14, (3, 1))),
    Edit("lowest bit of a norm", flipped(NORM, 0, (5,))),
    Edit("NaN", put(f"{UP}.weight", 0x7FC0, (3, 1))),
    Edit("infinity in a scale", put(f"{UP}.scales", 0x7F80, (3, 0)), options=FOUR_BITS),
    Edit("lowest bit of a code", flipped(f"{UP}.weight", 0, (3, 1)), options=FOUR_BITS),
    Edit("two layers exchanged", exchanged(f"{LAYER}.0.mlp", f"{LAYER}.1.mlp")),
    Edit("norm as float32", retyped(NORM, "F32", lambda bits: bits.astype(np.uint32) << 16)),
    Edit("norm as float16", retyped(NORM, "F16", half)),
    Edit("tensor lost", removed(".2.layer_scalar")),
    Edit("tensor too many", copied({f"{LAYER}.0.extra_norm.weight": NORM})),
    Edit("tensor twice", copied({f"base_model.model.{NORM}": NORM})),
    Edit("tensor twice, of which one has the name of a conversion", copied({MLX_NAME: HF_NAME}), kind="e2b"),
    Edit(
        "two tensors with other names",
        both(renamed(NORM, f"base_model.model.{NORM}"), renamed("model.norm.weight", "norm.weight")),
    ),
    Edit("rows for columns", shape_lost("model.layers.0.self_attn.q_proj.weight")),
    Edit("keys of a shared layer kept", copied(SHARED_KEYS), options=FOUR_BITS),
    Edit("tied head kept", copied(TIED_HEAD), options=FOUR_BITS),
    Edit(
        "head that is no copy",
        edited(
            lambda t: t.update(
                {"lm_head.weight": reshaped(t[f"{EMBEDDING}.weight"], t[f"{EMBEDDING}.weight"].bits[::-1])}
            )
        ),
    ),
    Edit("8 bits", repacked(UP, quantization("affine", 8, 32)), options=FOUR_BITS),
    Edit("shared exponents", repacked(UP, quantization("mxfp4")), options=FOUR_BITS),
    Edit("8 bits for the same values", respelled(UP, quantization("affine", 8, 64)), options=FOUR_BITS),
    Edit("smaller groups of the same values", respelled(UP, quantization("affine", 4, 32)), options=FOUR_BITS),
    Edit(
        "scales as float32",
        retyped(f"{UP}.scales", "F32", lambda bits: bits.astype(np.uint32) << 16),
        options=FOUR_BITS,
    ),
    Edit("scales lost", removed(f"{UP}.scales"), options=FOUR_BITS),
    Edit("packing misstated", packing_said(UP, {"bits": 8, "group_size": 32, "mode": "affine"}), options=FOUR_BITS),
    Edit("packing unsaid", packing_said(UP, False), options=FOUR_BITS),
    Edit(
        "entry of no module", packing_said(f"{LAYER}.9.mlp.up_proj", {"bits": 4, "group_size": 64}), options=FOUR_BITS
    ),
    Edit("one block only", json_lost(CONFIG, "quantization_config"), options=FOUR_BITS),
    Edit("audio tower lost", without_audio, kind="e2b"),
    Edit("convolution transposed", altered(f"model.{CONV}", lambda bits: bits.transpose(0, 2, 3, 1)), kind="e2b"),
    Edit("clip bound", put(f"model.{BOUND}.input_max", 0x3F80), kind="e2b"),
    Edit("clip bound lost", removed(f"{BOUND}.input_min"), kind="e2b"),
    Edit("router in another order", module_altered(ROUTER, reversed_rows), kind="26b-a4b", options=FOUR_BITS),
    Edit("router at 4 bits", coarse_router, kind="26b-a4b", options=FOUR_BITS),
    Edit(
        "one half of the experts",
        flipped("model.language_model.layers.0.experts.gate_up_proj", 14, (5, 0, 3)),
        kind="26b-a4b",
    ),
)

EDITS = (*CONFIGS, *BESIDE, *VALUES)
