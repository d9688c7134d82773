"""From headers, config and recipe to everything that will be written. Pure: no tensor bytes are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from ..loaders.checkpoint import DTYPE_BYTES, TensorInfo
from ..loaders.config import ModelConfig
from ..schemas.errors import TensorShapeError
from .families.rules import Half, Role, Shape, Transform, Transpose
from .inventory import Drop, Inventory, Match
from .recipe import AFFINE, AFFINE_GROUPS, SEARCH, Quantization, Recipe, lattice_packing, warn_of_idle_rules

FLOATS = ("BF16", "F16", "F32")
# Pictures and clips share the vision tower.
PART_OF = {"text": "text", "image": "vision", "audio": "audio", "video": "vision"}
MODALITIES = tuple(PART_OF)
# What safetensors' header says about a tensor beside its name, at most: dtype, six dimensions, two offsets.
ENTRY_BYTES = 160


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the output; `kind` is `weight`, `scales` or `biases` where the module is quantized."""

    name: str
    dtype: str
    shape: Shape
    kind: str = "weight"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Step:
    """What one source tensor, or a half of it, turns into.

    The output is made row by row: `rows` rows of `row_length` elements, each from one place of the source. With
    `lattice`, the weight is packed on the 4-bit grid on which it lies; it is the dtype to which the grid was rounded.
    What lies on none is packed by the rule `rounding`.
    """

    source: TensorInfo
    name: str
    part: str
    shape: Shape
    transform: Transform
    quantization: Quantization | None
    outputs: tuple[OutputTensor, ...]
    lattice: str | None = None
    rounding: str = SEARCH

    @property
    def rows(self) -> int:
        """Rows of the output; a transposed tensor is cut along its first axis only."""
        axes = self.shape[:1] if isinstance(self.transform, Transpose) else self.shape[:-1]
        return math.prod(axes)

    @property
    def row_length(self) -> int:
        """Elements of a row."""
        return math.prod(self.shape) // self.rows if self.shape else 1

    @property
    def parameters(self) -> int:
        """Number of weights, as before they were packed."""
        return math.prod(self.shape)

    def source_runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Where rows `start` to `stop` of the output lie in the source: runs of (first row, count)."""
        if not isinstance(self.transform, Half):
            return [(start, stop - start)]
        half = self.shape[1]
        runs = []
        while start < stop:
            matrix, row = divmod(start, half)
            count = min(half - row, stop - start)
            runs.append(((2 * matrix + self.transform.index) * half + row, count))
            start += count
        return runs


@dataclass(frozen=True)
class Shard:
    """One file of the output: its header, and every tensor's offset from the start of the file."""

    file: str
    header: bytes = field(repr=False)
    steps: tuple[Step, ...] = field(repr=False)
    offsets: Mapping[str, int] = field(repr=False)
    nbytes: int


@dataclass(frozen=True)
class ConversionPlan:
    """Everything that a conversion will write, drop and leave as it is."""

    config: ModelConfig
    recipe: Recipe
    modalities: tuple[str, ...]
    steps: tuple[Step, ...] = field(repr=False)
    shards: tuple[Shard, ...]
    drops: tuple[Drop, ...] = field(repr=False)
    unquantized: Mapping[str, str] = field(repr=False)

    @cached_property
    def outputs(self) -> tuple[OutputTensor, ...]:
        """Every tensor of the output, by name."""
        return tuple(sorted((out for step in self.steps for out in step.outputs), key=lambda out: out.name))

    @property
    def payload(self) -> int:
        """Bytes of tensor data: the `total_size` of the index."""
        return sum(out.nbytes for out in self.outputs)

    @property
    def nbytes(self) -> int:
        """Bytes of all shards, headers included."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def parameters(self) -> int:
        """Weights in the output, as before they were packed."""
        return sum(step.parameters for step in self.steps)

    @property
    def quantized(self) -> Mapping[str, Quantization]:
        """The packing of every quantized module, by its path."""
        return {module_path(step.name): step.quantization for step in self.steps if step.quantization is not None}

    @property
    def packings(self) -> Mapping[str, tuple[Quantization, bool]]:
        """As `quantized`, and whether the module is packed on a 4-bit grid."""
        return {module: (packing, module in self.lattices) for module, packing in self.quantized.items()}

    @property
    def dropped(self) -> Mapping[str, str]:
        """The reason of every entry of the source's headers that is left out."""
        return {part.name: drop.reason for drop in self.drops for part in drop.source.parts}

    @cached_property
    def lattices(self) -> Mapping[str, str]:
        """The modules that are packed on a 4-bit grid, by the dtype to which it was rounded."""
        return {module_path(step.name): step.lattice for step in self.steps if step.lattice is not None}

    @cached_property
    def bare(self) -> frozenset[str]:
        """Parameters that are no module's `weight`, so no loader asks how they are packed."""
        return frozenset(step.name for step in self.steps if not step.name.endswith(".weight"))


