"""What goes to the Hub, and where what is there differs from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from g4convert.convert.publication.contents import LocalFile, RemoteFile, contents, differences, is_another, stale
from g4convert.schemas.errors import G4ConvertError
from g4convert.tests.convert.publication.shop import Shell, names, sha256, shards
from g4convert.tests.hub.client import UPLOADS
from g4convert.tests.hub.state import Hub, git_id
from g4convert.tests.support import edit_json

pytestmark = UPLOADS


def remote(files: dict[str, LocalFile]) -> dict[str, RemoteFile]:
    """A Hub that holds just these."""
    return {
        name: RemoteFile(file.size, file.sha256 if name.endswith(".safetensors") else None, file.git_id)
        for name, file in files.items()
    }


def test_all_of_a_conversion_goes(folder: Path) -> None:
    assert list(contents(folder, plot=False)) == names(folder)
    assert contents(folder, plot=True).keys() - contents(folder, plot=False).keys() == {"verification.svg"}


def test_digests_are_those_of_git_and_of_the_storage(folder: Path) -> None:
    file = contents(folder, plot=False)["config.json"]

    assert file.git_id == git_id("blob", file.path.read_bytes())
    assert file.sha256 == sha256(file.path)


def test_what_is_the_same_differs_in_nothing(folder: Path) -> None:
    files = contents(folder, plot=False)

    assert list(differences(files, remote(files))) == []
    assert not is_another(files, remote(files))


def test_each_difference_is_named(folder: Path) -> None:
    files = contents(folder, plot=False)
    there = remote(files)
    first, second, third = (path.name for path in shards(folder)[:3])
    there[first] = RemoteFile(there[first].size, "0" * 64, there[first].git_id)
    there[second] = RemoteFile(1, there[second].sha256, there[second].git_id)
    del there[third]
    there["config.json"] = RemoteFile(there["config.json"].size, None, "0" * 40)
    there["model-00009-of-00009.safetensors"] = RemoteFile(1, "0", "0")

    assert sorted(differences(files, there)) == sorted(
        [
            f"{first} has other bytes there than here",
            f"{second} has 1 bytes there and {files[second].size} here",
            f"{third} is missing",
            "config.json has other bytes there than here",
            "model-00009-of-00009.safetensors is there and not here, and runtimes would load it",
        ]
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors", True), ("old.gguf", True), ("added_tokens.json", True), ("spiece.model", True),
        ("README.txt", False), (".gitattributes", False), ("photo.png", False), ("notes/eval.json", False),
        ("original/model.safetensors", False),
    ],
)  # fmt: skip
def test_what_a_runtime_would_read(name: str, expected: bool) -> None:
    assert bool(stale({}, {name: RemoteFile(1, None, "0")})) == expected


def test_another_manifest_is_another_conversion(folder: Path, eight: Path) -> None:
    ours, other = contents(folder, plot=False), contents(eight, plot=False)

    assert is_another(ours, remote(other))
    assert not is_another(ours, {})
    assert is_another(ours, {"old/model.safetensors": RemoteFile(1, None, "0")})


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json", "README.md", "conversion.json"])
def test_a_folder_that_is_not_whole(shell: Shell, hub: Hub, folder: Path, name: str) -> None:
    (folder / name).unlink()

    outcome = shell.publish(folder)

    assert outcome.code in (1, 2)
    assert outcome.line
    assert hub.repositories == {}


def test_a_missing_shard(shell: Shell, hub: Hub, folder: Path) -> None:
    shards(folder)[2].unlink()

    outcome = shell.publish(folder)

    assert (outcome.code, hub.repositories) == (2, {})
    assert "the shard is missing" in outcome.line


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "tokenizer.json",
        "model.safetensors.index.json",
        "conversion.json",
        "config.json",
        "chat_template.jinja",
    ],
)
def test_a_link_out_of_the_folder_is_not_followed(shell: Shell, hub: Hub, folder: Path, name: str) -> None:
    """Or a stranger's folder could publish somebody's keys."""
    secret = folder.parent / "secret"
    (folder / name).rename(secret)
    (folder / name).symlink_to(secret)

    outcome = shell.publish(folder, "--allow-defects")

    assert outcome.code == 2
    assert "link" in outcome.line
    assert hub.repositories == {}


def test_a_shard_that_leads_out_of_the_folder(folder: Path) -> None:
    edit_json(folder / "model.safetensors.index.json", lambda index: index["weight_map"].update(x="../x.safetensors"))

    with pytest.raises(G4ConvertError, match="not a safetensors file here"):
        contents(folder, plot=False)
