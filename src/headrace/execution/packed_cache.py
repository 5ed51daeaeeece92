"""PackedCache: the state of sequences in the layout of the C++ kernels, in numbered blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.execution.pages import Pages
from headrace.kernels.extension import load_extension
from headrace.kernels.operators import LayerCache


class PackedCache:
    """See KVCache. Each key/value head of a block is a row of ``width`` bytes, which only the
    kernels can read; they clear and copy them, too.
    """

    layers: Sequence[LayerCache] = ()

    def __init__(
        self, num_layers: int, kv_heads: int, num_blocks: int, block_size: int, width: int
    ) -> None:
        extension = load_extension().module
        assert extension is not None, "there is no model for it without the extension"
        self._cpu = extension
        self.num_blocks, self.block_size = num_blocks, block_size
        self.null_block = num_blocks
        self._heads = kv_heads
        shape = (num_layers, 2, (num_blocks + 1) * kv_heads, width)
        self._pages = Pages(math.prod(shape))
        self.array: npt.NDArray[np.uint8] = self._pages.array.reshape(shape)

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def free(self) -> None:
        """Gives the memory back; the cache cannot be used afterwards."""
        self.array = np.empty((0, 2, 0, 0), dtype=np.uint8)
        self._pages = Pages(0)

    def drop(self) -> None:
        """Forget all state, and take no memory for it until there is some again."""
        self._pages.drop()

    def clear(self, blocks: Sequence[int]) -> None:
        """Fill blocks with zeros in every layer."""
        self._cpu.cache_clear(self.array, self._heads, np.array(blocks, dtype=np.int32))

    def copy(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (source, destination) in every layer; sources are read before any write."""
        if moves:
            pair = np.array(moves, dtype=np.int32).T.copy()
            self._cpu.cache_copy(self.array, self._heads, pair[0], pair[1])
