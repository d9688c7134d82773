"""Run a conversion: open, plan, check everything, stream, finish."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ..loaders.checkpoint import CONFIG_FILE, INDEX_FILE, TensorInfo, pread_exactly
from ..model_cards.card import render
from ..schemas.errors import TensorError, UsageError
from .card import conversion_card
from .chunks import Chunk, Piece, convert, cut, read
from .document import Json, OutputConfig, output_config
from .inventory import Drop, take_inventory
from .lattice import Tally
from .manifest import MANIFEST, RULE, conversion_manifest, index, package_version
from .memory import WAITING, chunk_bytes
from .plan import MODALITIES, ConversionPlan, Shard, build_plan, wanted_parts
from .recipe import AFFINE, NO_QUANTIZATION, SMALL, Recipe, load_recipe, quantization
from .source import CARD, Source, open_source
from .survey import find_lattices
from .writer import ShardFile, ShardRecord, WorkFolder, check_output, dump

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
DEFAULT_RECIPE = "auto"
NO_QUANTIZE = "--no-quantize"
DEFAULT_SHARD_SIZE = 5_000_000_000
# Two threads keep a disk busy; more help where cores are plenty.
DEFAULT_WORKERS = min(4, os.cpu_count() or 1)
# config.json, index and manifest, at most.
SMALL_FILES = 20_000_000

Progress = Callable[[int], None]
Measuring = Callable[[str], object]


@dataclass(frozen=True)
class Options:
    """What a call asks for, as far as it decides the bytes of the output."""

    recipe: str | None = None
    bits: int | None = None
    group_size: int | None = None
    mode: str | None = None
    quantize: bool = True
    dtype: str | None = None
    modalities: Sequence[str] = MODALITIES
    max_shard_size: int = DEFAULT_SHARD_SIZE
    target_size: int | None = None


@dataclass(frozen=True)
class Conversion:
    """A conversion that has been planned; `config` is the output's."""

    source: Source
    plan: ConversionPlan
    options: Options
    config: OutputConfig


def prepare(
    source: str | Path, options: Options, *, revision: str | None = None, measuring: Measuring | None = None
) -> Conversion:
    """Open and validate a source, and plan its conversion; nothing is written.

    Args:
        source: a folder, or `org/name` on the Hub.
        options: what decides the bytes.
        revision: a branch, tag or commit on the Hub.
        measuring: called with what the recipe `small` is measuring, which takes minutes.

    Raises:
        G4ConvertError: what is wrong with the call or the source.
    """
    recipe = choose_recipe(options)
    _check_options(options)
    opened = open_source(source, revision)
    inventory = take_inventory(opened.config, opened.checkpoint.tensors.values(), wanted_parts(options.modalities))
    planned = partial(
        build_plan,
        opened.config,
        inventory,
        dtype=None if options.dtype is None else DTYPES[options.dtype],
        modalities=options.modalities,
        max_shard_size=options.max_shard_size,
        lattices=find_lattices(inventory.matches, recipe),
    )
    if options.target_size is not None:
        from .allocation.fit import fit  # it computes with the model

        recipe = fit(opened, recipe, options.target_size, planned, measuring or _unheard)
    plan = planned(recipe)
    return Conversion(opened, plan, options, output_config(opened.document, plan))


def _unheard(_: str) -> None:
    """Nobody is told."""


def choose_recipe(options: Options) -> Recipe:
    """The recipe that the options name.

    Raises:
        UsageError: the options contradict each other, or name what does not exist.
    """
    wishes = (options.bits, options.group_size, options.mode)
    asked = any(wish is not None for wish in wishes)
    if not options.quantize:
        if asked or options.recipe is not None or options.target_size is not None:
            raise UsageError(
                "it leaves nothing to --bits, --group-size, --mode, --recipe and --target-size", where=NO_QUANTIZE
            )
        return NO_QUANTIZATION
    if (options.recipe == SMALL) != (options.target_size is not None):
        raise UsageError(f"recipe {SMALL} and --target-size need each other", where="--recipe", fix="give both")
    if options.recipe == SMALL and (options.bits, options.mode) != (None, None):
        raise UsageError(
            "it gives every module its own bits", where="--recipe small", fix="leave out --bits and --mode"
        )
    given = quantization(options.mode or AFFINE, options.bits, options.group_size) if asked else None
    return load_recipe(options.recipe or DEFAULT_RECIPE, given)


