"""Layout: the rows of one step and where their state lives, as every operator sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of a step, slice after slice, padded to a row count the operators asked for.

    tokens, positions
        [padded] int64. Rows past ``rows`` are token 0 at position 0; nobody reads their results
        and they write no state.
    slots
        [rows] int64: ``block * block_size + offset`` where each row's keys and values go.
    row_starts, starts, lengths
        Per slice: its first row, the position of that row, and how many rows it has. Slices of
        length 1 come first, shortest context first.
    tables
        Per slice: int64 ids of the blocks that hold positions ``[0, start + length)``.
    sampled
        [samples] int64: rows whose logits are wanted.
    null_block
        Id of a block that is all zeros, for padding of gathers. Never written.
    """

    rows: int
    padded: int
    tokens: torch.Tensor
    positions: torch.Tensor
    slots: IntArray
    row_starts: tuple[int, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    tables: tuple[IntArray, ...]
    sampled: torch.Tensor
    block_size: int
    null_block: int

    @property
    def singles(self) -> int:
        """How many slices of length 1 lead the layout."""
        return sum(1 for length in self.lengths if length == 1)
