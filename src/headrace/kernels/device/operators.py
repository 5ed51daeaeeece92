"""Operators on a device with its own memory, in torch: the paged cache, any number of rows.

What is guaranteed: a row's bits depend on that row alone, as far as these hold on the device.
A library that is given the same shapes twice runs the same kernel twice. Products agree for the
row counts and places that a probe compared at start, with operands whose rounding shows any other
order of sums; none is called with a shape that was not probed (linear.py, attention.py), but for
torch's fused attention, which is probed on a sample of shapes and taken only if all agree.
Element-wise operations and norms of whole rows do not look at other rows. ``check_operators`` tests
the sum of it on the device, and ``headrace doctor`` tells. Bits differ between devices, and between
a device and the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from headrace.kernels.device.attention import Attention
from headrace.kernels.device.linear import DeviceHead, DeviceLinear, Ladders
from headrace.kernels.device.step import (
    TILE_ELEMENTS,
    WIDTH,
    Long,
    StepShape,
    Uploader,
    step_shape,
    unpack,
)
from headrace.kernels.layout import Layout
from headrace.kernels.linear import common_rungs, ladder_rows
from headrace.kernels.operators import AttentionShape, HeadNorms, LayerCache, RopeTables


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Single rows [first, first + count). index: [count * K * blocks] cache rows."""

    first: int
    count: int
    index: torch.Tensor
    mask: Any


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Rows [first, last) of a step, of one slice, against its first ``width`` padded keys."""

    first: int
    last: int
    width: int
    mask: Any


@dataclass(frozen=True, slots=True)
class LongPlan:
    """A slice of several rows. index: [K * blocks] cache rows."""

    index: torch.Tensor
    tiles: tuple[TilePlan, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the layers of one step share, on the device.

    tokens [R], sampled [samples]; cos, sin [R, 1, D]; slots [R * K]: places in the cache, which
    rows of padding have in the null block; live [R, 1]: false for those rows.
    """

    shape: AttentionShape
    rows: int
    tokens: torch.Tensor
    sampled: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    slots: torch.Tensor
    live: torch.Tensor
    groups: tuple[GroupPlan, ...]
    longs: tuple[LongPlan, ...]


