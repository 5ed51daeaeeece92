"""Packed weights take the memory they say, and give it back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.kernels.extension import load_extension

pytestmark = [
    pytest.mark.skipif(not load_extension().available, reason="needs the C++ extension"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def pack(count: int, rows: int) -> list[Any]:
    module = load_extension().module
    assert module is not None
    matrix = np.ones((rows, 576), dtype=np.float32)
    return [module.Weight.pack("int8", [("F32", matrix)], None) for _ in range(count)]


@pytest.mark.parametrize("rows", [96, 1900, 5000])
def test_many_weights_take_hardly_more_than_their_sum(rows: int) -> None:
    pack(1, rows)
    before = resident()
    weights = pack((96 << 20) // (rows * 576), rows)
    held = sum(weight.nbytes for weight in weights)
    assert held > 90 << 20
    assert resident() - before < 1.1 * held + (8 << 20)
    del weights
    assert resident() - before < 40 << 20


def test_weights_keep_their_values_when_their_neighbours_are_gone() -> None:
    weights = pack(8, 64)
    kept = weights[3]
    del weights
    more = pack(8, 64)
    assert np.allclose(kept.dense(), 1.0)
    assert np.allclose(more[0].dense(), 1.0)
