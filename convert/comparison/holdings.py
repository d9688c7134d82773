"""What each side holds of every weight, whatever it is called there and however it is packed. Headers only.

Weights are known by the names that the families' tables have for them in an MLX checkpoint. What one side's config does
not call for and the other's does is still the same weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ...loaders.checkpoint import TensorInfo
from ..encodings import EncodedTensor, UnusedTensor
from ..families.names import canonical, mlx_name
from ..families.rules import Dropped, Role, Shape
from ..inventory import Match, Target, catalogue
from ..options import DTYPES
from ..plan import FLOATS, module_path, packed_outputs, plain_step
from ..recipe import Quantization
from ..schemes import Scheme
from ..verification.layout import COMPANIONS, Layout
from ..wording import describe
from .rows import PackedRows, PlainRows, Rows
from .side import Side

FLOAT_NAMES = {dtype: name for name, dtype in DTYPES.items()}
DEFAULT_SCALES = "bfloat16"


@dataclass(frozen=True)
class Holding:
    """A weight, or another tensor, as one side holds it.

    Attributes:
        name: what the side calls it.
        entries: of the headers.
        form: how it is stored, in words; with the shape where it is not read.
        rows: how it is read; None where it is not what the config calls for, or holds no floating-point numbers.
        layout: how its elements are laid out other than in an MLX checkpoint.
        role: what it is to the model.
    """

    name: str
    entries: tuple[TensorInfo, ...]
    form: str
    rows: Rows | None = None
    layout: str | None = None
    role: Role = Role.VECTOR

    @property
    def nbytes(self) -> int:
        """Bytes of all entries; of both halves, where it is half of a tensor."""
        return sum(info.nbytes for info in self.entries)

    @property
    def with_shape(self) -> str:
        """How it is stored, and its shape."""
        return self.form if self.rows is None else f"{self.form} {list(self.rows.shape)}"

    @property
    def is_encoded(self) -> bool:
        """Whether it is packed, other than in MLX's way."""
        return isinstance(self.rows, PlainRows) and isinstance(self.rows.step.source, EncodedTensor)


@dataclass(frozen=True)
class Contents:
    """All tensors of one side; the keys are the same on both.

    Attributes:
        weights: what a config calls for.
        copies: what must be a copy of a weight, whose key stands beside it.
        dead: what is never used, by the reason.
        unknown: what no config calls for.
        required: the keys that this side's own config calls for.
    """

    weights: dict[str, Holding] = field(default_factory=dict)
    copies: dict[str, tuple[Holding, str]] = field(default_factory=dict)
    dead: dict[str, dict[str, Holding]] = field(default_factory=dict)
    unknown: dict[str, Holding] = field(default_factory=dict)
    required: frozenset[str] = frozenset()


def contents(side: Side, other: Side) -> Contents:
    """Sort the tensors of a side.

    Raises:
        ConfigError: its quantization block breaks the schema.
    """
    called_for, others = catalogue(side.config), catalogue(other.config)
    tables = Tables(
        forms={**others.targets, **called_for.targets},
        drops={**others.drops, **called_for.drops},
        layout=Layout(side.config, _by_mlx_name(side)),
        scheme=side.scheme,
    )
    found = Contents(required=frozenset(map(canonical, called_for.required)))
    for name, info in tables.layout.tensors.items():
        tables.sort(name, info, found)
    return found


def _by_mlx_name(side: Side) -> dict[str, TensorInfo]:
    """Tensors by the names that an MLX checkpoint has for them.

    Of two that would have the same, the one that has it already gets it, and the other keeps its own.
    """
    names = {name: mlx_name(canonical(name), text_only=side.config.text_only) for name in side.checkpoint.tensors}
    tensors: dict[str, TensorInfo] = {}
    for name in sorted(names, key=lambda name: names[name] != name):
        info = side.checkpoint.tensors[name]
        tensors[name if names[name] in tensors else names[name]] = info
    return tensors


