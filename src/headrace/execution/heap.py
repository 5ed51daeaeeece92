"""trim_heap: what loading a model leaves unused goes back to the system."""

from __future__ import annotations

import ctypes
import gc


def trim_heap() -> None:
    """Collect garbage and have the C library give free memory back.

    Dequantised tensors come and go while weights are packed; glibc keeps what they leave in its
    arenas, tens of megabytes, for a process that will hardly allocate again. Elsewhere nothing.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library or system
        return
    trim(0)
