"""The published E2B's true size, on a sparse file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from g4convert.convert import Options, prepare
from g4convert.loaders.checkpoint import Checkpoint
from g4convert.tests.support import read_json, sparse_e2b


def test_the_dry_run_of_the_published_e2b(tmp_path: Path) -> None:
    source = sparse_e2b(tmp_path / "source")

    plan = prepare(source, Options()).plan

    assert len({step.source.name for step in plan.steps}) + len(plan.drops) == 2011
    assert len(plan.drops) == 60
    assert sum(step.name.endswith(("put_min", "put_max")) for step in plan.steps) == 448 + 480
    assert plan.payload == 3_675_886_534
    assert (source / "model.safetensors").stat().st_size > 10_246_000_000


COMMAND = """
import sys
from g4convert.convert.cli import main
try:
    main()
finally:
    from g4convert.convert.memory import peak_resident
    print(peak_resident(), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["1GB", "400MB"])
def test_a_conversion_of_true_size_stays_within_its_memory(bound: str, tmp_path: Path) -> None:
    source, output = sparse_e2b(tmp_path / "source"), tmp_path / "out"
    planned = prepare(source, Options()).plan

    command = [sys.executable, "-c", COMMAND, "hf-to-mlx", str(source), str(output), "--max-memory", bound, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert int(done.stderr.split()[-1]) <= {"1GB": 10**9, "400MB": 4 * 10**8}[bound]
    (shard,) = Checkpoint.open(output).shards
    assert shard.stat().st_size == planned.nbytes
    assert read_json(output / "model.safetensors.index.json")["metadata"]["total_size"] == planned.payload
    manifest = json.loads((output / "conversion.json").read_text())
    assert len(manifest["dropped"]) == 60
