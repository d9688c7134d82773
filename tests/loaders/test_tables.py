"""The table of per-layer embeddings on the CPU: its rows are the loaded table's, and the table is never in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from g4convert.loaders import loading
from g4convert.loaders.checkpoint import Checkpoint
from g4convert.loaders.linear import Embedding, PackedEmbedding
from g4convert.loaders.loading import LoadedModel, load
from g4convert.loaders.tables import MappedTable
from g4convert.tests.loaders.samples import VOCABULARY, moe_block, multimodal, text_only, write_checkpoint

PATH = "model.embed_tokens_per_layer"
AFFINE = {"group_size": 32, "bits": 4}
PACKINGS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "4 bits": AFFINE,
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
}
IDS = mx.array([[7, 0, 7, VOCABULARY - 1], [1, 2, 3, 4]])


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    yield
    mx.set_default_device(before)


@pytest.fixture(params=PACKINGS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    packing = PACKINGS[request.param]
    quantization = None if packing is None else {**AFFINE, PATH: packing}
    return write_checkpoint(tmp_path / "model", text_only(), quantization=quantization, dtype=mx.bfloat16)


def table_of(model: LoadedModel) -> Any:
    return model.text.model.embed_tokens_per_layer


def in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    with monkeypatch.context() as patch:
        patch.setattr(loading, "map_table", lambda *_: None)
        return load(folder)


def test_its_rows_are_those_of_the_loaded_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, loaded = load(folder), in_memory(folder, monkeypatch)

    assert isinstance(table_of(mapped), MappedTable)
    assert isinstance(table_of(loaded), Embedding | PackedEmbedding)
    assert mx.array_equal(table_of(mapped)(IDS), table_of(loaded)(IDS))
    assert mx.array_equal(mapped.text(IDS), loaded.text(IDS))


def test_it_is_no_parameter(folder: Path) -> None:
    assert not table_of(load(folder)).parameters()


def test_what_replaces_the_file_is_not_read(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    before = table_of(model)(IDS)
    other = write_checkpoint(tmp_path / "other", text_only(), dtype=mx.bfloat16, seed=1)

    (other / "model.safetensors").replace(folder / "model.safetensors")

    assert mx.array_equal(table_of(model)(IDS), before)


def test_an_id_beyond_the_table_is_an_error(folder: Path) -> None:
    with pytest.raises(IndexError):
        table_of(load(folder))(mx.array([[VOCABULARY]]))


def test_a_multimodal_checkpoint_spells_its_name_otherwise(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", multimodal())
    name = f"language_model.{PATH}.weight"
    (row,) = table_of(load(folder))(mx.array([5]))

    stored: Any = mx.load(str(Checkpoint.open(folder).tensors[name].file))

    assert mx.array_equal(row, stored[name][5])


def test_a_model_without_one_has_none(tmp_path: Path) -> None:
    model = load(write_checkpoint(tmp_path / "model", multimodal(moe_block(), audio_config=None)))

    assert "embed_tokens_per_layer" not in model.text.model


def test_a_gpu_gets_the_whole_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "on_cpu", lambda: False)

    assert isinstance(table_of(load(folder, dtype="float32")), Embedding | PackedEmbedding)
