"""Ways in which a converted checkpoint goes wrong, and what must notice each.

Four circumstances:

- `alone`: there is neither a manifest nor a source;
- `manifest`: the bytes were changed after the conversion;
- `source`: the converter itself made the mistake, so its manifest agrees with it, and there is the source;
- `foreign`: another tool made the mistake, so there is no manifest, but the source.

A check's name says which one must find it. None: nothing can show there, and then nothing may be reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from g4convert.convert.quantize import Packed, dequantize, quantize
from g4convert.convert.recipe import Quantization
from g4convert.loaders.checkpoint import INDEX_FILE
from g4convert.tests.support import WEIGHTS

from .workshop import Piece, Stored, Tensors, reshaped, shard_bytes

Change = Callable[[Piece], None]

TEXT = "language_model.model"
LAYER = f"{TEXT}.layers"
MLP, EXPERTS = f"{LAYER}.0.mlp", f"{LAYER}.0.experts.switch_glu"
ATTENTION, FULL_ATTENTION, NEXT_ATTENTION = (f"{LAYER}.{number}.self_attn" for number in range(3))
GATE, UP, DOWN = (f"{MLP}.{leaf}_proj" for leaf in ("gate", "up", "down"))
PLE = f"{TEXT}.embed_tokens_per_layer"
NORM, OTHER_NORM = f"{LAYER}.1.input_layernorm.weight", f"{LAYER}.1.post_attention_layernorm.weight"
VISION, AUDIO = "vision_tower.encoder.layers.1", "audio_tower.layers.1"
SQUARE = f"{AUDIO}.self_attn.q_proj.linear.weight"
BOUND = f"{VISION}.mlp.up_proj"
EMBEDDER = "embed_vision.embedding_projection"
CONV = "audio_tower.subsample_conv_projection.layer1.conv.weight"
GENERATION, PROCESSOR = "generation_config.json", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
LEAVES = ("weight", "scales", "biases")
NAN, INFINITY = 0x7FC0, 0x7F80


@dataclass(frozen=True)
class Mutation:
    """One way to break a checkpoint.

    Attributes:
        name: what happens.
        change: makes it happen.
        where: what the finding must name: a tensor, or the field of a file.
        alone, manifest, source, foreign: the check that must find it.
        elsewhere: what the finding must name instead, by check.
        kind, options: the checkpoint that is broken.
    """

    name: str
    change: Change
    where: str
    alone: str | None
    manifest: str | None
    source: str | None
    foreign: str | None
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    kind: str = "e2b"
    options: Mapping[str, Any] = field(default_factory=dict)

    def names(self, check: str) -> str:
        """What a finding of a check must name."""
        return self.elsewhere.get(check, self.where)


RECORDED, HEADERS, FILES = "recorded tensors", "recorded headers", "recorded files"
DERIVED, CONFIG, SIDECARS = "tensors of the source", "config of the source", "files of the source"
INDEX, BLOCK, BOUNDS = "index and shards", "quantization", "clip bounds"


def in_bytes(
    name: str, change: Change, where: str, alone: str | None = None, *, foreign: str | None = DERIVED, kind: str = "e2b"
) -> Mutation:
    """A tensor's values are wrong, and the headers are as they were."""
    return Mutation(name, change, where, alone, RECORDED, DERIVED, foreign, kind=kind)


def in_header(
    name: str,
    change: Change,
    where: str,
    alone: str | None,
    *,
    source: str = DERIVED,
    foreign: str | None = DERIVED,
    recorded: str | None = None,
) -> Mutation:
    """There are other tensors, or tensors of another shape or dtype."""
    elsewhere = {HEADERS: where if recorded is None else recorded}
    return Mutation(name, change, where, alone, HEADERS, source, foreign, elsewhere)


def in_config(
    name: str, change: Change, where: str, alone: str | None = None, *, foreign: str | None = CONFIG, **elsewhere: str
) -> Mutation:
    """`config.json` says something else."""
    return Mutation(name, change, where, alone, FILES, CONFIG, foreign, {FILES: "config.json", **elsewhere})


def in_file(
    name: str, change: Change, file: str, where: str = "", alone: str | None = None, **elsewhere: str
) -> Mutation:
    """A file beside the weights is gone, or another."""
    return Mutation(name, change, where or file, alone, FILES, SIDECARS, SIDECARS, {FILES: file, **elsewhere})