def module_path(name: str) -> str:
    """The module that a weight belongs to, as MLX loaders spell it."""
    return name.removesuffix(".weight")


def inside_layer(name: str) -> str:
    """The name of a module or of its weight, without what differs from layer to layer."""
    path = module_path(name).split(".")
    place = next((index for index, part in enumerate(path) if part.isdigit()), None)
    return ".".join(path[-1:] if place is None else path[place + 1 :])


def wanted_parts(modalities: Iterable[str]) -> frozenset[str]:
    """The parts of a checkpoint that the modalities need; text always stays."""
    return frozenset({"text", *(PART_OF[modality] for modality in modalities)})


def kept_modalities(config: ModelConfig, wanted: Iterable[str]) -> tuple[str, ...]:
    """Of the modalities that are wanted, those that the checkpoint has; text always stays."""
    has = {"text": True, "vision": config.vision is not None, "audio": config.audio is not None}
    asked = {"text", *wanted}
    return tuple(modality for modality, part in PART_OF.items() if modality in asked and has[part])


def build_plan(
    config: ModelConfig,
    inventory: Inventory,
    recipe: Recipe,
    *,
    dtype: str | None,
    modalities: Sequence[str],
    max_shard_size: int,
    lattices: Mapping[str, str] = MappingProxyType({}),
) -> ConversionPlan:
    """Decide every output tensor and its place.

    Args:
        config: the source's config.
        inventory: what becomes of every source tensor.
        recipe: how many bits each module gets.
        dtype: `BF16`, `F16` or `F32` for what stays unpacked and for scales; None keeps the source's.
        modalities: of `MODALITIES`.
        max_shard_size: bytes that a shard may hold, unless one module alone is larger.
        lattices: modules that lie on a 4-bit grid, by the dtype to which it was rounded.

    Raises:
        TensorShapeError: a source tensor is not of a floating dtype.
    """
    targets = [match.target for match in inventory.matches]
    warn_of_idle_rules(recipe, [module_path(target.name) for target in targets if target.role.quantizable])
    steps, unquantized = [], {}
    for match in inventory.matches:
        _check_dtype(match.source)
        module = module_path(match.target.name)
        packing, reason = choose_packing(match, recipe)
        if reason is not None:
            unquantized[module] = reason
        steps.append(replace(_step(match, packing, lattices.get(module), dtype), rounding=recipe.rounding))
    return ConversionPlan(
        config=config,
        recipe=recipe,
        modalities=kept_modalities(config, modalities),
        steps=tuple(steps),
        shards=lay_out(steps, max_shard_size),
        drops=inventory.drops,
        unquantized=unquantized,
    )


def _check_dtype(info: TensorInfo) -> None:
    if info.dtype not in FLOATS:
        raise TensorShapeError(
            f"{info.name} has the dtype {info.dtype}, allowed are {', '.join(FLOATS)}", where=info.file.name
        )


