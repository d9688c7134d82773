"""Does every tensor hold what the source gives? Derived again and compared, a chunk of rows at a time.

What our manifest records is compared bit for bit. Where another tool, or another version of our rounding rule, packed a
weight, its rows are unpacked and must be as near to the source as rounding leaves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ...loaders.checkpoint import BLOCK, DTYPE_BYTES, TensorInfo, pread_exactly
from ..chunks import Chunk, Piece, convert, cut, read
from ..families.names import canonical
from ..inventory import Match, take_inventory
from ..lattice import Tally
from ..manifest import MANIFEST, recorded_tallies
from ..pipeline import DEFAULT_WORKERS
from ..plan import FLOATS, PART_OF, OutputTensor, Step, module_path, packed_outputs, wanted_parts
from ..quantize import Floats
from ..recipe import ROUNDINGS, Quantization
from ..rows import packed_rows
from ..source import Source
from .checking import Notes
from .deviation import decode, deviation, squares
from .layout import Layout
from .listing import few, missing_tensors
from .origin import source_of
from .outcome import Finding
from .reading import Descriptors, open_shards, row_name
from .subject import Subject

Tensors = Mapping[str, TensorInfo]


def against_source(subject: Subject, notes: Notes) -> Iterator[Finding]:
    """Every tensor is derived again from the source, and compared."""
    source, tensors = source_of(subject), subject.layout.tensors
    expected = _expected(source, subject)
    missing = [name for name in expected.names if name not in tensors]
    unlike = [finding for step in expected.steps for finding in _unlike(step, tensors)]
    yield from few([*missing_tensors(missing, expected.names, "the source gives"), *unlike])
    comparable = [step for step in expected.steps if _is_comparable(step, tensors)]
    with open_shards([*source.checkpoint.shards, *subject.checkpoint.shards]) as files:
        replays = [Replay(step, tensors, files, exact=expected.exact) for step in comparable]
        results = list(_run_all(replays, notes))
    yield from few(finding for result in results for finding in result.findings())
    yield from few(_counted_otherwise(results, expected.tallies))
    notes.figures.update(
        tensors=len(results),
        bytes_read=sum(result.nbytes for result in results),
        bit_for_bit=expected.exact,
        relative_error={result.step.name: result.relative_error for result in results if result.step.quantization},
    )


# -- what to compare ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What the source should have become.

    Attributes:
        steps: what gives the tensors.
        names: of all tensors, those included that no step can be made for.
        exact: whether packed bytes must be ours; if not, they must be near the source.
        tallies: how much of a weight lies on its 4-bit grid, as recorded.
    """

    steps: tuple[Step, ...]
    names: tuple[str, ...]
    exact: bool
    tallies: Mapping[str, Tally] = field(default_factory=dict)


def _expected(source: Source, subject: Subject) -> Expected:
    derived = subject.derived
    if derived is not None and subject.manifest is not None:
        exact = subject.manifest["generator"]["rule"] in ROUNDINGS.values()
        names = tuple(out.name for out in derived.plan.outputs)
        return Expected(derived.plan.steps, names, exact, recorded_tallies(subject.manifest) if exact else {})
    layout = subject.layout
    inventory = take_inventory(source.config, source.checkpoint.tensors.values(), wanted_parts(PART_OF))
    named = {canonical(name): info for name, info in layout.tensors.items()}
    found = [(match, named.get(canonical(match.target.name))) for match in inventory.matches]
    steps = tuple(_observed_step(match, info, layout) for match, info in found if info is not None)
    lost = [match.target.name for match, info in found if info is None]
    return Expected(steps, (*lost, *(out.name for step in steps for out in step.outputs)), exact=False)


def _unlike(step: Step, tensors: Tensors) -> Iterator[Finding]:
    """Tensors that cannot be compared, since they are of another shape or dtype."""
    for out in step.outputs:
        info = tensors.get(out.name)
        if info is not None and (info.dtype, info.shape) != (out.dtype, out.shape):
            what = f"is {info.dtype} {list(info.shape)}, the source gives {out.dtype} {list(out.shape)}"
            yield Finding(what, out.name)


def _counted_otherwise(results: Iterable[Replay], recorded: Mapping[str, Tally]) -> Iterator[Finding]:
    """Weights of which more or less lies on the 4-bit grid than the manifest says."""
    for result in results:
        said = recorded.get(result.step.name)
        if said is not None and said != result.tally:
            found = f"{result.tally.exact} of {result.tally.groups} groups are exactly on its 4-bit grid"
            yield Finding(f"{found}, {MANIFEST} says {said.exact} of {said.groups}", result.step.name)


def _is_comparable(step: Step, tensors: Tensors) -> bool:
    return all(out.name in tensors for out in step.outputs) and not any(_unlike(step, tensors))