def everywhere(name: str, change: Change, where: str, check: str, *, manifest: str | None = None) -> Mutation:
    """What one check finds, whatever else there is."""
    return Mutation(name, change, where, check, manifest or check, check, check)


# -- changes of tensors ------------------------------------------------------------------------------------------------


def edited(edit: Callable[[Tensors], object]) -> Change:
    """Change the tensors in place."""

    def change(piece: Piece) -> None:
        with piece.tensors() as tensors:
            edit(tensors)

    return change


def exchanged(one: str, other: str) -> Change:
    """Exchange two tensors, or two modules with all that belongs to them, or two prefixes."""

    def edit(tensors: Tensors) -> None:
        names = [name for name in tensors if name == one or name.startswith(f"{one}.")]
        assert names, one
        for name in names:
            twin = other + name.removeprefix(one)
            tensors[name], tensors[twin] = tensors[twin], tensors[name]

    return edited(edit)


def altered(name: str, alter: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Put other elements in the place of a tensor's."""
    return edited(lambda tensors: tensors.update({name: reshaped(tensors[name], alter(tensors[name].bits))}))


def module_altered(module: str, alter: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Do the same to the weight, the scales and the biases of a module."""

    def edit(tensors: Tensors) -> None:
        for name in (f"{module}.{leaf}" for leaf in LEAVES):
            tensors[name] = reshaped(tensors[name], alter(tensors[name].bits))

    return edited(edit)


def flipped(name: str, bit: int, place: tuple[int, ...]) -> Change:
    """Flip one bit of one element."""

    def alter(bits: np.ndarray) -> np.ndarray:
        bits[place] ^= 1 << bit
        return bits

    return altered(name, alter)


def put(name: str, value: int, place: tuple[int, ...] = ()) -> Change:
    """Put a bit pattern at a place; without one, everywhere."""

    def alter(bits: np.ndarray) -> np.ndarray:
        bits[place or ...] = value
        return bits

    return altered(name, alter)


def removed(*endings: str, under: str = "") -> Change:
    """Remove every tensor whose name begins and ends so."""

    def edit(tensors: Tensors) -> None:
        gone = [name for name in tensors if name.startswith(under) and name.endswith(endings)]
        assert gone
        for name in gone:
            del tensors[name]

    return edited(edit)


def renamed(name: str, other: str) -> Change:
    """Give a tensor another name."""
    return edited(lambda tensors: tensors.update({other: tensors.pop(name)}))


def copied(pairs: Mapping[str, str]) -> Change:
    """Add tensors that are copies of others, by name."""
    return edited(lambda tensors: tensors.update({name: tensors[other] for name, other in pairs.items()}))


def retyped(name: str, dtype: str, cast: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Store a tensor in another dtype."""
    return edited(lambda tensors: tensors.update({name: Stored(dtype, cast(tensors[name].bits))}))


def half(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as float16."""
    floats = (bits.astype(np.uint32) << 16).view(np.float32)
    return floats.astype(np.float16).view(np.uint16)


def nibbles_exchanged(bits: np.ndarray) -> np.ndarray:
    """The order of codes in a byte that other formats have."""
    data = bits.view(np.uint8)
    return (data << 4 | data >> 4).view(bits.dtype).reshape(bits.shape)


def coarse_router(piece: Piece) -> None:
    """Pack a router with 4 bits, and say so."""
    module = f"{LAYER}.0.router.proj"
    with piece.tensors() as tensors:
        fine, coarse = Quantization(8, 64), Quantization(4, 64)
        weight, scales, biases = (tensors[f"{module}.{leaf}"].bits for leaf in LEAVES)
        numbers = [(part.astype(np.uint32) << 16).view(np.float32) for part in (scales, biases)]
        packed = quantize(dequantize(Packed(weight.view(np.uint8), *numbers), fine), coarse, "BF16")
        assert packed.biases is not None
        tensors[f"{module}.weight"] = Stored("U32", packed.weight.view(np.uint32))
        tensors[f"{module}.scales"] = Stored("BF16", packed.scales.view(np.uint16))
        tensors[f"{module}.biases"] = Stored("BF16", packed.biases.view(np.uint16))
    packing_said(module, coarse.as_dict())(piece)


# -- changes of files --------------------------------------------------------------------------------------------------


def json_set(file: str, *keys: str, to: Any) -> Change:
    """Give a key of a JSON file another value."""

    def change(piece: Piece) -> None:
        with piece.json(file) as document:
            place = document
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = to

    return change


def json_lost(file: str, *keys: str) -> Change:
    """Remove a key of a JSON file."""

    def change(piece: Piece) -> None:
        with piece.json(file) as document:
            place = document
            for key in keys[:-1]:
                place = place[key]
            del place[keys[-1]]

    return change


def config_set(*keys: str, to: Any) -> Change:
    return json_set("config.json", *keys, to=to)


def packing_said(module: str, entry: Any) -> Change:
    """Let both quantization blocks say something else of a module."""
    return both(
        config_set("quantization", module, to=entry),
        config_set("quantization_config", module, to=entry),
    )


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(piece: Piece) -> None:
        for one in changes:
            one(piece)

    return change


def lost(file: str) -> Change:
    return lambda piece: (piece.folder / file).unlink()


def added(file: str, data: bytes) -> Change:
    return lambda piece: piece.write(file, data)


def replaced(file: str, old: str, new: str) -> Change:
    """Replace a text in a file."""

    def edit(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    return lambda piece: piece.edit_bytes(file, edit)


def edited_bytes(file: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda piece: piece.edit_bytes(file, edit)


def words_exchanged(piece: Piece) -> None:
    """Two ordinary tokens of the vocabulary change places."""
    with piece.json(TOKENIZER) as tokenizer:
        vocab = tokenizer["model"]["vocab"]
        one, other = (next(word for word, number in vocab.items() if number == wanted) for wanted in (400, 401))
        vocab[one], vocab[other] = vocab[other], vocab[one]


def token_lost(text: str) -> Change:
    """A special token is no token of the tokenizer any more."""

    def change(piece: Piece) -> None:
        with piece.json(TOKENIZER) as tokenizer:
            tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != text]
            tokenizer["model"]["vocab"].pop(text, None)

    return change


def index_entry(name: str, shard: str | None) -> Change:
    def change(piece: Piece) -> None:
        with piece.json(INDEX_FILE) as index:
            index["weight_map"].pop(name)
            if shard is not None:
                index["weight_map"][name] = shard

    return change


def header_without_format(piece: Piece) -> None:
    with piece.tensors() as tensors:
        kept = dict(tensors)
    piece.write(WEIGHTS, shard_bytes(kept, {}))


def leftover_shard(piece: Piece) -> None:
    piece.write("model-00001-of-00002.safetensors", (piece.folder / WEIGHTS).read_bytes())


SHARED_KEYS = {f"{LAYER}.5.self_attn.k_proj.{leaf}": f"{LAYER}.3.self_attn.k_proj.{leaf}" for leaf in LEAVES}
TIED_HEAD = {f"language_model.lm_head.{leaf}": f"{TEXT}.embed_tokens.{leaf}" for leaf in LEAVES}
UNCONVERTED = "model.language_model.layers"


def shifted(bits: np.ndarray) -> np.ndarray:
    """One place on in every row."""
    return np.roll(bits, 1, 1)


def reversed_rows(bits: np.ndarray) -> np.ndarray:
    return bits[::-1]


VISION_UNCLIPPED = config_set("vision_config", "use_clipped_linears", to=False)


def bits_of(number: int, group_size: int = 64, mode: str = "affine") -> dict[str, Any]:
    """An entry of a quantization block."""
    return {"bits": number, "group_size": group_size, "mode": mode}


# -- the table ---------------------------------------------------------------------------------------------------------

VALUES = (
    in_bytes("two norms exchanged", exchanged(NORM, OTHER_NORM), NORM),
    in_bytes("two matrices exchanged", exchanged(f"{ATTENTION}.q_proj", f"{NEXT_ATTENTION}.q_proj"), f"{ATTENTION}.q_proj.weight"),
    in_bytes("gate and up exchanged", exchanged(GATE, UP), f"{GATE}.weight"),
    in_bytes("gate and up of the experts exchanged", exchanged(f"{EXPERTS}.gate_proj", f"{EXPERTS}.up_proj"), f"{EXPERTS}.gate_proj.weight", kind="26b-a4b"),
    in_bytes("two layers exchanged", exchanged(f"{LAYER}.0", f"{LAYER}.2"), f"{LAYER}.0."),
    in_bytes("keys of another layer", exchanged(f"{ATTENTION}.k_proj", f"{NEXT_ATTENTION}.k_proj"), f"{NEXT_ATTENTION}.k_proj.weight"),
    in_bytes("keys and values exchanged", exchanged(f"{FULL_ATTENTION}.k_proj", f"{FULL_ATTENTION}.v_proj"), f"{FULL_ATTENTION}.k_proj.weight"),
    in_bytes("experts in another order", module_altered(f"{EXPERTS}.down_proj", reversed_rows), f"{EXPERTS}.down_proj.weight", kind="26b-a4b"),
    in_bytes("router in another order", module_altered(f"{LAYER}.1.router.proj", reversed_rows), f"{LAYER}.1.router.proj.weight", kind="26b-a4b"),
    in_bytes("square matrix transposed", altered(SQUARE, np.transpose), SQUARE),
    in_bytes("kernel of a convolution transposed", altered(CONV, lambda bits: bits.transpose(0, 2, 1, 3)), CONV),
    in_bytes("per-layer embeddings off by one row", module_altered(PLE, lambda bits: np.roll(bits, 1, 0)), f"{PLE}.weight"),
    in_bytes("token embeddings off by one row", module_altered(f"{TEXT}.embed_tokens", lambda bits: np.roll(bits, -1, 0)), f"{TEXT}.embed_tokens.weight"),
    in_bytes("scales shifted by one group", altered(f"{GATE}.scales", shifted), f"{GATE}."),
    in_bytes("scales and biases exchanged", exchanged(f"{DOWN}.scales", f"{DOWN}.biases"), f"{DOWN}."),
    in_bytes("codes in the other order", altered(f"{UP}.weight", nibbles_exchanged), f"{UP}.weight"),
    in_bytes("lowest bit of a code", flipped(f"{UP}.weight", 0, (3, 1)), f"{UP}.weight", foreign=None),
    in_bytes("highest bit of a code", flipped(f"{UP}.weight", 3, (3, 1)), f"{UP}.weight"),
    in_bytes("lowest bit of a scale", flipped(f"{PLE}.scales", 0, (300, 1)), f"{PLE}.scales", foreign=None),
    in_bytes("sign of a scale", flipped(f"{PLE}.scales", 15, (300, 1)), f"{PLE}."),
    in_bytes("lowest bit of a norm", flipped(NORM, 0, (5,)), NORM),
    in_bytes("sign of a layer's scalar", flipped(f"{LAYER}.3.layer_scalar", 15, (0,)), f"{LAYER}.3.layer_scalar"),
    in_bytes("byte order", altered(SQUARE, lambda bits: bits.byteswap()), SQUARE, "values"),
    in_bytes("NaN in a weight", put(SQUARE, NAN, (7, 3)), SQUARE, "values"),
    in_bytes("infinity in a scale", put(f"{PLE}.scales", INFINITY, (300, 1)), f"{PLE}.", "values"),
    in_bytes("all scales equal", put(f"{PLE}.scales", 0x3C00), f"{PLE}.", "values"),
    in_bytes("codes all zero", put(f"{UP}.weight", 0), f"{UP}.weight", "values"),
    in_bytes("matrix all zero", put(SQUARE, 0), SQUARE, "values"),
    in_bytes("matrix all one", put(SQUARE, 0x3F80), SQUARE, "values"),
    in_bytes("norm all zero", put(NORM, 0), NORM, "values"),
    in_bytes("norm all one", put(NORM, 0x3F80), NORM),
    in_bytes("bound zero", put(f"{BOUND}.input_max", 0), f"{BOUND}.input_max", kind="e4b"),
    in_bytes("bounds exchanged", exchanged(f"{BOUND}.output_min", f"{BOUND}.output_max"), f"{BOUND}.output_min", "clip bounds", kind="e4b"),
    in_bytes("bound infinite", put(f"{BOUND}.input_max", INFINITY), f"{BOUND}.input_max", "clip bounds", kind="e4b"),
    in_bytes("bounds equal", both(put(f"{BOUND}.input_max", 0), put(f"{BOUND}.input_min", 0)), f"{BOUND}.input_min", "clip bounds", kind="e4b"),
    Mutation("NaN in a shared exponent", put(f"{UP}.scales", 255, (3, 1)), f"{UP}.scales", "values", RECORDED, DERIVED, "values", options={"mode": "mxfp4"}),
    Mutation("shared exponent one too large", altered(f"{UP}.scales", lambda bits: bits + 1), f"{UP}.", None, RECORDED, DERIVED, DERIVED, options={"mode": "mxfp4"}),
    Mutation("nvfp4 scales shifted by one group", altered(f"{UP}.scales", shifted), f"{UP}.", None, RECORDED, DERIVED, DERIVED, options={"mode": "nvfp4"}),
    Mutation("8-bit scales shifted by one group", altered(f"{UP}.scales", shifted), f"{UP}.", None, RECORDED, DERIVED, DERIVED, options={"bits": 8}),
)  # fmt: skip

STRUCTURE = (
    in_header("layer scalar lost", removed(".2.layer_scalar"), f"{LAYER}.2.layer_scalar", "names"),
    in_header("a tensor too many", copied({f"{LAYER}.0.extra_norm.weight": NORM}), f"{LAYER}.0.extra_norm.weight", "names", source="names", foreign="names"),
    in_header("keys of a shared layer kept", copied(SHARED_KEYS), "KV-shared tail", "names", source="names", foreign="names", recorded=f"{LAYER}.5.self_attn.k_proj.weight"),
    in_header("tied head kept", copied(TIED_HEAD), "tied: a copy of embed_tokens", "names", source="names", foreign="names", recorded="language_model.lm_head.weight"),
    in_header("vision tower lost", removed("", under="vision_tower."), "the whole of vision_tower", "names"),
    in_header("audio embedder lost", removed("", under="embed_audio."), "embed_audio.embedding_projection.weight", "names"),
    in_header("name of the source", renamed(NORM, f"{UNCONVERTED}.1.input_layernorm.weight"), NORM, "names", foreign="names"),
    in_header("scales lost", removed(f"{UP}.scales"), UP, "quantization"),
    in_header("scales as integers", retyped(f"{UP}.scales", "U16", lambda bits: bits), f"{UP}.", BLOCK, foreign=BLOCK),
    in_header("scales of a plain weight", copied({f"{EMBEDDER}.scales": f"{UP}.scales"}), f"{EMBEDDER}.scales", BLOCK, source=BLOCK, foreign=BLOCK),
    Mutation("biases that the mode has not", copied({f"{UP}.biases": f"{UP}.scales"}), f"{UP}.biases", BLOCK, HEADERS, BLOCK, BLOCK, options={"mode": "mxfp4"}),
    in_header("biases lost", removed(f"{UP}.biases"), f"{UP}.biases", "quantization"),
    in_header("convolution as in PyTorch", altered(CONV, lambda bits: bits.transpose(0, 3, 1, 2)), CONV, "shapes and dtypes"),
    in_header("norm as float16", retyped(NORM, "F16", half), NORM, None, foreign=None),
    in_header("norm as integers", retyped(NORM, "U16", lambda bits: bits), NORM, "shapes and dtypes"),
    in_header("norm as packed words", retyped(NORM, "U32", lambda bits: bits.view(np.uint32)), NORM.removesuffix(".weight"), "quantization"),
    in_header("a clip bound lost", removed(f"{BOUND}.input_min"), f"{BOUND}.input_min", "clip bounds"),
    in_header("clip bounds of the audio tower lost", removed("_min", "_max", under="audio_tower."), "audio tower has 0 of 80", BOUNDS, source=BOUNDS, foreign=BOUNDS, recorded="audio_tower."),
    Mutation("all bounds removed since vision has none", both(VISION_UNCLIPPED, removed("_min", "_max")), "audio tower has 0 of 200", "clip bounds", HEADERS, "clip bounds", "clip bounds", {HEADERS: "audio_tower."}, kind="e4b"),
    Mutation("router with 4 bits", coarse_router, f"{LAYER}.0.router.proj", "quantization", HEADERS, DERIVED, "quantization", kind="26b-a4b"),
)  # fmt: skip

SHARDS = (
    everywhere("stale total size", json_set(INDEX_FILE, "metadata", "total_size", to=1), "$.metadata.total_size", INDEX),
    everywhere("index with another shard", index_entry(NORM, "model-00002.safetensors"), "model-00002.safetensors", INDEX),
    everywhere("index without an entry", index_entry(NORM, None), NORM, INDEX),
    everywhere("no index", lost(INDEX_FILE), INDEX_FILE, INDEX, manifest=FILES),
    everywhere("shard cut short", edited_bytes(WEIGHTS, lambda data: data[:-4]), WEIGHTS, INDEX, manifest=HEADERS),
    everywhere("bytes behind the last tensor", edited_bytes(WEIGHTS, lambda data: data + b"\0"), WEIGHTS, INDEX, manifest=HEADERS),
    everywhere("shard of an earlier run", leftover_shard, "model-00001-of-00002.safetensors", INDEX),
    everywhere("header without format", header_without_format, WEIGHTS, INDEX, manifest=HEADERS),
    Mutation("wrong number of parameters", json_set(INDEX_FILE, "metadata", "total_parameters", to=7), "$.metadata.total_parameters", None, FILES, CONFIG, None, {FILES: INDEX_FILE}),
)  # fmt: skip

ROPE = ("text_config", "rope_parameters")
CONFIGS = (
    in_config("rotary base", config_set(*ROPE, "full_attention", "rope_theta", to=10000.0), "$.text_config.rope_parameters.full_attention.rope_theta"),
    in_config("share of rotated features", config_set(*ROPE, "full_attention", "partial_rotary_factor", to=0.5), "partial_rotary_factor"),
    in_config("sliding window", config_set("text_config", "sliding_window", to=31), "$.text_config.sliding_window"),
    in_config("epsilon of the norms", config_set("text_config", "rms_norm_eps", to=1e-5), "$.text_config.rms_norm_eps"),
    in_config("no cap on the logits", config_set("text_config", "final_logit_softcapping", to=None), "$.text_config.final_logit_softcapping"),
    in_config("blocks of pictures see both ways", config_set("text_config", "use_bidirectional_attention", to="vision"), "$.text_config.use_bidirectional_attention"),
    in_config("context of the audio tower", config_set("audio_config", "attention_context_left", to=12), "$.audio_config.attention_context_left"),
    in_config("residual weight lost", json_lost("config.json", "audio_config", "residual_weight"), "$.audio_config.residual_weight", foreign=None),
    in_config("rotary base of the vision tower", config_set("vision_config", "rope_parameters", "rope_theta", to=10000.0), "$.vision_config.rope_parameters.rope_theta"),
    in_config("bounds of a tower that does not clip", VISION_UNCLIPPED, "$.vision_config.use_clipped_linears", BOUNDS, **{BOUNDS: "switches clipping off"}),
    in_config("end of audio", config_set("eoa_token_id", to=765), "$.eoa_token_id", "token ids"),
    in_config("another architecture", config_set("model_type", to="gemma4_unified"), "$.model_type", "config", config="audio_embed_dim"),
    in_config("untied head", config_set("tie_word_embeddings", to=False), "$.tie_word_embeddings", "names", names="language_model.lm_head"),
    in_config("every layer has keys", config_set("text_config", "num_kv_shared_layers", to=0), "$.text_config.num_kv_shared_layers", "names", names=f"{LAYER}.4.self_attn.k_norm.weight"),
    in_config("audio section lost", json_lost("config.json", "audio_config"), "$.audio_config", "names", names="the config has no audio section"),
    in_config("stop tokens lost in the config", config_set("eos_token_id", to=[1]), "$.eos_token_id", foreign=None),
    in_config("wrong bits of a module", packing_said(UP, bits_of(8)), UP, BLOCK, foreign=BLOCK),
    in_config("twice the bits, half the group", packing_said(UP, bits_of(8, 32)), UP, BLOCK, foreign=BLOCK),
    in_config("wrong mode of a module", packing_said(UP, bits_of(4, 32, "mxfp4")), UP, BLOCK, foreign=BLOCK),
    in_config("packed module said to be plain", packing_said(UP, False), UP, BLOCK, foreign=BLOCK),
    in_config("entry under the name of the source", packing_said(f"{UNCONVERTED}.0.mlp.up_proj", bits_of(4)), f"{UNCONVERTED}.0.mlp.up_proj", BLOCK, foreign=BLOCK),
    in_config("plain module said to be packed", packing_said(EMBEDDER, bits_of(4)), EMBEDDER, BLOCK, foreign=BLOCK),
    in_config("bits that do not exist", packing_said(UP, bits_of(7)), UP, "config", foreign="config"),
    in_config("blocks that differ", config_set("quantization_config", "bits", to=8), "$.quantization_config.bits", "config", foreign="config"),
    in_config("one block only", json_lost("config.json", "quantization_config"), "$.quantization_config", "config", foreign="config"),
)  # fmt: skip

BESIDE = (
    in_file("feature extractor lost", json_lost(PROCESSOR, "feature_extractor"), PROCESSOR, "feature_extractor", "sidecars"),
    in_file("video processor lost", json_lost(PROCESSOR, "video_processor"), PROCESSOR, "video_processor", "sidecars"),
    in_file("floor of the mel bins", json_set(PROCESSOR, "feature_extractor", "mel_floor", to=0.002), PROCESSOR, "$.feature_extractor.mel_floor"),
    in_file("patches of another size", json_set(PROCESSOR, "image_processor", "patch_size", to=14), PROCESSOR, "$.image_processor.patch_size", "sidecars"),
    in_file("no processor config", lost(PROCESSOR), PROCESSOR, alone="sidecars"),
    in_file("no tokenizer", lost(TOKENIZER), TOKENIZER, alone="sidecars"),
    in_file("no config of the tokenizer", lost(TOKENIZER_CONFIG), TOKENIZER_CONFIG, alone="sidecars"),
    in_file("two words exchanged", words_exchanged, TOKENIZER, "$.model.vocab"),
    in_file("special token lost", token_lost("<|tool_response>"), TOKENIZER, "tool_response", "token ids"),
    in_file("placeholder lost", token_lost("<|audio|>"), TOKENIZER, "audio", "token ids"),
    in_file("another end of audio", json_set(TOKENIZER_CONFIG, "eoa_token", to="<image|>"), TOKENIZER_CONFIG, "$.eoa_token", "token ids"),
    in_file("a special token that does not exist", json_set(TOKENIZER_CONFIG, "eot_token", to="<end_of_turn>"), TOKENIZER_CONFIG, "$.eot_token", "token ids"),
    in_file("no generation config", lost(GENERATION), GENERATION, alone="sidecars"),
    in_file("another temperature", json_set(GENERATION, "temperature", to=0.1), GENERATION, "$.temperature"),
    in_file("a stop token that does not exist", json_set(GENERATION, "eos_token_id", to=[1, 16, 5000]), GENERATION, "eos_token_id", "stop tokens"),
    in_file("no template", lost(TEMPLATE), TEMPLATE),
    in_file("template that opens no turn", replaced(TEMPLATE, "if add_generation_prompt", "if false"), TEMPLATE, alone="chat template"),
    in_file("template that opens the user's turn", replaced(TEMPLATE, "{{- '<|turn>model\\n' -}}", "{{- '<|turn>user\\n' -}}"), TEMPLATE, alone="chat template"),
    in_file("template without BOS", replaced(TEMPLATE, "{{- bos_token -}}", ""), TEMPLATE, alone="chat template"),
    in_file("template with BOS twice", replaced(TEMPLATE, "{{- bos_token -}}", "{{- bos_token + bos_token -}}"), TEMPLATE, alone="chat template"),
    in_file("template without sounds", replaced(TEMPLATE, "['image', 'audio', 'video']", "['image', 'video']"), TEMPLATE, alone="chat template"),
    in_file("template that closes no turn", replaced(TEMPLATE, "{{- '<turn|>\\n' -}}", "{{- '\\n' -}}"), TEMPLATE, alone="stop tokens"),
    in_file("template that fails", replaced(TEMPLATE, "| trim", "| trimmed"), TEMPLATE, alone="chat template"),
    Mutation("stop token lost", both(config_set("eos_token_id", to=[1]), json_set(GENERATION, "eos_token_id", to=[1])), "eos_token_id", "stop tokens", FILES, SIDECARS, SIDECARS, {FILES: GENERATION}),
    everywhere("Python file added", added("modeling_gemma4.py", b"import os\n"), "modeling_gemma4.py", "no programs"),
    everywhere("pickle added", added("training_args.bin", b"\x80\x04."), "training_args.bin", "no programs"),
    Mutation("JSON file added", added("adapter_config.json", b"{}"), "adapter_config.json", None, FILES, SIDECARS, None),
)  # fmt: skip

MUTATIONS = (*VALUES, *STRUCTURE, *SHARDS, *CONFIGS, *BESIDE)
