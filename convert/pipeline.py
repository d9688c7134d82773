"""Run a conversion: open, plan, check everything, stream, finish."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ..loaders.checkpoint import CONFIG_FILE, INDEX_FILE
from ..model_cards.card import render
from ..schemas.errors import UsageError
from .card import conversion_card
from .copies import check_copies
from .decoding import open_files
from .document import Json, OutputConfig, output_config
from .executors import make_elsewhere
from .inventory import take_inventory
from .manifest import MANIFEST, conversion_manifest, index, package_version
from .options import DTYPES, Options, check_options, choose_recipe
from .place import check_output
from .plan import ConversionPlan, build_plan, wanted_parts
from .recipe import ROUNDINGS
from .shards import Progress, ShardJob, chunk_limit, make_shard
from .source import CARD, Source, open_source
from .stamps import NO_FILE, Stamps, unchanged
from .survey import find_lattices
from .writer import ShardRecord, WorkFolder, dump

# Two more than cores, for some wait for the disk; each takes some 20 MB.
DEFAULT_WORKERS = min(8, (os.cpu_count() or 1) + 2)
# config.json, index and manifest, at most.
SMALL_FILES = 20_000_000

Measuring = Callable[[str], object]


@dataclass(frozen=True)
class Conversion:
    """A conversion that has been planned; `config` is the output's, `stamps` are those of all files of the source."""

    source: Source
    plan: ConversionPlan
    options: Options
    config: OutputConfig
    stamps: Stamps


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
    check_options(options)
    opened = open_source(source, revision)
    stamps = {path: opened.stamps.get(path, NO_FILE) for path in opened.files}
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
    return Conversion(opened, plan, options, output_config(opened.document, plan), stamps)


def _unheard(_: str) -> None:
    """Nobody is told."""


def hf_to_mlx(
    source: str | Path,
    output: str | Path,
    *,
    options: Options | None = None,
    revision: str | None = None,
    max_memory: int | None = None,
    workers: int = DEFAULT_WORKERS,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a Hugging Face Gemma 4 checkpoint to MLX.

    Args:
        source: a folder, or `org/name` on the Hub.
        output: the folder to make; it appears when it is complete.
        options: what decides the bytes; the default is 4-bit, recipe `auto`.
        revision: a branch, tag or commit on the Hub.
        max_memory: bound on the resident memory of the whole process, in bytes; None is no bound. With an executor it
            holds for each process that makes one shard at a time.
        workers: threads that work on one shard.
        executor: makes the shards, each a job; without one they are made here, one after the other.
        overwrite: replace a checkpoint that stands at `output`.
        progress: called with the number of source bytes just done.

    Raises:
        G4ConvertError: what is wrong; nothing is left at `output`.
    """
    conversion = prepare(source, options or Options(), revision=revision)
    write(
        conversion,
        Path(output),
        max_memory=max_memory,
        workers=workers,
        executor=executor,
        overwrite=overwrite,
        progress=progress,
    )
    return conversion


def write(
    conversion: Conversion,
    output: Path,
    *,
    max_memory: int | None = None,
    workers: int = DEFAULT_WORKERS,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Carry out a planned conversion; the arguments are those of `hf_to_mlx`.

    Raises:
        OutputError: the output cannot be written there.
        ExecutorError: the executor gave up.
        ShardError: the source cannot be read, or was changed since it was planned with.
        TensorError: a weight is not finite, or a tensor that should be a copy differs.
        UsageError: `max_memory` is too small, or there are no workers.
    """
    if workers < 1:
        raise UsageError("at least one is needed", where="--workers")
    if executor is None:
        chunk_limit(max_memory, workers)
    source, plan = conversion.source, conversion.plan
    needed = plan.nbytes + sum(conversion.stamps[path].size for path in source.sidecars.values()) + SMALL_FILES
    check_output(output, source.checkpoint.folder, needed, overwrite=overwrite)
    with unchanged(conversion.stamps), open_files(source.checkpoint.shards) as files:
        check_copies(plan.drops, files)
    with WorkFolder(output, work_key(conversion)) as work:
        with unchanged(conversion.stamps):
            jobs = [ShardJob(shard, work.attempts, conversion.stamps, max_memory, workers) for shard in plan.shards]
            _make_shards(work, jobs, executor, progress or _silent)
            _write_small_files(work, conversion)
        work.finish(_files(conversion), overwrite=overwrite)


def _make_shards(work: WorkFolder, jobs: list[ShardJob], executor: Executor | None, progress: Progress) -> None:
    missing = []
    for job in jobs:
        if work.has(job.shard):
            progress(job.source_bytes)
        else:
            missing.append(job)
    if executor is None:
        for job in missing:
            work.shard_done(job.shard, make_shard(job, progress))
        return

    def done(job: ShardJob, record: ShardRecord) -> None:
        work.shard_done(job.shard, record)
        progress(job.source_bytes)

    make_elsewhere(missing, executor, done)


def _files(conversion: Conversion) -> set[str]:
    """Every file of the output."""
    shards = {shard.file for shard in conversion.plan.shards}
    return {*shards, *conversion.source.sidecars, CONFIG_FILE, INDEX_FILE, MANIFEST, CARD}


def _silent(_: int) -> None:
    """No progress bar."""


def work_key(conversion: Conversion) -> str:
    """Digest of all that decides the bytes: unfinished work under another key cannot be continued."""
    plan = conversion.plan
    shards = [(path.name, asdict(conversion.stamps[path])) for path in conversion.source.checkpoint.shards]
    identity = {
        "version": [package_version(), ROUNDINGS[plan.recipe.rounding]],
        "options": {**asdict(conversion.options), "recipe": asdict(plan.recipe)},
        "packed": conversion.source.document.get("quantization_config"),
        "source": shards,
        "shards": [hashlib.sha256(shard.header).hexdigest() for shard in plan.shards],
        "steps": [(step.name, step.source.name, step.transform.name, step.lattice) for step in plan.steps],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


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