def _observed_step(match: Match, info: TensorInfo, layout: Layout) -> Step:
    """The step that packs a source tensor as another tool's checkpoint says."""
    target, module = match.target, module_path(info.name)
    packing = layout.stated(module) if layout.packed(module) else None
    if packing is None:
        dtype = info.dtype if info.dtype in FLOATS else match.source.kept_as
        outputs: tuple[OutputTensor, ...] = (OutputTensor(info.name, dtype, target.shape),)
    else:
        scales = layout.tensors.get(f"{module}.scales")
        outputs = packed_outputs(info.name, target.shape, packing, "BF16" if scales is None else scales.dtype)
    return Step(match.source, info.name, target.part, target.shape, target.transform, packing, outputs)


# -- the comparison ----------------------------------------------------------------------------------------------------


def _run_all(replays: Sequence[Replay], notes: Notes) -> Iterator[Replay]:
    """Several at a time; each holds a block of rows."""
    with ThreadPoolExecutor(DEFAULT_WORKERS) as pool:
        for replay in pool.map(Replay.run, replays):
            notes.at(replay.step.name)
            yield replay


@dataclass
class Replay:
    """One step, carried out again and compared.

    Attributes:
        step: what gives the tensors.
        tensors: the headers of what is verified.
        files: of the source and of what is verified.
        exact: whether packed bytes must be ours; if not, they must be near the source.
        tally: how much lies on a 4-bit grid.
        unequal: rows that differ and the first of them, by tensor.
        wrong: groups that rounding does not explain.
        worst: of those, how many times too far its worst weight is, its row, and its place in the row.
        error, total: squared differences of the packed rows from the source, and squares of the source.
    """

    step: Step
    tensors: Tensors
    files: Descriptors
    exact: bool
    tally: Tally = field(default_factory=Tally)
    unequal: dict[str, tuple[int, int]] = field(default_factory=dict)
    wrong: int = 0
    worst: tuple[float, int, int] = (0.0, 0, 0)
    error: float = 0.0
    total: float = 0.0

    def run(self) -> Replay:
        """Compare all rows."""
        packing = self.step.quantization
        for chunk in cut(self.step, BLOCK):
            stored = read(chunk, self.files)
            if self.exact or packing is None:
                for piece in convert(chunk, stored):
                    self._compare(piece)
                    self.tally += piece.tally or Tally()
            if packing is not None:
                (plain,) = convert(replace(chunk, step=_plain(self.step)), stored)
                self._measure(chunk, np.frombuffer(plain.data, np.float32).reshape(-1, self.step.row_length), packing)
        return self

    @property
    def nbytes(self) -> int:
        """Bytes that are read: of the source, and of what is verified."""
        read_again = sum(out.nbytes for out in self.step.outputs)
        return self.step.parameters * DTYPE_BYTES[self.step.source.dtype] + read_again

    @property
    def relative_error(self) -> float | None:
        """Root of the squared error over the squared weights; None where it is no number."""
        ratio = self.error / self.total if self.total else np.inf
        return float(np.sqrt(ratio)) if np.isfinite(ratio) else None

    def findings(self) -> Iterator[Finding]:
        """What is wrong with the tensors of the step, one finding for each."""
        for name, (count, first) in self.unequal.items():
            place = f"{count} of {self.step.rows} rows, the first is {row_name(self.step.shape, first)}"
            yield Finding(f"differs from what the source gives in {place}", name)
        if self.wrong and not self.exact:
            excess, row, group = self.worst
            place = f"{row_name(self.step.shape, row)}, group {group}, {excess:.3g} times as far"
            what = f"groups that are further from the source than rounding explains: {self.wrong}, the worst {place}"
            yield Finding(what, self.step.name)

    def _compare(self, piece: Piece) -> None:
        """Note the rows whose bytes are not those that the source gives."""
        info = self.tensors[piece.name]
        found = pread_exactly(self.files[info.file], len(piece.data), info.offset + piece.offset, info.file.name)
        if found != piece.data:
            row_bytes = info.nbytes // self.step.rows
            pair = (np.frombuffer(data, np.uint8).reshape(-1, row_bytes) for data in (found, piece.data))
            rows = np.flatnonzero(np.not_equal(*pair).any(1))
            count, first = self.unequal.get(piece.name, (0, int(rows[0]) + piece.offset // row_bytes))
            self.unequal[piece.name] = (count + len(rows), first)

    def _measure(self, chunk: Chunk, weights: Floats, spec: Quantization) -> None:
        """Add up how far the packed rows are from the source and, if they need not be ours, whether that is too far."""
        infos = [self.tensors[out.name] for out in self.step.outputs]
        packed = packed_rows(infos, self.step.rows, chunk.start, chunk.stop, self.files)
        decoded = decode(packed, spec)
        self.error, self.total = self.error + squares(decoded - weights), self.total + squares(weights)
        if self.exact:
            return
        found = deviation(weights, decoded, packed, spec)
        if found.wrong.any():
            self.wrong += int(found.wrong.sum())
            excess = np.where(found.wrong, np.nan_to_num(found.excess, nan=np.inf), 0)
            row, group = np.unravel_index(int(excess.argmax()), excess.shape)
            self.worst = max(self.worst, (float(excess.max()), chunk.start + int(row), int(group)))


def _plain(step: Step) -> Step:
    """The step that gives the same rows as float32."""
    return replace(step, quantization=None, lattice=None, outputs=(OutputTensor(step.name, "F32", step.shape),))
