"""Cache: what an executor asks of the memory of sequences, and which kind a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.execution.packed_cache import PackedCache
from headrace.models.model import Model, ModelCache


class Cache(ModelCache, Protocol):
    """State of ``num_blocks`` blocks of ``block_size`` tokens, and one more that stays zero
    (``null_block``). Who owns a block, the pool in memory/ knows; here they are only numbers.
    """

    num_blocks: int
    block_size: int
    null_block: int

    @property
    def nbytes(self) -> int: ...

    def free(self) -> None:
        """Gives the memory back; the cache cannot be used afterwards."""
        ...

    def drop(self) -> None:
        """Forget all state, and take no memory for it until there is some again.

        Where memory cannot be given back the state may stay, as that of blocks without an owner.
        """
        ...

    def clear(self, blocks: Sequence[int]) -> None:
        """Fill blocks with zeros in every layer."""
        ...

    def copy(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (source, destination) in every layer; sources are read before any write."""
        ...


def new_cache(model: Model, num_blocks: int, block_size: int) -> Cache:
    """An empty cache for ``model``."""
    layers, width = model.config.num_layers, model.cache_width(block_size)
    if model.cache_dtype is None:
        return PackedCache(layers, model.shape.kv_heads, num_blocks, block_size, width)
    from headrace.execution.kv_cache import KVCache

    return KVCache(
        layers, model.shape, num_blocks, block_size, model.cache_dtype, model.device, width
    )