@dataclass(frozen=True)
class Tables:
    """What is known of a side's tensors.

    Attributes:
        forms: by the tables' name of a tensor, what it may be.
        drops: by the tables' name of a tensor, why it is not used.
        layout: the side's config beside its tensors.
        scheme: how its weights are packed, other than in MLX's way.
    """

    forms: Mapping[str, tuple[Target, ...]]
    drops: Mapping[str, Dropped]
    layout: Layout
    scheme: Scheme | None

    def sort(self, name: str, info: TensorInfo, found: Contents) -> None:
        """Put one tensor where it belongs."""
        key = canonical(name)
        drop = self.drops.get(self._weight_of(key))
        if isinstance(info, UnusedTensor):
            found.dead.setdefault(info.reason, {})[key] = raw(info)
        elif self._is_companion(name, key):
            return
        elif key in self.forms:
            self._sort_weight(name, info, found)
        elif drop is None:
            found.unknown[key] = raw(info)
        elif drop.copy_of is not None and drop.copy_of in self.forms:
            (copy,) = self._holdings(name, info, self.forms[drop.copy_of]).values()
            found.copies[key] = (copy, drop.copy_of)
        else:
            found.dead.setdefault(drop.reason, {})[key] = raw(info)

    def _sort_weight(self, name: str, info: TensorInfo, found: Contents) -> None:
        holdings = self._holdings(name, info, self.forms[canonical(name)])
        if found.weights.keys() & holdings.keys():
            found.unknown[info.name] = raw(info)
        else:
            found.weights.update(holdings)

    def _weight_of(self, key: str) -> str:
        """The weight that scales or biases may belong to; of another tensor itself."""
        module, _, leaf = key.rpartition(".")
        return f"{module}.weight" if leaf in COMPANIONS else key

    def _is_companion(self, name: str, key: str) -> bool:
        """Whether a tensor is the scales or biases of a packed weight that is compared."""
        weight = self._weight_of(key)
        drop = self.drops.get(weight)
        compared = weight in self.forms or (drop is not None and drop.copy_of is not None)
        return weight != key and compared and self.layout.packed(name.rpartition(".")[0])

    def _holdings(self, name: str, info: TensorInfo, targets: Iterable[Target]) -> dict[str, Holding]:
        """One for each weight that a tensor holds, by the weight's key."""
        forms: dict[str, list[Target]] = {}
        for target in targets:
            forms.setdefault(canonical(target.name), []).append(target)
        if info.dtype == "U32":
            return {key: self._packed(module_path(name), of[0]) for key, of in forms.items()}
        return {key: self._plain(info, of) for key, of in forms.items()}

    def _plain(self, info: TensorInfo, targets: list[Target]) -> Holding:
        target = next((target for target in targets if target.source_shape == info.shape), None)
        if target is None or info.dtype not in FLOATS:
            return raw(info)
        step = plain_step(Match(info, target))
        form = FLOAT_NAMES[info.dtype]
        if self.scheme is not None and isinstance(info, EncodedTensor):
            form = self.scheme.name
        return Holding(info.name, info.parts, form, PlainRows(step), step.transform.name, target.role)

    def _packed(self, module: str, target: Target) -> Holding:
        """A weight whose codes are MLX's words."""
        tensors = self.layout.tensors
        entries = tuple(tensors[name] for leaf in ("weight", *COMPANIONS) if (name := f"{module}.{leaf}") in tensors)
        held = Holding(entries[0].name, entries, "", role=target.role)
        packing = self.layout.stated(module)
        if packing is None:
            return replace(held, form=f"packed words {_shapes(entries)}; config.json does not say how")
        if not _fits(packing, target.shape, entries):
            return replace(held, form=f"{describe(packing)}, which does not fit {_shapes(entries)}")
        scales = FLOAT_NAMES.get(entries[1].dtype, DEFAULT_SCALES)
        form = describe(packing) if scales == DEFAULT_SCALES else f"{describe(packing)}, {scales} scales"
        return replace(held, form=form, rows=PackedRows(entries, target.shape, packing))


def raw(info: TensorInfo) -> Holding:
    """A tensor that is compared by its bytes."""
    return Holding(info.name, info.parts, f"{FLOAT_NAMES.get(info.dtype, info.dtype)} {list(info.shape)}")


def _fits(packing: Quantization, shape: Shape, entries: tuple[TensorInfo, ...]) -> bool:
    """Whether codes, scales and biases are what the packing makes of a weight."""
    if len(shape) < 2 or shape[-1] % packing.group_size:
        return False
    outputs = packed_outputs("weight", shape, packing, "float")
    allowed = [FLOATS if out.dtype == "float" else (out.dtype,) for out in outputs]
    if [info.shape for info in entries] != [out.shape for out in outputs]:
        return False
    return all(info.dtype in dtypes for info, dtypes in zip(entries, allowed, strict=True))


def _shapes(entries: Iterable[TensorInfo]) -> str:
    return ", ".join(str(list(info.shape)) for info in entries)
