"""zero_pages: large memory that takes none of the machine's before it is written."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import numpy.typing as npt


def zero_pages(count: int) -> npt.NDArray[np.uint8]:
    """``count`` zeros whose pages the system only provides when they are first written, huge ones
    if it can.

    Zeroing a cache takes seconds and gigabytes before the first request. A sequence's blocks lie
    all over the cache: with small pages most reads miss the table of pages.
    """
    size = max(1, count)
    if hasattr(mmap, "MAP_PRIVATE"):  # the default is shared memory, which seldom has huge pages
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them; only a hint
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)[:count]
