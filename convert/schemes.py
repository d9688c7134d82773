"""What a config says of weights that are already packed: a scheme that can be decoded, or a refusal by name.

`quantization_config` without `quant_method` is metadata, as Google's QAT repositories carry it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..loaders.checkpoint import CONFIG_FILE
from ..schemas.errors import QuantizedSourceError

INT4, FP8 = "I4", "F8_E4M3"
"""Elements that can be decoded."""
COMPRESSED_TENSORS, FINE_GRAINED = "compressed-tensors", "fp8"
Block = tuple[int, int]

# How compressed-tensors must have packed a weight. What a config leaves out is that library's default.
DEFAULTS: Mapping[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True}
FORMATS: Mapping[str, tuple[str, Mapping[str, tuple[Any, ...]]]] = {
    "pack-quantized": (
        INT4,
        {
            "type": ("int",), "num_bits": (4,), "symmetric": (True,), "strategy": ("group",), "group_size": (32,),
            "actorder": (None, False, "weight", "static"),
        },
    ),
    "float-quantized": (
        FP8,
        {
            "type": ("float",), "num_bits": (8,), "symmetric": (True,),
            "strategy": (None, "tensor", "channel", "block"), "group_size": (None,),
        },
    ),
}  # fmt: skip
# Blocks of weights with the method `fp8` where the config does not say.
DEFAULT_BLOCK = [128, 128]


@dataclass(frozen=True)
class Scheme:
    """How the weights of a source are packed.

    Attributes:
        name: for people.
        elements: `INT4`, a scale per group of 32 along the row; or `FP8`, a scale per tensor, row or block.
        blocks: rows and columns of a block, of each kind that is declared.
    """

    name: str
    elements: str
    blocks: tuple[Block, ...] = ()


def read_scheme(document: Mapping[str, Any]) -> Scheme | None:
    """The scheme that a config declares; None where it says nothing of packed weights.

    Raises:
        QuantizedSourceError: names a format that is not decoded here.
    """
    block = document.get("quantization")
    if isinstance(block, dict) and "bits" in block:
        raise already_quantized(f"MLX {block['bits']}-bit", CONFIG_FILE)
    return next((_scheme(block) for block in _declared(document)), None)


def _declared(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for section in (document, _mapping(document.get("text_config"))):
        block = _mapping(section.get("quantization_config"))
        if block.get("quant_method"):
            yield block


def _scheme(block: Mapping[str, Any]) -> Scheme:
    method, kind = block["quant_method"], block.get("format") or block.get("quant_algo")
    if method == COMPRESSED_TENSORS and isinstance(kind, str) and kind in FORMATS:
        return _compressed_tensors(block)
    if method == FINE_GRAINED:
        return _fine_grained(block)
    raise _refused(f"{method} {kind}" if kind else method)


def _compressed_tensors(block: Mapping[str, Any]) -> Scheme:
    name = f"{COMPRESSED_TENSORS} {block['format']}"
    elements, wanted = FORMATS[block["format"]]
    if _mapping(block.get("transform_config")).get("config_groups"):
        raise _refused(f"{name} of rotated weights")
    if _mapping(block.get("sparsity_config")).get("format", "dense") != "dense":
        raise _refused(f"{name} of sparse weights")
    groups = [_mapping(group) for group in _mapping(block.get("config_groups")).values()]
    weights = [_mapping(group.get("weights")) for group in groups]
    if not weights or not all(weights):
        raise _refused(f"{name}, which does not say how weights are packed")
    for group, args in zip(groups, weights, strict=True):
        if group.get("format") not in (None, block["format"]):
            raise _refused(f"{name} with a group in the format {group['format']}")
        _check_args(args, wanted, name)
    blocks = [_block(args["block_structure"], name) for args in weights if args.get("block_structure")]
    return Scheme(name, elements, tuple(dict.fromkeys(blocks)))


def _check_args(args: Mapping[str, Any], wanted: Mapping[str, tuple[Any, ...]], name: str) -> None:
    for key, allowed in wanted.items():
        found = args.get(key, DEFAULTS.get(key))
        if found not in allowed:
            words = " or ".join(str(value) for value in allowed if value is not None) or "none"
            raise _refused(f"{name} with {key} {found}, what can be read is {words}")


def _fine_grained(block: Mapping[str, Any]) -> Scheme:
    if block.get("fmt", "e4m3") != "e4m3":
        raise _refused(f"{FINE_GRAINED} {block['fmt']}")
    size = block.get("weight_block_size", DEFAULT_BLOCK)
    return Scheme(FINE_GRAINED, FP8, () if size is None else (_block(size, FINE_GRAINED),))


def _block(size: Any, name: str) -> Block:
    match size:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
    raise _refused(f"{name} with blocks of {size}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _refused(what: str) -> QuantizedSourceError:
    return already_quantized(f"{what} (declared in quantization_config)", CONFIG_FILE)


def already_quantized(what: str, where: str) -> QuantizedSourceError:
    """The refusal of a format that is not decoded here."""
    return QuantizedSourceError(
        f"the source is already quantized: {what}",
        where=where,
        fix="convert the unquantized checkpoint it was made from",
    )
