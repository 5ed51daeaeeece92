"""KVCache: the tensors that hold the state of sequences, in numbered blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from headrace.execution.pages import Pages
from headrace.kernels.operators import AttentionShape


@dataclass(frozen=True, slots=True)
class LayerState:
    """Keys and values of one layer: [(blocks + 1) * K, width] each."""

    keys: torch.Tensor
    values: torch.Tensor


class KVCache:
    """State of ``num_blocks`` blocks of ``block_size`` tokens, and one more that stays zero.

    The pool in memory/ says who owns a block; here they are only numbers. A block is cleared when
    its first slot is about to be written, so that nothing a former owner left (a NaN times zero is
    a NaN) can reach another sequence.

    Each key/value head of a block is a row. ``width`` is its length in values of ``dtype``,
    block_size * D unless given. PackedCache is its like in the layout of the C++ kernels.
    """

    def __init__(
        self,
        num_layers: int,
        shape: AttentionShape,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        width: int | None = None,
    ) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.null_block = num_blocks
        self._heads = shape.kv_heads
        rows, width = (num_blocks + 1) * shape.kv_heads, width or block_size * shape.head_dim
        size = (num_layers, 2, rows, width)
        self._pages: Pages | None = None
        if torch.device(device).type == "cpu":
            self._pages = Pages(dtype.itemsize * math.prod(size))
            self._data = torch.from_numpy(self._pages.array).view(dtype).view(size)
        else:
            self._data = torch.zeros(size, dtype=dtype, device=device)
        self.layers: tuple[LayerState, ...] = tuple(
            LayerState(layer[0], layer[1]) for layer in self._data
        )

    @cached_property
    def array(self) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
        """The memory of all layers as an array [layers, 2, (blocks + 1) * K, width]; CPU only."""
        array: np.ndarray[tuple[int, ...], np.dtype[Any]] = self._data.numpy()
        return array

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    def free(self) -> None:
        """Gives the memory back; the cache cannot be used afterwards."""
        self.layers = ()
        self.__dict__.pop("array", None)
        self._data, self._pages = self._data.new_empty(0), None

    def drop(self) -> None:
        """Forget all state, and take no memory for it until there is some again; CPU only."""
        if self._pages is not None:
            self._pages.drop()

    def _rows(self, blocks: Sequence[int]) -> torch.Tensor:
        first = torch.tensor(blocks, dtype=torch.int64) * self._heads
        rows = (first[:, None] + torch.arange(self._heads)).reshape(-1)
        return rows.to(self._data.device)

    def clear(self, blocks: Sequence[int]) -> None:
        """Fill blocks with zeros in every layer."""
        if blocks:
            self._data.index_fill_(2, self._rows(blocks), 0)

    def copy(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (source, destination) in every layer; sources are read before any write."""
        if not moves:
            return
        sources, destinations = zip(*moves, strict=True)
        moved = self._data.index_select(2, self._rows(sources))
        self._data.index_copy_(2, self._rows(destinations), moved)
