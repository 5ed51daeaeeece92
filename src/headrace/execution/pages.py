"""Pages: large memory that takes none of the machine's before it is written."""

from __future__ import annotations

import contextlib
import mmap
import platform

import numpy as np
import numpy.typing as npt


class Pages:
    """``count`` bytes in ``array``, zeros whose pages the system only provides when they are first
    written, huge ones if it can.

    Zeroing a cache takes seconds and gigabytes before the first request. A sequence's blocks lie
    all over the cache: with small pages most reads miss the table of pages.
    """

    def __init__(self, count: int) -> None:
        size = max(1, count)
        if hasattr(mmap, "MAP_PRIVATE"):  # the default is shared memory, which seldom has huge ones
            self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            self._memory = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them; only a hint
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.array: npt.NDArray[np.uint8] = np.frombuffer(self._memory, dtype=np.uint8)[:count]

    def drop(self) -> None:
        """Give the pages that were written back to the system; they are zeros again.

        Where that cannot be had, the pages stay as they are.
        """
        if platform.system() == "Linux":  # elsewhere they need not become zeros
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_DONTNEED)
