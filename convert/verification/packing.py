"""Does the quantization block say of every module how it is packed?

Bits and group size cannot be told from the shapes of a packed weight and its scales alone: 4 bits in groups of 64 look
as 8 bits in groups of 32 do. The number of columns comes from the config, so here they can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..families.rules import Role
from ..plan import FLOATS, OutputTensor, packed_outputs
from ..recipe import ROUTER_FLOOR, Quantization
from .checking import Notes
from .layout import COMPANIONS, Layout, is_quantizable
from .listing import few
from .outcome import Finding
from .subject import Subject

BLOCK = "$.quantization in config.json"


def quantization(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Every entry names a module, and every module is packed as the block says."""
    layout = subject.layout
    yield from few(_strangers(layout))
    yield from few(finding for module in sorted(layout.modules) for finding in _module(module, layout))
    yield from few(_coarse_routers(layout))
    used = Counter(layout.stated(module) for module in layout.modules if layout.packed(module))
    notes.figures["modules"] = {_words(packing): count for packing, count in used.most_common() if packing is not None}


def _words(packing: Quantization) -> str:
    return f"{packing.mode}, {packing.bits} bits in groups of {packing.group_size}"


def _strangers(layout: Layout) -> Iterator[Finding]:
    """Entries that a loader would stumble over, or overlook."""
    for path, packing in sorted(layout.packings.entries.items()):
        if path not in layout.modules:
            yield Finding(f"{BLOCK} names {path}, which is no module of the model", path)
        elif packing is not None and not is_quantizable(layout.modules[path]):
            yield Finding(f"{BLOCK} packs a module that no loader can have packed", path)


def _module(module: str, layout: Layout) -> Iterator[Finding]:
    packing, weight = layout.stated(module), layout.tensors.get(f"{module}.weight")
    if weight is None:
        return
    if not layout.packed(module):
        yield from _plain(module, packing, weight.dtype, layout)
    elif packing is None:
        yield Finding(f"the weight is packed, and {BLOCK} does not say how", module)
    else:
        yield from _shapes(module, packing, layout)


def _plain(module: str, packing: Quantization | None, dtype: str, layout: Layout) -> Iterator[Finding]:
    if packing is not None:
        yield Finding(f"{BLOCK} says {_words(packing)}, and the weight is {dtype}", module)
    elif scales := [f"{module}.{leaf}" for leaf in COMPANIONS if f"{module}.{leaf}" in layout.tensors]:
        yield Finding(f"the tensor belongs to a packed weight, and {module}.weight is {dtype}", scales[0])


def _shapes(module: str, packing: Quantization, layout: Layout) -> Iterator[Finding]:
    """The weight, scales and biases of a packed module have the shapes that bits and group size give."""
    target = layout.modules[module]
    if target.shape[-1] % packing.group_size:
        yield Finding(f"{target.shape[-1]} columns do not divide into groups of {packing.group_size}", module)
        return
    outputs = packed_outputs(target.name, target.shape, packing, "float")
    for output in outputs:
        yield from _shape(output, packing, target.shape, layout)
    for leaf in COMPANIONS:
        name = f"{module}.{leaf}"
        if name in layout.tensors and name not in {output.name for output in outputs}:
            yield Finding(f"{packing.mode} has no {leaf}", name)


def _shape(output: OutputTensor, packing: Quantization, shape: tuple[int, ...], layout: Layout) -> Iterator[Finding]:
    info = layout.tensors.get(output.name)
    if info is None:
        yield Finding(f"the tensor is missing: {_words(packing)} needs it", output.name)
        return
    if info.shape != output.shape:
        what = f"the shape is {list(info.shape)}, {_words(packing)} of {list(shape)} calls for {list(output.shape)}"
        yield Finding(what, output.name)
    allowed = FLOATS if output.dtype == "float" else (output.dtype,)
    if info.dtype not in allowed:
        yield Finding(f"the dtype is {info.dtype}, {packing.mode} calls for {' or '.join(allowed)}", output.name)


def _coarse_routers(layout: Layout) -> Iterator[Finding]:
    """A router at 4 bits sends one token in seven to other experts."""
    for module, target in sorted(layout.modules.items()):
        packing = layout.stated(module) if layout.packed(module) else None
        if target.role is Role.ROUTER and packing is not None and not packing.covers(ROUTER_FLOOR):
            yield Finding(f"the router has {packing.bits} bits ({packing.mode}), it needs at least 8", module)
