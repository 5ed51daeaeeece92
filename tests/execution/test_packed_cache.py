"""PackedCache: blocks are cleared and copied in all layers, and only they."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.execution.cache import new_cache
from headrace.execution.kv_cache import KVCache
from headrace.execution.packed_cache import PackedCache
from headrace.execution.pages import Pages
from headrace.kernels.extension import load_extension
from headrace.kernels.operators import AttentionShape
from tests.execution.tiny import tiny_transformer

pytestmark = pytest.mark.skipif(not load_extension().available, reason="needs the C++ extension")


SHAPE = AttentionShape(heads=4, kv_heads=2, head_dim=8)


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def filled() -> PackedCache:
    """3 layers of 5 blocks and the null block, 2 heads, rows of 64 bytes: the block's number."""
    cache = PackedCache(3, 2, 5, 16, 64)
    for block in range(5):
        cache.array[:, :, 2 * block : 2 * block + 2] = block + 1
    return cache


def blocks(cache: PackedCache) -> list[int]:
    """The number in each block, which has to be the same all over it."""
    found = cache.array.reshape(3, 2, 6, -1)
    assert (found == found[:1, :1, :, :1]).all()
    return [int(number) for number in found[0, 0, :, 0]]


def test_size() -> None:
    cache = filled()
    assert cache.nbytes == 3 * 2 * 6 * 2 * 64
    assert (cache.num_blocks, cache.null_block, cache.block_size) == (5, 5, 16)
    cache.free()
    assert cache.nbytes == 0


def test_clear() -> None:
    cache = filled()
    cache.clear([1, 3])
    cache.clear([])
    assert blocks(cache) == [1, 0, 3, 0, 5, 0]


def test_copies_read_before_they_write() -> None:
    cache = filled()
    cache.copy([(0, 1), (1, 2), (4, 0)])
    cache.copy([])
    assert blocks(cache) == [5, 1, 2, 4, 5, 0]


@pytest.mark.parametrize("block_size", [16, 32])
def test_it_is_what_the_decoder_reads(block_size: int) -> None:
    model = tiny_transformer("int8", block_size=block_size)
    cache = new_cache(model, 3, block_size)
    assert isinstance(cache, PackedCache)
    width = model.cache_width(block_size)
    assert cache.array.shape == (2, 2, 4 * model.shape.kv_heads, width)


def test_pages_are_zeros_that_can_be_written() -> None:
    pages = Pages(3_000_001)
    assert pages.array.shape == (3_000_001,)
    assert not pages.array.any()
    pages.array[-1] = 7
    assert np.count_nonzero(pages.array) == 1
    assert Pages(0).array.shape == (0,)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may keep the pages")
def test_dropped_state_is_zeros_and_takes_no_memory() -> None:
    cache = PackedCache(4, 2, 1000, 16, 4096)
    before = resident()
    cache.array[...] = 3
    assert resident() - before > 50 << 20
    cache.drop()
    assert resident() - before < 10 << 20
    assert not cache.array.any()
    cache.array[:, :, 4] = 1
    assert np.count_nonzero(cache.array) == 4 * 2 * 4096
    torch_cache = KVCache(2, SHAPE, 5, 16, torch.float32)
    torch_cache.layers[1].keys[3] = 1.0
    torch_cache.drop()
    assert not torch_cache.layers[1].keys.any()
