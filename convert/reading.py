"""Read what is needed once: a source of 62 GB would push everything else out of the page cache, itself included."""

from __future__ import annotations

import errno
import os
import sys

import numpy as np

# Linux 6.14: what is cached is taken from there, what is not leaves nothing behind. Python 3.15 names it.
RWF_DONTCACHE = 0x80
UNSUPPORTED = {errno.EOPNOTSUPP, errno.EINVAL}


def pread_once(descriptor: int, count: int, offset: int) -> bytes | memoryview:
    """`os.pread` of bytes that nobody needs a second time.

    Filling the page cache costs more than reading an SSD does. Where the kernel or the file system cannot go without,
    it is filled as ever.

    Raises:
        OSError: the disk reports an error.
    """
    if sys.platform != "linux":
        return os.pread(descriptor, count, offset)
    buffer = np.empty(count, np.uint8).data
    try:
        return buffer[: os.preadv(descriptor, [buffer], offset, RWF_DONTCACHE)]
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return os.pread(descriptor, count, offset)
