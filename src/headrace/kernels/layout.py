"""Layout: the rows of one step and where their state lives, as every operator sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Rows of a step, slice after slice: contiguous flat arrays, as the C++ decoder reads them.

    tokens, positions
        [rows] int32.
    slots
        [rows] int64: ``block * block_size + offset`` where each row's keys and values go.
    starts, lengths, row_starts, table_starts
        [slices] int32: the position of a slice's first row, how many rows it has, its first row,
        and where its block table begins in ``tables``. Slices of length 1 come first, shortest
        context first.
    tables
        int32: of each slice the ids of the blocks that hold positions ``[0, start + length)``.
    sampled
        [samples] int32: rows whose logits are wanted.
    block_size, null_block
        Tokens a block holds; id of a block that is all zeros, for padding of gathers, never
        written.
    padded
        Row count that the torch operators asked for, at least ``rows``. The rows past ``rows``
        are token 0 at position 0; nobody reads their results and they write no state.
    device
        Where the tensors below are.

    The torch operators read tensors, which are made when first asked for.
    """

    tokens: Int32Array
    positions: Int32Array
    slots: Int64Array
    starts: Int32Array
    lengths: Int32Array
    row_starts: Int32Array
    table_starts: Int32Array
    tables: Int32Array
    sampled: Int32Array
    block_size: int
    null_block: int
    padded: int
    device: torch.device | str

    @property
    def rows(self) -> int:
        return len(self.tokens)

    @property
    def slices(self) -> int:
        return len(self.starts)

    @cached_property
    def singles(self) -> int:
        """How many slices of length 1 lead the layout."""
        return int((self.lengths == 1).sum())

    def table(self, i: int) -> Int32Array:
        """Block table of slice ``i``."""
        begin = int(self.table_starts[i])
        end = int(self.starts[i]) + int(self.lengths[i])
        return self.tables[begin : begin - (-end // self.block_size)]

    @cached_property
    def token_tensor(self) -> torch.Tensor:
        """[padded] int64."""
        return self._tensor(self.tokens, self.padded)

    @cached_property
    def position_tensor(self) -> torch.Tensor:
        """[padded] int64."""
        return self._tensor(self.positions, self.padded)

    @cached_property
    def slot_tensor(self) -> torch.Tensor:
        """[rows] int64."""
        import torch

        return torch.from_numpy(self.slots).to(self.device)

    @cached_property
    def sampled_tensor(self) -> torch.Tensor:
        """[samples] int64."""
        return self._tensor(self.sampled, len(self.sampled))

    def _tensor(self, values: Int32Array, length: int) -> torch.Tensor:
        import torch

        padded = np.zeros(length, dtype=np.int64)
        padded[: len(values)] = values
        return torch.from_numpy(padded).to(self.device)


def lay_out(
    tokens: Sequence[int],
    starts: Sequence[int],
    lengths: Sequence[int],
    tables: Sequence[int],
    sampled: Sequence[int],
    *,
    block_size: int,
    null_block: int,
    padded: int = 0,
    device: torch.device | str = "cpu",
) -> Layout:
    """A layout from its slices, given in the order that ``Layout`` says.

    ``tables`` are the slices' block tables one after the other, ``ceil((start + length) /
    block_size)`` ids each; ``tokens`` are all rows'. Raises ValueError where the sums disagree.
    """
    # Lists, not array operations: a step has few slices, and each kind of operation costs more
    # than all of this, even more so after a step has emptied the processor's caches.
    positions: list[int] = []
    slots: list[int] = []
    row_starts: list[int] = []
    table_starts: list[int] = []
    table = 0
    for start, length in zip(starts, lengths, strict=True):
        row_starts.append(len(positions))
        table_starts.append(table)
        end = start + length
        begin, table = table, table - -end // block_size
        if table > len(tables):
            break
        if length == 1:
            block, offset = divmod(start, block_size)
            positions.append(start)
            slots.append(tables[begin + block] * block_size + offset)
        else:
            positions += range(start, end)
            slots += [
                tables[begin + position // block_size] * block_size + position % block_size
                for position in range(start, end)
            ]
    if len(tokens) != len(positions) or len(tables) != table:
        held = sum(-(-(s + n) // block_size) for s, n in zip(starts, lengths, strict=True))
        raise ValueError(
            f"{len(tokens)} tokens and {len(tables)} block ids were given; the slices have"
            f" {sum(lengths)} rows and {held} blocks of {block_size}"
        )
    return Layout(
        tokens=_int32(tokens), positions=_int32(positions), slots=np.array(slots, np.int64),
        starts=_int32(starts), lengths=_int32(lengths), row_starts=_int32(row_starts),
        table_starts=_int32(table_starts), tables=_int32(tables), sampled=_int32(sampled),
        block_size=block_size, null_block=null_block, padded=max(len(tokens), padded),
        device=device,
    )  # fmt: skip


def _int32(values: Sequence[int]) -> Int32Array:
    return np.array(values, np.int32)