class DeviceOperators:
    """Torch operators with weights and cache in float32 or bfloat16 on ``device``.

    ``attention`` is what ``choose_attention`` found for this device and number format.
    """

    name = "torch, paged"

    def __init__(
        self, device: torch.device, weight_dtype: torch.dtype, attention: Attention
    ) -> None:
        self.device = device
        self.weight_dtype = self.cache_dtype = weight_dtype
        self.attend = attention
        self.ladders = Ladders(device)
        self.uploader = Uploader(device)
        self._packed: list[DeviceLinear] = []
        self._step_rungs: tuple[int, ...] | None = None

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> DeviceLinear:
        packed = DeviceLinear(
            weight.to(self.device, self.weight_dtype),
            None if bias is None else bias.to(self.device),
        )
        packed.rungs = self.ladders.rungs(packed)
        self._packed.append(packed)
        self._step_rungs = None
        return packed

    def pack_gated(
        self,
        gate: torch.Tensor,
        up: torch.Tensor,
        gate_bias: torch.Tensor | None = None,
        up_bias: torch.Tensor | None = None,
    ) -> DeviceLinear:
        """Both as one matrix [2 I, E]: one product."""
        biases = [b for b in (gate_bias, up_bias) if b is not None]
        return self.pack(torch.cat((gate, up)), torch.cat(biases) if biases else None)

    def pack_head(self, weight: torch.Tensor) -> DeviceHead:
        packed = DeviceHead(weight.to(self.device, self.weight_dtype), None)
        packed.rungs = self.ladders.head_rungs(packed)
        return packed

    def padded_rows(self, rows: int) -> int:
        if self._step_rungs is None:
            self._step_rungs = common_rungs(self._packed)
        return ladder_rows(rows, self._step_rungs) if self._step_rungs else rows

    def prepare(self, layout: Layout, shape: AttentionShape, rope: RopeTables) -> Prepared:
        step = step_shape(layout, shape, self.cache_dtype.itemsize)
        vector = torch.empty(step.size, dtype=torch.int64, device=self.device)
        self.uploader.send(layout, step, vector)
        return self.derive(vector, step, shape, rope)

    def derive(
        self, vector: torch.Tensor, step: StepShape, shape: AttentionShape, rope: RopeTables
    ) -> Prepared:
        """From the integers of a step, on the device, what its layers share.

        The host is never waited for and shapes follow from ``step``: a graph may hold it.
        """
        ints = unpack(vector, step)
        heads, size = torch.arange(shape.kv_heads, device=self.device), step.block_size
        block, offset = ints.slots // size, ints.slots % size
        slots = (block[:, None] * shape.kv_heads + heads) * size + offset[:, None]
        groups = tuple(
            GroupPlan(
                group.first,
                group.count,
                (table[:, None] * shape.kv_heads + heads[:, None]).reshape(-1),
                self.attend.mask(
                    ints.positions[group.first : group.first + group.count, None] + 1,
                    group.blocks * size,
                    self.cache_dtype,
                ),
            )
            for group, table in zip(step.groups, ints.groups, strict=True)
        )
        longs = tuple(
            LongPlan(
                (table * shape.kv_heads + heads[:, None]).reshape(-1),
                tuple(self._tiles(long, ints.positions, size)),
            )
            for long, table in zip(step.longs, ints.longs, strict=True)
        )
        return Prepared(
            shape=shape, rows=step.padded, tokens=ints.tokens, sampled=ints.sampled,
            cos=rope.cos.index_select(0, ints.positions)[:, None, :],
            sin=rope.sin.index_select(0, ints.positions)[:, None, :],
            slots=slots.reshape(-1), live=(ints.slots != step.null_block * size)[:, None],
            groups=groups, longs=longs,
        )  # fmt: skip

    def _tiles(self, long: Long, positions: torch.Tensor, size: int) -> list[TilePlan]:
        """Tiles of at most TILE_ELEMENTS (row, key) pairs, each as wide as its last row needs."""
        step = max(1, TILE_ELEMENTS // (long.blocks * size))
        tiles = []
        for low in range(0, long.length, step):
            high = min(low + step, long.length)
            width = -(-(long.start + high) // WIDTH) * WIDTH
            first, last = long.row + low, long.row + high
            mask = self.attend.mask(positions[None, first:last] + 1, width, self.cache_dtype)
            tiles.append(TilePlan(first, last, width, mask))
        return tiles

    def embed(self, table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return table.index_select(0, tokens).float()

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps).to(self.weight_dtype)

    def linear(self, x: torch.Tensor, weight: DeviceLinear) -> torch.Tensor:
        return weight(x)

    def linear_add(
        self, x: torch.Tensor, weight: DeviceLinear, residual: torch.Tensor
    ) -> torch.Tensor:
        return residual.add_(weight(x))

    def gated_linear(self, x: torch.Tensor, weight: DeviceLinear) -> torch.Tensor:
        """silu as x / (1 + exp(-x)): torch.exp rounds alike everywhere in a tensor."""
        gate, up = (half.float() for half in weight(x).chunk(2, -1))
        denominator = gate.neg().exp_().add_(1.0)
        return denominator.reciprocal_().mul_(gate).mul_(up).to(self.weight_dtype)

    def rotate_store(
        self, qkv: torch.Tensor, cache: LayerCache, prepared: Prepared, norms: HeadNorms | None
    ) -> torch.Tensor:
        """As the protocol says, but for all padded rows; those of padding store zeros.

        They go to the null block, which is zeros already: a graph cannot leave rows out.
        """
        shape, rows = prepared.shape, prepared.rows
        dim, rotated = shape.head_dim, shape.heads + shape.kv_heads
        values = qkv[:, rotated * dim :]
        x = qkv[:, : rotated * dim].float().view(rows, rotated, dim)
        if norms is not None:
            x = torch.nn.functional.rms_norm(x, (dim,), None, norms.eps).mul(norms.weight)
        y = x.roll(dim // 2, -1).mul_(prepared.sin)
        y.add_(x * prepared.cos)
        keys = y[:, shape.heads :].reshape(rows, shape.kv_heads * dim)
        for state, new in ((cache.keys, keys), (cache.values, values)):
            kept = torch.where(prepared.live, new, 0.0).to(self.cache_dtype)
            state.view(-1, dim).index_copy_(0, prepared.slots, kept.reshape(-1, dim))
        return y[:, : shape.heads] * (1.0 / math.sqrt(dim))

    def attention(self, q: torch.Tensor, cache: LayerCache, prepared: Prepared) -> torch.Tensor:
        shape, dtype = prepared.shape, self.cache_dtype
        heads, group, dim = shape.kv_heads, shape.group, shape.head_dim
        grouped = q.reshape(-1, heads, group, dim).to(dtype)
        out = q.new_zeros(prepared.rows, heads, group, dim, dtype=dtype)
        for plan in prepared.groups:
            rows = slice(plan.first, plan.first + plan.count)
            keys, values = (
                state.index_select(0, plan.index).view(plan.count, heads, -1, dim)
                for state in (cache.keys, cache.values)
            )
            out[rows] = self.attend(grouped[rows], keys, values, plan.mask)
        for long in prepared.longs:
            keys, values = (
                state.index_select(0, long.index).view(heads, 1, -1, dim)
                for state in (cache.keys, cache.values)
            )
            for tile in long.tiles:
                rows = slice(tile.first, tile.last)
                seen = keys[:, :, : tile.width], values[:, :, : tile.width]
                found = self.attend(grouped[rows].permute(1, 2, 0, 3), *seen, tile.mask)
                out[rows] = found.permute(2, 0, 1, 3)
        return out.view(prepared.rows, shape.heads * dim).to(self.weight_dtype)

    def head(self, x: torch.Tensor, weight: DeviceHead) -> torch.Tensor:
        return weight(x)