def _check_options(options: Options) -> None:
    if options.dtype is not None and options.dtype not in DTYPES:
        raise UsageError(f"{options.dtype!r} is not a dtype", where="--dtype", fix=f"choose of {', '.join(DTYPES)}")
    if not options.modalities:
        raise UsageError("names none", where="--modalities", fix=f"choose of {', '.join(MODALITIES)}")
    if unknown := [modality for modality in options.modalities if modality not in MODALITIES]:
        raise UsageError(
            f"{unknown[0]!r} is not a modality", where="--modalities", fix=f"choose of {', '.join(MODALITIES)}"
        )
    if options.max_shard_size <= 0:
        raise UsageError("a shard holds at least one byte", where="--max-shard-size")


def hf_to_mlx(
    source: str | Path,
    output: str | Path,
    *,
    options: Options | None = None,
    revision: str | None = None,
    max_memory: int | None = None,
    workers: int = DEFAULT_WORKERS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a Hugging Face Gemma 4 checkpoint to MLX.

    Args:
        source: a folder, or `org/name` on the Hub.
        output: the folder to make; it appears when it is complete.
        options: what decides the bytes; the default is 4-bit, recipe `auto`.
        revision: a branch, tag or commit on the Hub.
        max_memory: bound on the resident memory of the whole process, in bytes; None is no bound.
        workers: threads.
        overwrite: replace a checkpoint that stands at `output`.
        progress: called with the number of source bytes just done.

    Raises:
        G4ConvertError: what is wrong; nothing is left at `output`.
    """
    conversion = prepare(source, options or Options(), revision=revision)
    write(conversion, Path(output), max_memory=max_memory, workers=workers, overwrite=overwrite, progress=progress)
    return conversion


def write(
    conversion: Conversion,
    output: Path,
    *,
    max_memory: int | None = None,
    workers: int = DEFAULT_WORKERS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Carry out a planned conversion.

    Raises:
        OutputError: the output cannot be written there.
        TensorError: a weight is not finite, or a tensor that should be a copy differs.
        UsageError: `max_memory` is too small, or there are no workers.
    """
    if workers < 1:
        raise UsageError("at least one is needed", where="--workers")
    source, plan = conversion.source, conversion.plan
    needed = plan.nbytes + sum(path.stat().st_size for path in source.sidecars.values()) + SMALL_FILES
    check_output(output, source.checkpoint.folder, needed, overwrite=overwrite)
    limit = chunk_bytes(max_memory, workers)
    with ExitStack() as stack:
        files = {shard: _open(shard, stack) for shard in source.checkpoint.shards}
        _check_copies(plan.drops, files)
        work = stack.enter_context(WorkFolder(output, work_key(conversion)))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        crew = Crew(files, pool, workers + WAITING, limit, progress or _silent)
        for shard in plan.shards:
            _write_shard(work, shard, crew)
        _write_small_files(work, conversion)
        work.finish(_files(conversion), overwrite=overwrite)


def _files(conversion: Conversion) -> set[str]:
    """Every file of the output."""
    shards = {shard.file for shard in conversion.plan.shards}
    return {*shards, *conversion.source.sidecars, CONFIG_FILE, INDEX_FILE, MANIFEST, CARD}


@dataclass(frozen=True)
class Crew:
    """What chunks are worked on with: open source files, threads, and how much they may hold."""

    files: Mapping[Path, int]
    pool: ThreadPoolExecutor
    window: int
    chunk_bytes: int
    progress: Progress


def _silent(_: int) -> None:
    """No progress bar."""


def _open(path: Path, stack: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return descriptor


def work_key(conversion: Conversion) -> str:
    """Digest of all that decides the bytes: unfinished work under another key cannot be continued."""
    plan, checkpoint = conversion.plan, conversion.source.checkpoint
    stats = [(path.name, path.stat()) for path in checkpoint.shards]
    identity = {
        "version": [package_version(), RULE],
        "options": {**asdict(conversion.options), "recipe": asdict(plan.recipe)},
        "packed": conversion.source.document.get("quantization_config"),
        "source": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
        "shards": [hashlib.sha256(shard.header).hexdigest() for shard in plan.shards],
        "steps": [(step.name, step.source.name, step.transform.name, step.lattice) for step in plan.steps],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _check_copies(drops: Iterable[Drop], files: Mapping[Path, int]) -> None:
    """What is dropped as a copy must be one, bit for bit."""
    for drop in drops:
        if drop.copy_of is not None and not _same_bytes(drop.source, drop.copy_of, files):
            raise TensorError(
                f"{drop.source.name} differs from {drop.copy_of.name}, to which the config ties it",
                where=drop.source.file.name,
                fix="set tie_word_embeddings to false in config.json to keep both",
            )


def _same_bytes(one: TensorInfo, other: TensorInfo, files: Mapping[Path, int]) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if one.parts != (one,) or other.parts != (other,):
        pairs = list(zip(one.parts, other.parts, strict=False))
        return len(one.parts) == len(other.parts) and all(_same_bytes(*pair, files) for pair in pairs)
    block = 1 << 20
    for start in range(0, one.nbytes, block):
        count = min(block, one.nbytes - start)
        blocks = (pread_exactly(files[info.file], count, info.offset + start, info.file.name) for info in (one, other))
        if next(blocks) != next(blocks):
            return False
    return True


def _write_shard(work: WorkFolder, shard: Shard, crew: Crew) -> None:
    chunks = [chunk for step in shard.steps for chunk in cut(step, crew.chunk_bytes)]
    if work.has(shard):
        crew.progress(sum(chunk.source_bytes for chunk in chunks))
        return
    tallies: dict[str, Tally] = {}
    with ShardFile(work.path, shard) as file:
        for chunk, pieces in zip(chunks, _in_order(chunks, crew), strict=True):
            for piece in pieces:
                file.put(piece.name, piece.offset, piece.data)
                if piece.tally is not None:
                    tallies[piece.name] = tallies.get(piece.name, Tally()) + piece.tally
            crew.progress(chunk.source_bytes)
        digests = file.sync()
    work.shard_done(shard, ShardRecord(digests, tallies))


def _in_order(chunks: Iterable[Chunk], crew: Crew) -> Iterator[list[Piece]]:
    """Chunks are worked on side by side and handed over in order, at most `window` at a time."""
    pending: deque[Future[list[Piece]]] = deque()
    try:
        for chunk in chunks:
            pending.append(crew.pool.submit(_work, chunk, crew.files))
            if len(pending) == crew.window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _work(chunk: Chunk, files: Mapping[Path, int]) -> list[Piece]:
    return convert(chunk, read(chunk, files))


def _write_small_files(work: WorkFolder, conversion: Conversion) -> None:
    plan = conversion.plan
    sidecars = {name: work.copy_file(name, path) for name, path in conversion.source.sidecars.items()}
    written = {CONFIG_FILE: dump(conversion.config.document), INDEX_FILE: dump(index(plan))}
    for name, data in written.items():
        work.write_file(name, data)
    tallies = {name: tally for record in work.done.values() for name, tally in record.tallies.items()}
    manifest = conversion_manifest(
        conversion.source,
        plan,
        options=_recorded(conversion),
        config=conversion.config,
        digests={name: digest for record in work.done.values() for name, digest in record.digests.items()},
        tallies=tallies,
        sidecars=sidecars,
        written={name: hashlib.sha256(data).hexdigest() for name, data in written.items()},
    )
    work.write_file(MANIFEST, dump(manifest))
    card = conversion_card(conversion.source, plan, conversion.options, tallies.values())
    work.write_file(CARD, render(card).encode())


def _recorded(conversion: Conversion) -> Json:
    default = conversion.plan.recipe.default
    packing = {"bits": None, "group_size": None, "mode": None} if default is None else default.as_dict()
    options = conversion.options
    return {
        "recipe": conversion.plan.recipe.name,
        **packing,
        "dtype": options.dtype,
        "modalities": list(conversion.plan.modalities),
        "max_shard_size": options.max_shard_size,
    }
