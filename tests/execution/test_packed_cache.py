"""PackedCache: blocks are cleared and copied in all layers, and only they."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.execution.cache import new_cache
from headrace.execution.packed_cache import PackedCache
from headrace.execution.pages import zero_pages
from headrace.kernels.extension import load_extension
from tests.execution.tiny import tiny_transformer

pytestmark = pytest.mark.skipif(not load_extension().available, reason="needs the C++ extension")


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
    pages = zero_pages(3_000_001)
    assert pages.shape == (3_000_001,)
    assert not pages.any()
    pages[-1] = 7
    assert np.count_nonzero(pages) == 1
    assert zero_pages(0).shape == (0,)
