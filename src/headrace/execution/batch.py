"""From a step to the layout of its rows, and back from rows to slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.kernels.layout import Layout, lay_out
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Slice, Step

if TYPE_CHECKING:
    import torch

_LONG = 1 << 40  # more than any position


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
    device: torch.device | str,
) -> Batch:
    """Lay out a step's rows: single tokens first, shortest context first, then longer slices.

    The order is for speed only; no row's result depends on it. Reads the sequences' tokens and
    blocks. ``padded_rows`` says how many rows to compute for so many.
    """
    slices = step.slices
    order = list(range(len(slices)))
    if len(slices) > 1:
        order.sort(key=[_rank(piece) for piece in slices].__getitem__)
    tokens: list[int] = []
    starts: list[int] = []
    lengths: list[int] = []
    tables: list[int] = []
    fresh: list[int] = []
    last_row = [0] * len(slices)
    for i in order:
        piece = slices[i]
        start, end, seq = piece.start, piece.start + piece.length, piece.sequence
        first, count = -(-start // block_size), -(-end // block_size)
        blocks = seq.blocks
        if len(blocks) < count:
            raise ValueError(
                f"sequence {seq.key} has {len(blocks)} blocks; its slice"
                f" [{start}, {end}) needs {count}"
            )
        starts.append(start)
        lengths.append(piece.length)
        tables += blocks[:count]
        if first < count:
            fresh += blocks[first:count]
        tokens += seq.tokens[start:end]
        last_row[i] = len(tokens) - 1
    sampling: list[int] = []
    sampled: list[int] = []
    sequences: list[Sequence] = []
    for i, piece in enumerate(slices):
        if piece.samples:
            sampling.append(i)
            sampled.append(last_row[i])
            sequences.append(piece.sequence)
    layout = lay_out(
        tokens,
        starts,
        lengths,
        tables,
        sampled,
        block_size=block_size,
        null_block=null_block,
        padded=padded_rows(len(tokens) + step.padding),
        device=device,
    )
    return Batch(layout, tuple(sampling), tuple(sequences), tuple(fresh), len(slices))


def _rank(piece: Slice) -> int:
    end = piece.start + piece.length
    return end if piece.length == 1 else _LONG + end
