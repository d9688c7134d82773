"""The table of per-layer embeddings on the CPU: its rows are the loaded table's, and the table is never in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from g4convert.loaders import loading
from g4convert.loaders.checkpoint import Checkpoint
from g4convert.loaders.generation import Sampler, decode
from g4convert.loaders.linear import Embedding, PackedEmbedding
from g4convert.loaders.loading import LoadedModel, load
from g4convert.loaders.merge import merge
from g4convert.loaders.tables import MappedTable, Reserved, lookups_at_exit
from g4convert.tests.loaders.samples import VOCABULARY, moe_block, multimodal, text_only, write_checkpoint
from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("on_the_cpu")

PATH = "model.embed_tokens_per_layer"
AFFINE = {"group_size": 32, "bits": 4}
PACKINGS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "4 bits": AFFINE,
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
}
IDS = mx.array([[7, 0, 7, VOCABULARY - 1], [1, 2, 3, 4]])


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


def test_lookups_wait_for_the_end_of_a_block(folder: Path) -> None:
    table, one, other = table_of(load(folder)), IDS, IDS[:, ::-1]
    expected = table(one), table(other)

    with lookups_at_exit():
        found = table(one), table(other)

    assert mx.array_equal(found[0], expected[0])
    assert mx.array_equal(found[1], expected[1])
    assert mx.array_equal(table(one), expected[0])


def test_a_block_does_not_ask_for_the_ids(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = load(folder), list[str]()
    original = Reserved.fill

    def fill(self: Reserved, numbers: Any) -> None:
        asked.append("looked up")
        original(self, numbers)

    monkeypatch.setattr(Reserved, "fill", fill)
    with lookups_at_exit():
        logits = model.text(IDS)
        asked.append("the graph is built")

    assert asked == ["the graph is built", "looked up"]
    assert mx.array_equal(logits, model.text(IDS))


def test_a_block_that_fails_looks_nothing_up(folder: Path) -> None:
    table = table_of(load(folder))
    beyond = mx.array([[VOCABULARY]])

    def fail() -> None:
        table(beyond)
        raise KeyError

    with pytest.raises(KeyError), lookups_at_exit():
        fail()

    assert table(IDS).shape[:2] == IDS.shape
    with pytest.raises(IndexError), lookups_at_exit():
        table(beyond)


def test_another_thread_does_not_wait_for_the_block(folder: Path) -> None:
    table = table_of(load(folder))
    expected = np.array(table(IDS).astype(mx.float32))

    def look_up() -> NDArray[Any]:
        mx.set_default_device(mx.Device(mx.cpu))
        return np.array(table(IDS).astype(mx.float32))

    with ThreadPoolExecutor(1) as pool, lookups_at_exit():
        found = pool.submit(look_up).result()

    np.testing.assert_array_equal(found, expected)


def test_answers_are_those_with_the_table_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, loaded = load(folder), in_memory(folder, monkeypatch)

    answers = [generated(model) for model in (mapped, loaded)]

    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 3


def generated(model: LoadedModel) -> list[int]:
    """What follows a prompt; hot, for a network with random weights would repeat itself."""
    sampler = Sampler(temperature=1.0, top_k=0, top_p=1.0, bias=None, key=mx.random.key(4))
    return list(decode(model.text, merge(model.config, np.array([5, 6, 7]), {}), sampler, count=12))


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
