"""Traps that were found by trying, each by its story."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from g4convert.convert import Options, hf_to_mlx, prepare
from g4convert.convert.pipeline import work_key, write
from g4convert.convert.place import replaced_path, work_path
from g4convert.convert.writer import JOURNAL
from g4convert.schemas.errors import (
    ConfigError,
    G4ConvertError,
    OutputError,
    SourceNotFoundError,
    UnknownTensorError,
    UsageError,
)
from g4convert.tests.support import CHECKPOINTS, copy_of, digests, edit_json, edit_tensors, read_json

Convert = Callable[..., Path]
TEXT = CHECKPOINTS / "text"


def test_a_folder_with_a_config_and_a_thesis_is_no_checkpoint(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "config.json").write_text("{}")
    (app / "thesis.txt").write_text("precious")

    with pytest.raises(OutputError, match="this is none"):
        hf_to_mlx(TEXT, app, overwrite=True)
    assert (app / "thesis.txt").read_text() == "precious"


def test_a_checkpoint_with_a_subfolder_is_not_overwritten(tmp_path: Path) -> None:
    hf_to_mlx(TEXT, tmp_path / "out")
    (tmp_path / "out" / "notes").mkdir()

    with pytest.raises(OutputError, match="this is none"):
        hf_to_mlx(TEXT, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("place", [work_path, replaced_path])
def test_a_source_where_the_work_would_be_is_left_alone(place: Callable[[Path], Path], tmp_path: Path) -> None:
    output = tmp_path / "victim"
    source = copy_of("text", place(output))
    before = digests(source)

    with pytest.raises(OutputError, match="overlap"):
        hf_to_mlx(source, output, overwrite=True)
    assert digests(source) == before


def test_a_strangers_folder_in_the_way_is_left_alone(tmp_path: Path) -> None:
    theirs = work_path(tmp_path / "out")
    theirs.mkdir()
    (theirs / "diary.txt").write_text("dear")

    with pytest.raises(OutputError, match="in the way"):
        hf_to_mlx(TEXT, tmp_path / "out")
    assert (theirs / "diary.txt").read_text() == "dear"


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "diary.txt").write_text("dear")
    work_path(tmp_path / "out").symlink_to(real)

    with pytest.raises(OutputError, match="in the way"):
        hf_to_mlx(TEXT, tmp_path / "out")
    assert (real / "diary.txt").read_text() == "dear"


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work whose shards are all done, stopped before the finish."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("g4convert.convert.pipeline._write_small_files", stop)
        with pytest.raises(KeyboardInterrupt):
            hf_to_mlx(TEXT, tmp_path / "out")
    return work_path(tmp_path / "out")


def test_a_shard_that_shrank_is_made_again(converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = interrupted(tmp_path, monkeypatch)
    (work / "model.safetensors").write_bytes(b"short")
    (work / "stale.json").write_text("{}")

    hf_to_mlx(TEXT, tmp_path / "out")

    assert digests(tmp_path / "out") == digests(converted("text"))


@pytest.mark.parametrize("damage", [b"garbage\n", b"\x00\xff\n", b'{"key": 1}\n'])
def test_a_damaged_journal_is_no_journal(
    damage: bytes, converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = interrupted(tmp_path, monkeypatch)
    (work / JOURNAL).write_bytes(damage)
    (work / "folder").mkdir()

    hf_to_mlx(TEXT, tmp_path / "out")

    assert digests(tmp_path / "out") == digests(converted("text"))


def test_finished_work_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path, monkeypatch)
    conversion = prepare(TEXT, Options())
    journal = [json.loads(line) for line in (work_path(tmp_path / "out") / JOURNAL).read_text().splitlines()]
    assert journal[0] == {"key": work_key(conversion)}
    monkeypatch.setattr("g4convert.convert.pipeline.make_shard", None)  # a shard made now would fail

    write(conversion, tmp_path / "out")


def test_stopped_between_the_journals_end_and_the_rename(
    converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("g4convert.convert.writer.sync_folder", stop)
        with pytest.raises(KeyboardInterrupt):
            hf_to_mlx(TEXT, tmp_path / "out")
    assert not (work_path(tmp_path / "out") / JOURNAL).exists()

    hf_to_mlx(TEXT, tmp_path / "out")

    assert digests(tmp_path / "out") == digests(converted("text"))


def test_parents_that_were_made_go_with_the_failed_work(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    edit_tensors(source, lambda tensors: tensors["model.norm.weight"].fill(float("nan")))

    with pytest.raises(Exception, match="holds NaN"):
        hf_to_mlx(source, tmp_path / "a" / "b" / "out")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "tokenizer_config.json"])
def test_a_sidecar_that_leads_nowhere_is_an_error(name: str, tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    (source / name).unlink()
    (source / name).symlink_to("nowhere")

    with pytest.raises(ConfigError, match=f"{name}: not a regular file"):
        prepare(source, Options())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", b""),
        ("tokenizer_config.json", b"null"),
        ("tokenizer_config.json", b"\xff"),
        ("chat_template.jinja", b"\xff\xfe"),
    ],
)
def test_a_sidecar_that_no_runtime_could_read_is_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    (source / name).write_bytes(content)

    with pytest.raises(ConfigError, match=name):
        prepare(source, Options())


@pytest.mark.parametrize("text", ['{"foo": 1e999}', '{"foo": "\\ud800"}', '{"model_type": []}', '{"model_type": {}}'])
def test_json_that_could_not_be_written_again_is_an_error(text: str, tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    document = {**read_json(source / "config.json")}
    (source / "config.json").write_text(json.dumps(document)[:-1] + "," + text[1:])

    with pytest.raises(Exception, match=r"config\.json: ") as caught:
        prepare(source, Options())
    assert "\n" not in str(caught.value)


def test_an_empty_quantization_block_does_not_reach_the_output(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    edit_json(source / "config.json", lambda document: document.update(quantization={}))

    hf_to_mlx(source, tmp_path / "out", options=Options(quantize=False))

    assert "quantization" not in read_json(tmp_path / "out" / "config.json")


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("text", ("text",)), ("26b-a4b", ("text", "image", "video")), ("e2b", ("text", "image", "audio", "video"))],
)
def test_only_modalities_that_are_there_are_claimed(kind: str, kept: tuple[str, ...]) -> None:
    assert prepare(CHECKPOINTS / kind, Options()).plan.modalities == kept


def test_a_name_under_a_missing_tower_must_still_be_a_towers(tmp_path: Path) -> None:
    source = copy_of("26b-a4b", tmp_path / "source")
    edit_tensors(source, lambda t: t.update({"model.audio_tower.evil": t["model.language_model.norm.weight"]}))

    with pytest.raises(UnknownTensorError, match=r"model\.audio_tower\.evil"):
        prepare(source, Options())


def test_a_tower_without_its_section_goes_with_a_reason(tmp_path: Path) -> None:
    source = copy_of("e2b", tmp_path / "source")
    edit_json(source / "config.json", lambda document: document.update(audio_config=None))

    reasons = {drop.reason for drop in prepare(source, Options()).plan.drops}

    assert "the config has no audio section" in reasons


def test_an_explicit_mode_beats_the_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "nv.toml"
    recipe.write_text('name = "nv"\n[default]\nbits = 4\nmode = "nvfp4"\n')

    default = prepare(TEXT, Options(recipe=str(recipe), mode="affine")).plan.recipe.default

    assert default is not None
    assert default.mode == "affine"


@pytest.mark.parametrize("name", ["org/name--x", "org/name.git", "org/-name", "o--rg/name", "org/" + "n" * 120])
def test_a_name_that_the_hubs_client_refuses_is_one_line(name: str) -> None:
    with pytest.raises(SourceNotFoundError) as caught:
        prepare(name, Options())
    assert "\n" not in str(caught.value)


def test_no_modality_at_all_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="--modalities: names none"):
        prepare(TEXT, Options(modalities=()))


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(OutputError):
        hf_to_mlx(TEXT, tmp_path / "a")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_files_whose_links_lead_in_a_circle(name: str, tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    (source / name).unlink()
    (source / name).symlink_to(name)

    with pytest.raises(G4ConvertError) as caught:
        prepare(source, Options())
    assert "\n" not in str(caught.value)


def test_a_large_sidecar_is_copied_in_blocks(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    (source / "vocab.txt").write_bytes(os.urandom(3_000_000))

    hf_to_mlx(source, tmp_path / "out")

    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()


CLI = [sys.executable, "-c", "from g4convert.convert.cli import main; main()"]


@pytest.mark.parametrize("arguments", [["hf-to-mlx", str(TEXT), "--dry-run"], ["--help"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str]) -> None:
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run([*CLI, *arguments], stdout=written, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(written)

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_prompt_that_is_not_text_is_one_line(converted: Convert) -> None:
    command: list[str | bytes] = [*CLI, "run", str(converted("text")), "-p", b"\xff"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)

    assert done.returncode == 2
    assert done.stderr.decode() == "g4convert: the prompt is not UTF-8 text\n"


def test_names_of_strangers_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    edit_tensors(source, lambda tensors: tensors.update({"model.\x1b[31mred": tensors["model.norm.weight"]}))

    with pytest.raises(UnknownTensorError) as caught:
        prepare(source, Options())
    assert str(caught.value).isprintable()


def test_a_name_as_long_as_a_book_does_not_fill_the_terminal(tmp_path: Path) -> None:
    source = copy_of("text", tmp_path / "source")
    edit_tensors(source, lambda tensors: tensors.update({"x" * 10**6: tensors["model.norm.weight"]}))

    with pytest.raises(
        UnknownTensorError, match=r"the tensor xxx.* \.\.\. xxx.* is not part of gemma4_text; remove it"
    ) as caught:
        prepare(source, Options())
    assert len(str(caught.value)) < 1100
