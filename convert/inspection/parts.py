"""What a checkpoint consists of: parameters, bytes and bits of every part, and what its config calls for beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ...loaders.checkpoint import TensorInfo
from ...loaders.config import ModelConfig, TextConfig
from ...loaders.footprint import Weight, Weights
from ..encodings import EncodedTensor, UnusedTensor
from ..families.names import canonical
from ..families.rules import Role
from ..inventory import part_of
from ..options import DTYPES
from ..plan import ConversionPlan, Step, module_path
from ..recipe import AFFINE, Quantization
from .subject import Subject

EMBEDDING, PER_LAYER, DECODER, EXPERTS, HEAD = "embedding", "per-layer embeddings", "decoder", "experts", "output head"
VISION, AUDIO, PROJECTORS, UNUSED = "vision", "audio", "projectors", "not used"
ORDER = (EMBEDDING, PER_LAYER, DECODER, EXPERTS, HEAD, VISION, AUDIO, PROJECTORS, UNUSED)
"""Parts in the order in which they are shown; the last are tensors that no runtime has a place for."""
TEXT = (EMBEDDING, PER_LAYER, DECODER, EXPERTS, HEAD)

# The first that a name holds decides; the language model's layers hold none.
MARKS = (
    ("embed_tokens_per_layer", PER_LAYER),
    ("embed_tokens", EMBEDDING),
    (".experts.", EXPERTS),
    ("lm_head.", HEAD),
    ("vision_tower.", VISION),
    ("vision_embedder.", VISION),
    ("audio_tower.", AUDIO),
    ("embed_vision.", PROJECTORS),
    ("embed_audio.", PROJECTORS),
)
FLOAT_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class Part:
    """One part of a checkpoint.

    Attributes:
        name: of `ORDER`.
        parameters: as before they were packed.
        nbytes: as stored.
        formats: parameters by how they are stored.
    """

    name: str
    parameters: int = 0
    nbytes: int = 0
    formats: Counter[str] = field(default_factory=Counter)

    def add(self, parameters: int, nbytes: int, form: str | None) -> None:
        """Count a tensor; scales and biases have no parameters of their own."""
        self.parameters += parameters
        self.nbytes += nbytes
        if form is not None:
            self.formats[form] += parameters


def part_named(name: str) -> str:
    """The part of a tensor, by its name in any checkpoint."""
    return next((part for mark, part in MARKS if mark in canonical(name)), DECODER)


def short(packing: Quantization) -> str:
    """A packing in a word or two."""
    return f"{packing.bits}-bit g{packing.group_size}" if packing.mode == AFFINE else packing.mode


def stored_parts(subject: Subject) -> tuple[Part, ...]:
    """The parts of a checkpoint as it is."""
    parts: dict[str, Part] = {}
    for name, info in subject.tensors.items():
        part, form, parameters = _counted(subject, name, info)
        parts.setdefault(part, Part(part)).add(parameters, info.nbytes, form)
    return _ordered(parts)


def _counted(subject: Subject, name: str, info: TensorInfo) -> tuple[str, str | None, int]:
    """Where a tensor is counted, how it is stored, and how many parameters it has."""
    layout = subject.layout
    module = module_path(name)
    if layout.is_companion(name) and layout.packed(name.rpartition(".")[0]):
        return part_named(name), None, 0
    if name not in layout.targets and canonical(name) not in layout.catalogue.targets:
        return UNUSED, FLOAT_NAMES.get(info.dtype, info.dtype), 0 if isinstance(info, UnusedTensor) else info.size
    packing = layout.stated(module) if info.dtype == "U32" else None
    if packing is not None:
        return part_named(name), short(packing), math.prod(layout.targets[name].shape)
    form = subject.scheme.name if subject.scheme and isinstance(info, EncodedTensor) else info.dtype
    return part_named(name), FLOAT_NAMES.get(form, form), info.size


def planned_parts(plan: ConversionPlan) -> tuple[Part, ...]:
    """The parts of what a conversion will write."""
    parts: dict[str, Part] = {}
    for step in plan.steps:
        part = part_named(step.name)
        form = step.outputs[0].dtype if step.quantization is None else short(step.quantization)
        nbytes = sum(out.nbytes for out in step.outputs)
        parts.setdefault(part, Part(part)).add(step.parameters, nbytes, FLOAT_NAMES.get(form, form))
    return _ordered(parts)


def _ordered(parts: Mapping[str, Part]) -> tuple[Part, ...]:
    return tuple(parts[name] for name in ORDER if name in parts)


def active_parameters(config: TextConfig, parts: Iterable[Part]) -> int | None:
    """Parameters of the language model that a token is computed with; None where it is all of them."""
    if not config.enable_moe_block:
        return None
    counts = {part.name: part.parameters for part in parts if part.name in TEXT}
    return sum(counts.values()) - counts[EXPERTS] + counts[EXPERTS] * config.top_k_experts // config.num_experts


def planned_weights(plan: ConversionPlan) -> Weights:
    """What the memory of a planned conversion follows from."""
    return {_key(step.name): _planned_weight(step) for step in plan.steps}


def _planned_weight(step: Step) -> Weight:
    nbytes = sum(out.nbytes for out in step.outputs)
    scales = nbytes - step.outputs[0].nbytes
    return _weight(step.shape, nbytes, scales, step.quantization, exact=step.name.endswith(("_min", "_max")))


def _key(name: str) -> str:
    return canonical(module_path(name) + ".").removesuffix(".")


def _weight(shape: tuple[int, ...], nbytes: int, scales: int, packing: Quantization | None, *, exact: bool) -> Weight:
    if packing is None:
        return Weight(shape, nbytes, exact=exact)
    return Weight(shape, nbytes, packing.bits, packing.group_size, scales)


def stored_weights(subject: Subject) -> Weights:
    """What the memory of a converted checkpoint follows from.

    Raises:
        ConfigError: its quantization block breaks the schema.
    """
    return dict(_stored_weights(subject))


def _stored_weights(subject: Subject) -> Iterator[tuple[str, Weight]]:
    layout = subject.layout
    for name, target in layout.targets.items():
        info = layout.tensors.get(name)
        if info is None:
            continue
        module = module_path(name)
        packing = layout.stated(module) if info.dtype == "U32" else None
        beside = (f"{module}.{leaf}" for leaf in ("scales", "biases"))
        scales = sum(layout.tensors[one].nbytes for one in beside if one in layout.tensors)
        exact = target.role is Role.CLIP_BOUND
        yield _key(name), _weight(target.shape, info.nbytes + scales, scales, packing, exact=exact)


def absent(subject: Subject) -> Mapping[str, int]:
    """How many tensors the config calls for that are not there, by the part of the family's tables."""
    layout = subject.layout
    held = {layout.targets[name].name for name in layout.tensors if name in layout.targets}
    for name in layout.tensors:
        held.update(target.name for target in layout.catalogue.targets.get(canonical(name), ()))
    return Counter(layout.targets[name].part for name in layout.catalogue.required if name not in held)


def undeclared(config: ModelConfig, tensors: Iterable[str]) -> Mapping[str, int]:
    """How many tensors there are of a part that the config does not declare."""
    parts = Counter(part_of(canonical(name), config.family) for name in tensors)
    return {part: parts[part] for part in ("vision", "audio") if parts[part] and getattr(config, part) is None}
