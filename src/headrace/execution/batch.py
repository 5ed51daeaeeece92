"""From a step to the layout of its rows, and back from rows to slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from headrace.kernels.layout import Layout
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Slice, Step


@dataclass(frozen=True, slots=True)
class Batch:
    """A step as operators see it.

    ``sampling`` are the indices, in the step's order, of the slices that sample; row r of the
    logits belongs to slice ``sampling[r]``. ``fresh`` are the blocks to clear first.
    """

    layout: Layout
    sampling: tuple[int, ...]
    sequences: tuple[Sequence, ...]
    fresh: tuple[int, ...]
    slices: int


def build_batch(
    step: Step,
    block_size: int,
    null_block: int,
    padded_rows: Callable[[int], int],
    device: torch.device,
) -> Batch:
    """Lay out a step's rows: single tokens first, shortest context first, then longer slices.

    The order is for speed only; no row's result depends on it. Reads the sequences' tokens and
    blocks. ``padded_rows`` says how many rows to compute for so many.
    """
    slices = step.slices
    order = sorted(range(len(slices)), key=lambda i: (slices[i].length > 1, slices[i].end))
    rows = sum(s.length for s in slices)
    padded = padded_rows(rows + step.padding)
    tokens = np.zeros(padded, dtype=np.int64)
    positions = np.zeros(padded, dtype=np.int64)
    slots = np.empty(rows, dtype=np.int64)
    starts, row_starts, lengths, tables = [], [], [], []
    fresh: list[int] = []
    last_row: dict[int, int] = {}
    row = 0
    for i in order:
        piece = slices[i]
        span = slice(row, row + piece.length)
        tokens[span] = piece.sequence.tokens[piece.start : piece.end]
        table = _table(piece, block_size)
        place = np.arange(piece.start, piece.end, dtype=np.int64)
        positions[span] = place
        slots[span] = table[place // block_size] * block_size + place % block_size
        first = -(-piece.start // block_size)
        fresh.extend(int(block) for block in table[first:])
        starts.append(piece.start)
        row_starts.append(row)
        lengths.append(piece.length)
        tables.append(table)
        row += piece.length
        last_row[i] = row - 1
    sampling = tuple(i for i in range(len(slices)) if slices[i].samples)
    sampled = torch.tensor([last_row[i] for i in sampling], dtype=torch.int64, device=device)
    layout = Layout(
        rows=rows, padded=padded, tokens=torch.from_numpy(tokens).to(device),
        positions=torch.from_numpy(positions).to(device), slots=slots, row_starts=tuple(row_starts),
        starts=tuple(starts), lengths=tuple(lengths), tables=tuple(tables),
        sampled=sampled, block_size=block_size, null_block=null_block,
    )  # fmt: skip
    sequences = tuple(slices[i].sequence for i in sampling)
    return Batch(layout, sampling, sequences, tuple(fresh), len(slices))


def _table(piece: Slice, block_size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Blocks that hold positions [0, end) of the slice's sequence."""
    count = -(-piece.end // block_size)
    blocks = piece.sequence.blocks
    if len(blocks) < count:
        raise ValueError(
            f"sequence {piece.sequence.key} has {len(blocks)} blocks; its slice"
            f" [{piece.start}, {piece.end}) needs {count}"
        )
    return np.array(blocks[:count], dtype=np.int64)
