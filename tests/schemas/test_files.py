"""Files that cannot be read, or must not be."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from g4convert.schemas.errors import ConfigError
from g4convert.schemas.files import open_regular, read_whole


def test_a_device_is_not_waited_for() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(Path("/dev/zero"))


def test_a_file_that_is_nobodys_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions are refused by hand: root, as who tests often run, is refused nothing."""
    file = tmp_path / "config.json"
    file.write_text("{}")

    def refuse(path: Path, _: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match=re.escape("config.json: cannot be read: Permission denied")):
        read_whole(file, None)
