"""Links that lead elsewhere, and what is no file at all, in place of each file that a program opens."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from g4convert.schemas.errors import ConfigError, G4ConvertError, ShardError, UnsafeFileError
from g4convert.tests.support import WEIGHTS

from .breaks import INDEX, Break, Breaks, Damage, text

# Every file that is opened, and whether the loader does.
OPENED = {
    "config.json": True,
    INDEX: True,
    WEIGHTS: True,
    "tokenizer.json": True,
    "tokenizer_config.json": True,
    "generation_config.json": True,
    "processor_config.json": True,
    "chat_template.jinja": True,
    "README.md": False,
    "LICENSE": False,
    "vocabulary.txt": False,
}


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    """Put something else where a file belongs."""

    def apply(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return apply


def outside(path: Path) -> None:
    """A link to a file that is all right, beside the checkpoint."""
    target = path.parent.parent / "outside"
    target.write_bytes(path.read_bytes() if path.exists() else b"{}")
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def roundabout(path: Path) -> None:
    """A link out of the folder by a detour through another one."""
    outside(path)
    (path.parent / "detour").symlink_to(path.parent.parent)
    path.unlink()
    path.symlink_to(Path("detour") / "outside")


def circle(path: Path) -> None:
    other = path.with_name("other")
    other.symlink_to(path.name)
    path.symlink_to(other.name)


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has a hundred characters at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def in_the_cache(leads: Callable[[Path], Path]) -> Damage:
    """The layout of the Hub's cache, in which one file links elsewhere than into its own `blobs`."""

    def apply(folder: Path) -> None:
        cache = folder.parent / "hub"
        snapshot = cache / "models--a--one" / "snapshots" / "c0ffee"
        for repo in ("models--a--one", "models--b--other"):
            (cache / repo / "blobs").mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for file in sorted(folder.iterdir()):
            shutil.move(file, cache / "models--a--one" / "blobs" / file.name)
            (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
        target = leads(cache)
        shutil.copy(cache / "models--a--one" / "blobs" / "tokenizer.json", target)
        (snapshot / "tokenizer.json").unlink()
        (snapshot / "tokenizer.json").symlink_to(target)
        folder.rmdir()
        folder.symlink_to(snapshot)

    return apply


WHAT: dict[str, tuple[Callable[[Path], object], type[G4ConvertError], str]] = {
    "a folder": (lambda path: path.mkdir(), ConfigError, "not a regular file|Is a directory"),
    "a pipe": (os.mkfifo, ConfigError, "not a regular file"),
    "a socket": (bound_socket, ConfigError, "not a regular file|cannot be read"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), UnsafeFileError, "a link that leads out of the checkpoint"),
    "a link to a terminal": (lambda path: path.symlink_to("/dev/tty"), UnsafeFileError, "a link that leads out of the checkpoint"),
    "a link to the outside": (outside, UnsafeFileError, "a link that leads out of the checkpoint"),
    "a link by a detour": (roundabout, UnsafeFileError, "a link that leads out of the checkpoint"),
    "a link to itself": (lambda path: path.symlink_to(path.name), UnsafeFileError, "in a circle"),
    "links in a circle": (circle, UnsafeFileError, "in a circle"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), ConfigError, "the file is missing|not a regular file"),
}  # fmt: skip


def _case(name: str, what: str) -> Break:
    make, error, says = WHAT[what]
    if name == WEIGHTS and error is ConfigError:
        error, says = ShardError, "cannot be read"
    return Break(replaced(name, make), error, says, loading=OPENED[name])


BREAKS: Breaks = {
    **{f"{name}: {what}": _case(name, what) for name in OPENED for what in WHAT},
    "a name with a newline": Break(text("a\nb.json", "{}"), ConfigError, "the file's name cannot be printed", loading=False),
    "a name that clears the screen": Break(text("\x1b[2J.txt", ""), ConfigError, "the file's name cannot be printed", loading=False),
    "a name that is no UTF-8": Break(text(os.fsdecode(b"\xff.md"), ""), ConfigError, "the file's name cannot be printed", loading=False),
    "the cache: another repository": Break(in_the_cache(lambda cache: cache / "models--b--other" / "blobs" / "tokenizer.json"), UnsafeFileError, "tokenizer.json: the file is a link that leads out"),
    "the cache: beside the blobs": Break(in_the_cache(lambda cache: cache / "models--a--one" / "tokenizer.json"), UnsafeFileError, "tokenizer.json: the file is a link that leads out"),
}  # fmt: skip
