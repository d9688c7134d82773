"""Packed weights of a source: which entries of the headers belong together, and what they decode to. No I/O.

An encoded tensor stands for the tensor that it decodes to, under that one's name, shape and dtype:

- int4: `X_packed` I32 [.., rows, columns / 8], `X_scale` [.., rows, columns / 32] and `X_shape`; scale * (code - 8) in
  F32.
- FP8: `X` F8_E4M3 [.., rows, columns] and `X_scale` or `X_scale_inv` per tensor, row or block; scale * element in BF16,
  the product in float32 before it.

X is `module.weight` or, of stacked experts, the parameter's own name. Eight int4 codes lie in a word, the first in its
lowest bits. A product of a 4-bit code and a scale of at most 21 bits is exact in float32, so nothing is lost there; a
float32 scale with more bits is multiplied with one rounding, as in compressed-tensors. What an output keeps unpacked is
rounded to the scale's dtype, the one that the weights had before they were packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..loaders.checkpoint import TensorInfo
from ..schemas.errors import MissingTensorError, TensorError, TensorShapeError
from .schemes import FP8, INT4, Block, Scheme

PACKED, SHAPE = "_packed", "_shape"
SCALES = ("_scale", "_scale_inv")
SCALE_DTYPES = {INT4: ("BF16", "F16", "F32"), FP8: ("BF16", "F16", "F32", "F8_E8M0")}
WORD, GROUP = 8, 32
"""int4 codes in a word, and weights that share a scale."""

ACTIVATIONS = "quantization of activations, which stay in floating point"
CACHE = "quantization of the key-value cache, which stays in floating point"
UNUSED: Mapping[str, str] = {
    "input_scale": ACTIVATIONS, "input_zero_point": ACTIVATIONS, "output_scale": ACTIVATIONS,
    "output_zero_point": ACTIVATIONS, "activation_scale": ACTIVATIONS,
    "q_scale": ACTIVATIONS, "k_scale": CACHE, "v_scale": CACHE, "k_zero_point": CACHE, "v_zero_point": CACHE,
}  # fmt: skip
"""Entries beside a packed weight that say nothing of it, by how the name ends."""


@dataclass(frozen=True)
class EncodedTensor(TensorInfo):
    """A tensor that is stored packed; `nbytes` are those of all its entries, `file` and `offset` those of the codes.

    Attributes:
        elements: `INT4` or `FP8`.
        codes: the packed elements.
        scale: what they are multiplied with, [matrices * rows of blocks, columns of blocks] in C order.
        block: rows and columns of a matrix that share a scale.
        stated_shape: the entry that holds the shape, of int4.
    """

    elements: str
    codes: TensorInfo
    scale: TensorInfo
    block: Block
    stated_shape: TensorInfo | None = None

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """The entries of the headers."""
        stated = () if self.stated_shape is None else (self.stated_shape,)
        return (self.codes, self.scale, *stated)

    @property
    def kept_as(self) -> str:
        """The dtype of the weights before they were packed."""
        return self.scale.dtype if self.elements == INT4 else self.dtype

    @property
    def grid(self) -> str | None:
        """The dtype of values that lie on a 4-bit grid by construction; None of others."""
        return self.dtype if self.elements == INT4 else None


@dataclass(frozen=True)
class UnusedTensor(TensorInfo):
    """An entry that belongs to the packing and is left out for `reason`."""

    reason: str


def group_tensors(tensors: Mapping[str, TensorInfo], scheme: Scheme) -> dict[str, TensorInfo]:
    """Headers with every packed weight as the one tensor that it decodes to; other entries stay.

    Args:
        tensors: the headers of all shards; the entries of one weight may lie in different ones.
        scheme: what the config declares.

    Raises:
        MissingTensorError: a packed weight has no scale.
        TensorShapeError: an entry has another shape or dtype than the scheme calls for.
        TensorError: two entries claim the same place.
    """
    encoded = list(_encoded(tensors, scheme))
    used = {part.name for info in encoded for part in info.parts}
    grouped = {name: _leftover(info) for name, info in tensors.items() if name not in used}
    for info in encoded:
        if info.name in grouped:
            raise TensorError(f"{info.name} also stands there unpacked", where=info.file.name)
        grouped[info.name] = info
    return grouped


def _encoded(tensors: Mapping[str, TensorInfo], scheme: Scheme) -> Iterator[EncodedTensor]:
    for name, info in tensors.items():
        if scheme.elements == INT4 and name.endswith(PACKED):
            yield _int4(name.removesuffix(PACKED), tensors)
        elif scheme.elements == FP8 and info.dtype == FP8:
            yield _fp8(info, tensors, scheme)


def _leftover(info: TensorInfo) -> TensorInfo:
    leaf = info.name.rpartition(".")[2]
    reason = next((why for end, why in UNUSED.items() if f"_{leaf}".endswith(f"_{end}")), None)
    if reason is None:
        return info
    return UnusedTensor(info.name, info.dtype, info.shape, info.file, info.offset, info.nbytes, reason)


def _int4(name: str, tensors: Mapping[str, TensorInfo]) -> EncodedTensor:
    codes, stated = tensors[name + PACKED], _entry(name + SHAPE, tensors, name + PACKED)
    scale = _scale_of(name, tensors, codes)
    _check(codes, ("I32",), len(codes.shape) > 1 and codes.shape[-1] * WORD % GROUP == 0, "rows of whole groups of 32")
    shape = (*codes.shape[:-1], codes.shape[-1] * WORD)
    groups = (*shape[:-1], shape[-1] // GROUP)
    _check(scale, SCALE_DTYPES[INT4], scale.shape == groups, f"{list(groups)}, one for each 32 weights")
    _check(stated, ("I64", "I32"), stated.shape == (len(shape),), f"[{len(shape)}]")
    return _tensor(name, "F32", shape, INT4, codes, scale, (1, GROUP), stated)


def _fp8(codes: TensorInfo, tensors: Mapping[str, TensorInfo], scheme: Scheme) -> EncodedTensor:
    scale, shape = _scale_of(codes.name, tensors, codes), codes.shape
    _check(codes, (FP8,), len(shape) > 1 and 0 not in shape, "that of a matrix")
    layouts = _scale_layouts(shape, scheme.blocks)
    allowed = " or ".join(str(list(layout)) for layout in layouts)
    _check(scale, SCALE_DTYPES[FP8], scale.shape in layouts, f"{allowed} for weights {list(shape)}")
    return _tensor(codes.name, "BF16", shape, FP8, codes, scale, layouts[scale.shape])


def _scale_layouts(shape: tuple[int, ...], blocks: tuple[Block, ...]) -> dict[tuple[int, ...], Block]:
    """The shapes that a scale of FP8 weights may have, and the block that shares one: tensor, row, block."""
    *stack, rows, columns = shape
    layouts: dict[tuple[int, ...], Block] = {}
    for height, width in blocks:
        layouts[*stack, -(-rows // height), -(-columns // width)] = (height, width)
    layouts |= {(*stack, rows, 1): (1, columns), (*stack, rows): (1, columns), (*stack, 1, 1): (rows, columns)}
    return layouts if stack else {**layouts, (): (rows, columns), (1,): (rows, columns)}


def _tensor(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    elements: str,
    codes: TensorInfo,
    scale: TensorInfo,
    block: Block,
    stated: TensorInfo | None = None,
) -> EncodedTensor:
    nbytes = codes.nbytes + scale.nbytes + (0 if stated is None else stated.nbytes)
    return EncodedTensor(name, dtype, shape, codes.file, codes.offset, nbytes, elements, codes, scale, block, stated)


def _scale_of(name: str, tensors: Mapping[str, TensorInfo], codes: TensorInfo) -> TensorInfo:
    found = [tensors[name + ending] for ending in SCALES if name + ending in tensors]
    if len(found) > 1:
        raise TensorError(f"{codes.name} has two scales, {found[0].name} and {found[1].name}", where=codes.file.name)
    return found[0] if found else _entry(name + SCALES[0], tensors, codes.name)


def _entry(name: str, tensors: Mapping[str, TensorInfo], packed: str) -> TensorInfo:
    if name not in tensors:
        raise MissingTensorError(
            f"{packed} is packed, and {name} is missing", where=tensors[packed].file.name, fix="download it again"
        )
    return tensors[name]


def _check(info: TensorInfo, dtypes: tuple[str, ...], fits: bool, wanted: str) -> None:
    if info.dtype not in dtypes:
        allowed = ", ".join(dtypes)
        raise TensorShapeError(f"{info.name} has the dtype {info.dtype}, allowed are {allowed}", where=info.file.name)
    if not fits:
        raise TensorShapeError(
            f"{info.name} has the shape {list(info.shape)}, the packing calls for {wanted}", where=info.file.name
        )
