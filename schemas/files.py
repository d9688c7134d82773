"""Files of strangers: a pipe or a device is not waited for, and no more is read than belongs there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import ConfigError


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        OSError: it is missing, cannot be read, or is not a regular file.
    """
    # Without O_NONBLOCK, a named pipe would wait for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_whole(path: Path, largest: int | None) -> bytes:
    """The bytes of a small file.

    Args:
        path: the file.
        largest: how many there may be; None for any number.

    Raises:
        ConfigError: the file is missing, cannot be read, or has more.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(-1 if largest is None else largest + 1)
    except FileNotFoundError:
        raise ConfigError("the file is missing", where=path.name) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path.name) from None
    if largest is not None and len(data) > largest:
        raise ConfigError(f"the file has more than {largest:,} bytes", where=path.name)
    return data