def choose_packing(match: Match, recipe: Recipe) -> tuple[Quantization | None, str | None]:
    """How a tensor is packed, and why it is not where a matrix stays as it is."""
    target = match.target
    if recipe.default is None or target.role in (Role.VECTOR, Role.CLIP_BOUND):
        return None, None
    if not target.role.quantizable:
        return None, target.role.value
    wanted = recipe.choose(module_path(target.name), target.role)
    if wanted is None:
        return None, f"recipe {recipe.name} leaves it in the source's precision"
    fitting = fit_group(wanted, target.shape[-1])
    if fitting is None:
        groups = AFFINE_GROUPS if wanted.mode == AFFINE else (wanted.group_size,)
        return None, f"{target.shape[-1]} is not divisible by any group ({', '.join(map(str, groups))})"
    return fitting, None


def fit_group(wanted: Quantization, columns: int) -> Quantization | None:
    """The wanted packing, with the largest smaller group where its own does not divide the row."""
    groups: tuple[int, ...] = (wanted.group_size,)
    if wanted.mode == AFFINE:
        groups = tuple(group for group in sorted(AFFINE_GROUPS, reverse=True) if group <= wanted.group_size)
    group = next((group for group in groups if columns % group == 0), None)
    return None if group is None else Quantization(wanted.bits, group, wanted.mode)


def plain_step(match: Match) -> Step:
    """The step that leaves a tensor as it is."""
    return _step(match, None, None, None)


def _step(match: Match, wanted: Quantization | None, lattice: str | None, dtype: str | None) -> Step:
    source, target = match.source, match.target
    on_lattice = None if wanted is None or lattice is None else lattice_packing(target.role, wanted)
    packing = on_lattice or wanted
    stored = source.kept_as if dtype is None or target.role is Role.CLIP_BOUND else dtype
    if packing is None:
        outputs: tuple[OutputTensor, ...] = (OutputTensor(target.name, stored, target.shape),)
    else:
        outputs = packed_outputs(target.name, target.shape, packing, stored)
    kept = None if on_lattice is None else lattice
    return Step(source, target.name, target.part, target.shape, target.transform, packing, outputs, kept)


def packed_outputs(name: str, shape: Shape, packing: Quantization, stored: str) -> tuple[OutputTensor, ...]:
    """The tensors of a packed weight; `stored` is the dtype of scales and biases in affine mode."""
    *rows, columns = shape
    module = module_path(name)
    weight = OutputTensor(name, "U32", (*rows, columns * packing.bits // 32))
    groups = (*rows, columns // packing.group_size)
    if packing.mode != AFFINE:
        return weight, OutputTensor(f"{module}.scales", "U8", groups, "scales")
    scales = OutputTensor(f"{module}.scales", stored, groups, "scales")
    return weight, scales, OutputTensor(f"{module}.biases", stored, groups, "biases")


def lay_out(steps: Iterable[Step], max_shard_size: int) -> tuple[Shard, ...]:
    """Fill shards in the order of the names; what belongs to one module stays in one shard."""
    bins: list[list[Step]] = [[]]
    filled = 0
    for step in steps:
        size = sum(out.nbytes + len(out.name) + ENTRY_BYTES for out in step.outputs)
        if bins[-1] and filled + size > max_shard_size:
            bins.append([])
            filled = 0
        bins[-1].append(step)
        filled += size
    if len(bins) == 1:
        return (_shard("model.safetensors", bins[0]),)
    return tuple(
        _shard(f"model-{number:05d}-of-{len(bins):05d}.safetensors", content) for number, content in enumerate(bins, 1)
    )


def _shard(file: str, steps: Sequence[Step]) -> Shard:
    """Wide elements first, as safetensors' own writer does, so that every tensor is aligned."""
    outputs = [out for step in steps for out in step.outputs]
    outputs.sort(key=lambda out: (-DTYPE_BYTES[out.dtype], out.name))
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    position, begins = 0, {}
    for out in outputs:
        begins[out.name] = position
        span = [position, position := position + out.nbytes]
        header[out.name] = {"dtype": out.dtype, "shape": list(out.shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    blob = len(text).to_bytes(8, "little") + text
    offsets = {name: len(blob) + begin for name, begin in begins.items()}
    return Shard(file, blob, tuple(steps), offsets, len(blob) + position)
