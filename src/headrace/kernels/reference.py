"""Operators in plain torch: the reference that every faster version is checked against.

Only operations whose rows are independent of the batch are used. Multiplication, addition and
division are exact per element; torch.exp is the only transcendental (sigmoid, silu and tanh round
differently in a vector's body and in its tail); matrix products go through PackedLinear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from headrace.kernels.attention import AttentionPlan, attend, plan_attention
from headrace.kernels.layout import Layout
from headrace.kernels.linear import PackedHead, PackedLinear, RungTable, common_rungs, ladder_rows
from headrace.kernels.operators import AttentionShape, HeadNorms, LayerCache, RopeTables
from headrace.kernels.products import Products

GATE_ROWS = 64  # rows gated at once, so that temporaries stay in second-level caches


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the layers of one step share. cos, sin: [rows, 1, D]; slots: [rows * K] cache slots."""

    attention: AttentionPlan
    cos: torch.Tensor
    sin: torch.Tensor
    slots: torch.Tensor


class GatedWeight:
    """Gate and up of an MLP, each its own product."""

    __slots__ = ("format", "gate", "nbytes", "rows_in", "rows_out", "up")

    def __init__(self, gate: PackedLinear, up: PackedLinear) -> None:
        self.gate, self.up = gate, up
        self.rows_out, self.rows_in = gate.rows_out, gate.rows_in
        self.nbytes, self.format = gate.nbytes + up.nbytes, gate.format


class ReferenceOperators:
    """Torch operators with weights and cache in float32 or bfloat16.

    ``products`` multiply queries, keys and values (see kernels.products.find_products).
    """

    name = "torch"
    device = torch.device("cpu")  # packed products are oneDNN's

    def __init__(self, weight_dtype: torch.dtype, products: Products) -> None:
        self.weight_dtype = self.cache_dtype = weight_dtype
        self.products = products
        self.rungs = RungTable()
        self._packed: list[PackedLinear] = []
        self._step_rungs: tuple[int, ...] | None = None

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
        packed = PackedLinear(weight.to(self.weight_dtype), bias)
        packed.rungs = self.rungs.rungs(packed.rows_out, packed.rows_in, self.weight_dtype)
        self._packed.append(packed)
        self._step_rungs = None
        return packed

    def pack_gated(
        self,
        gate: torch.Tensor,
        up: torch.Tensor,
        gate_bias: torch.Tensor | None = None,
        up_bias: torch.Tensor | None = None,
    ) -> GatedWeight:
        return GatedWeight(self.pack(gate, gate_bias), self.pack(up, up_bias))

    def pack_head(self, weight: torch.Tensor) -> PackedHead:
        packed = PackedHead(weight.to(self.weight_dtype), None)
        packed.rungs = self.rungs.head_rungs(packed, self.weight_dtype)
        return packed

    def padded_rows(self, rows: int) -> int:
        if self._step_rungs is None:
            self._step_rungs = common_rungs(self._packed)
        rungs = self._step_rungs
        return ladder_rows(rows, rungs) if rungs else max(rows, 2)

    def prepare(self, layout: Layout, shape: AttentionShape, rope: RopeTables) -> Prepared:
        rows, heads, size = layout.rows, shape.kv_heads, layout.block_size
        positions = layout.position_tensor[:rows]
        slots = layout.slot_tensor
        block, offset = slots // size, slots % size
        head = torch.arange(heads)
        index = ((block[:, None] * heads + head) * size + offset[:, None]).reshape(-1)
        return Prepared(
            plan_attention(layout, shape, self.products, self.cache_dtype),
            rope.cos.index_select(0, positions)[:, None, :],
            rope.sin.index_select(0, positions)[:, None, :],
            index,
        )

    def embed(self, table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return table.index_select(0, tokens).float()

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        y = torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)
        return y if self.weight_dtype is torch.float32 else y.to(self.weight_dtype)

    def linear(self, x: torch.Tensor, weight: PackedLinear) -> torch.Tensor:
        return weight(x)

    def linear_add(
        self, x: torch.Tensor, weight: PackedLinear, residual: torch.Tensor
    ) -> torch.Tensor:
        return residual.add_(weight(x))

    def gated_linear(self, x: torch.Tensor, weight: GatedWeight) -> torch.Tensor:
        gate, up = weight.gate(x), weight.up(x)
        if gate.dtype is torch.float32:
            return self._gate(gate, up)
        out = torch.empty_like(gate)
        for i in range(0, len(gate), GATE_ROWS):
            piece = slice(i, i + GATE_ROWS)
            out[piece] = self._gate(gate[piece].float(), up[piece])
        return out

    @staticmethod
    def _gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up, written over ``gate``."""
        denominator = torch.neg(gate).exp_().add_(1.0)
        return gate.div_(denominator).mul_(up)

    def rotate_store(
        self, qkv: torch.Tensor, cache: LayerCache, prepared: Prepared, norms: HeadNorms | None
    ) -> torch.Tensor:
        shape = prepared.attention.shape
        rows, dim, rotated = prepared.attention.rows, shape.head_dim, shape.heads + shape.kv_heads
        v = qkv[:rows, rotated * dim :].reshape(rows * shape.kv_heads, dim)
        x = qkv[:rows, : rotated * dim].float().view(rows, rotated, dim)
        if norms is not None:
            x = torch.nn.functional.rms_norm(x, (dim,), None, norms.eps).mul(norms.weight)
        y = x.roll(dim // 2, -1).mul_(prepared.sin)
        y.add_(x * prepared.cos)
        k = y[:, shape.heads :].reshape(rows * shape.kv_heads, dim)
        for state, new in ((cache.keys, k), (cache.values, v)):
            state.view(-1, dim).index_copy_(0, prepared.slots, new.to(self.cache_dtype))
        return y[:, : shape.heads] * (1.0 / math.sqrt(dim))

    def attention(self, q: torch.Tensor, cache: LayerCache, prepared: Prepared) -> torch.Tensor:
        y = attend(q, cache.keys, cache.values, prepared.attention)
        return y if self.weight_dtype is torch.float32 else y.to(self.weight_dtype)

    def head(self, x: torch.Tensor, weight: PackedLinear) -> torch.Tensor:
        return weight(x)
