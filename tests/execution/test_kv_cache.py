"""KVCache: blocks are cleared and copied in all layers, and only they."""

from __future__ import annotations

import torch

from headrace.execution.kv_cache import KVCache
from headrace.kernels.operators import AttentionShape

SHAPE = AttentionShape(heads=4, kv_heads=2, head_dim=8)


def filled(num_blocks: int = 5) -> KVCache:
    cache = KVCache(3, SHAPE, num_blocks, 4, torch.float32)
    for i, layer in enumerate(cache.layers):
        for block in range(num_blocks):
            rows = slice(block * 2, block * 2 + 2)
            layer.keys[rows] = 100.0 * i + block + 1
            layer.values[rows] = -(100.0 * i + block + 1)
    return cache


def blocks(cache: KVCache) -> list[list[float]]:
    """First key of every block (the null block last), by layer."""
    return [[float(layer.keys[b * 2, 0]) for b in range(6)] for layer in cache.layers]


def test_size_is_what_the_plan_counts() -> None:
    cache = filled()
    assert cache.nbytes == 6 * 3 * 2 * 2 * 4 * 8 * 4
    assert cache.array.shape == (3, 2, 6 * 2, 4 * 8)


def test_clear() -> None:
    cache = filled()
    cache.clear([1, 3])
    cache.clear([])
    assert blocks(cache)[2] == [201, 0, 203, 0, 205, 0]
    assert all(not layer.values[2:4].any() for layer in cache.layers)
    assert all(layer.values[4:6].all() for layer in cache.layers)


def test_copies_read_before_they_write() -> None:
    cache = filled()
    cache.copy([(0, 1), (1, 2), (4, 0)])
    cache.copy([])
    assert blocks(cache)[1] == [105, 101, 102, 104, 105, 0]
    assert torch.equal(cache.layers[1].values[4:6], torch.full((2, 32), -102.0))
