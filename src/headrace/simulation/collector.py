"""Fewer searches for cyclic garbage while a simulation runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 100_000


@contextmanager
def rare_collections() -> Iterator[None]:
    """Python looks for cyclic garbage after every few hundred new objects. A simulation makes
    many and no cycles of them: they go when the last one lets go, and looking takes a sixth of its
    time. So it is done once per ``OBJECTS`` here, and as before afterwards.
    """
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
