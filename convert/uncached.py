"""Read and write what nobody here needs a second time without filling the page cache with it.

A checkpoint of 62 GB would push everything else out, itself included, and to find and to fill fresh pages costs more
than an SSD takes.
"""

from __future__ import annotations

import errno
import os
import sys

import numpy as np

# Linux 6.14: what is cached is taken from there, what is not leaves nothing behind. Python 3.15 names it.
RWF_DONTCACHE = 0x80
PAGE = os.sysconf("SC_PAGE_SIZE")
UNSUPPORTED = {errno.EOPNOTSUPP, errno.EINVAL}


def pread_uncached(descriptor: int, count: int, offset: int) -> bytes | memoryview:
    """`os.pread`; where the kernel or the file system cannot go without the page cache, it is filled as ever.

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


def pwrite_uncached(descriptor: int, data: memoryview, offset: int) -> int:
    """`os.pwrite` of a part or all; the system begins at once to bring it to the disk, and forgets what is there.

    Pages that are written in part stay, for whoever writes the rest of them would have to read them again.

    Raises:
        OSError: the disk reports an error, or is full.
    """
    if sys.platform != "linux":
        return os.pwrite(descriptor, data, offset)
    before, whole = -offset % PAGE, len(data) // PAGE * PAGE
    if before or not whole:
        return os.pwrite(descriptor, data[: before or None], offset)
    try:
        return os.pwritev(descriptor, [data[:whole]], offset, RWF_DONTCACHE)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return os.pwrite(descriptor, data, offset)
