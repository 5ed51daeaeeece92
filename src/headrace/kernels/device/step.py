"""A step as a device sees it: one vector of integers, and the shapes to read it by.

All of a step's integers go to the device in one copy. Masks, rotations and indices are derived
there, by operations whose shapes follow from ``StepShape`` alone, so that a captured graph can
derive them too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from headrace.kernels.layout import Int64Array, Layout
from headrace.kernels.operators import AttentionShape

WIDTH = 256  # contexts are padded to multiples of it: a multiple of every block size
GATHER_BYTES = 256 << 20  # keys, and as many values, that one group's contexts may take
# A graph pads all contexts to the widest one's power of two. Reading padding costs more than the
# launches a graph saves somewhere above this; estimated from bandwidths, not measured.
GRAPH_BYTES = 64 << 20
GRAPH_ROWS = 256
TILE_ELEMENTS = 8 << 20  # (row, key) pairs of a tile of a long slice: bounds masks


@dataclass(frozen=True, slots=True)
class Singles:
    """``count`` rows from ``first`` on, single tokens, whose contexts are ``blocks`` blocks."""

    first: int
    count: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Long:
    """A slice of ``length`` rows from ``row`` on; its first row is at position ``start``."""

    row: int
    start: int
    length: int
    blocks: int


@dataclass(frozen=True, slots=True)
class StepShape:
    """What fixes every shape and every place in the vector: equal shapes run the same kernels."""

    padded: int
    samples: int
    groups: tuple[Singles, ...]
    longs: tuple[Long, ...]
    block_size: int
    null_block: int

    @property
    def size(self) -> int:
        """Integers in the vector."""
        cells = sum(g.count * g.blocks for g in self.groups) + sum(s.blocks for s in self.longs)
        return 3 * self.padded + self.samples + cells


@dataclass(frozen=True, slots=True)
class StepVector:
    """Views of the vector, int64.

    tokens, positions, slots: [padded]; rows past the layout's are token 0 at position 0, and their
    slot is the first of the null block. sampled: [samples] rows. groups: [count, blocks] block
    tables each; longs: [blocks] each.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    sampled: torch.Tensor
    groups: tuple[torch.Tensor, ...]
    longs: tuple[torch.Tensor, ...]


def padded_width(keys: int) -> int:
    """Keys that a context of ``keys`` is padded to: at most a quarter more, and whole WIDTHs."""
    step = max(WIDTH, 1 << max(0, keys.bit_length() - 3))
    return -(-keys // step) * step


def step_shape(layout: Layout, shape: AttentionShape, itemsize: int) -> StepShape:
    """Single rows in groups of one padded width, each long slice on its own."""
    size = layout.block_size
    longs = []
    for i in range(layout.singles, layout.slices):
        start, length = int(layout.starts[i]), int(layout.lengths[i])
        blocks = padded_width(start + length) // size
        longs.append(Long(int(layout.row_starts[i]), start, length, blocks))
    groups = tuple(_groups(layout, shape.kv_heads * shape.head_dim * itemsize))
    return StepShape(
        layout.padded, len(layout.sampled), groups, tuple(longs), size, layout.null_block
    )


def graph_shape(layout: Layout, shape: AttentionShape, itemsize: int) -> StepShape | None:
    """The shape of a step of single rows only, such that few shapes serve all of them.

    All rows are one group, padded rows too, their contexts as wide as a power of two, and logits
    are computed of every row. None where a slice is longer, or the step is too large to be padded
    so.
    """
    if not layout.slices or layout.singles != layout.slices or layout.padded > GRAPH_ROWS:
        return None
    widest = max(WIDTH, 1 << int(layout.starts.max()).bit_length())
    bytes_ = layout.padded * widest * shape.kv_heads * shape.head_dim * itemsize
    if bytes_ > GRAPH_BYTES or len(layout.sampled) > layout.padded:
        return None
    group = Singles(0, layout.padded, widest // layout.block_size)
    return StepShape(
        layout.padded, layout.padded, (group,), (), layout.block_size, layout.null_block
    )


def _groups(layout: Layout, key_bytes: int) -> Iterator[Singles]:
    """Runs of equal padded width (contexts are sorted), cut where a gather would be too large."""
    widths = [padded_width(int(start) + 1) for start in layout.starts[: layout.singles]]
    first = 0
    for i in range(1, len(widths) + 1):
        most = max(1, GATHER_BYTES // (widths[first] * key_bytes))
        if i == len(widths) or widths[i] != widths[first] or i - first == most:
            yield Singles(first, i - first, widths[first] // layout.block_size)
            first = i


def pack(layout: Layout, shape: StepShape, out: Int64Array) -> None:
    """Write the layout's integers to ``out`` [shape.size], in the order that ``unpack`` reads."""
    rows, padded = layout.rows, shape.padded
    out[:] = 0
    out[:rows] = layout.tokens
    out[padded : padded + rows] = layout.positions
    slots = out[2 * padded : 3 * padded]
    slots[:rows] = layout.slots
    slots[rows:] = shape.null_block * shape.block_size
    at = 3 * padded
    out[at : at + len(layout.sampled)] = layout.sampled
    at += shape.samples
    for group in shape.groups:
        table = out[at : at + group.count * group.blocks].reshape(group.count, group.blocks)
        table[:] = shape.null_block
        for row in range(min(group.count, layout.singles - group.first)):
            blocks = layout.table(group.first + row)
            table[row, : len(blocks)] = blocks
        at += group.count * group.blocks
    for slice_, long in enumerate(shape.longs, layout.singles):
        blocks = layout.table(slice_)
        out[at : at + long.blocks] = shape.null_block
        out[at : at + len(blocks)] = blocks
        at += long.blocks


def unpack(vector: torch.Tensor, shape: StepShape) -> StepVector:
    """Views of ``vector`` [shape.size]."""
    sizes = [shape.padded] * 3 + [shape.samples]
    sizes += [g.count * g.blocks for g in shape.groups] + [s.blocks for s in shape.longs]
    parts = torch.split(vector, sizes)
    tables = tuple(
        part.view(group.count, group.blocks)
        for part, group in zip(parts[4:], shape.groups, strict=False)
    )
    return StepVector(
        parts[0], parts[1], parts[2], parts[3], tables, tuple(parts[4 + len(tables) :])
    )


class Uploader:
    """Copies vectors of integers to a device, through one page-locked buffer where that helps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffer = torch.empty(0, dtype=torch.int64)
        self._copied: torch.cuda.Event | None = None

    def send(self, layout: Layout, shape: StepShape, into: torch.Tensor) -> None:
        """Pack the layout and copy it ``into`` int64 [shape.size]; the copy may still be under way.

        It is ordered before whatever the current stream is given next.
        """
        pinned = self._device.type == "cuda"
        if self._copied is not None:
            self._copied.synchronize()  # the last step's copy may not have been made yet
        if len(self._buffer) < shape.size:
            self._buffer = torch.empty(2 * shape.size, dtype=torch.int64, pin_memory=pinned)
        host = self._buffer[: shape.size]
        pack(layout, shape, host.numpy())
        into.copy_(host, non_blocking=pinned)
        if pinned:
            self._copied = self._copied or torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(self._device))
