"""Check chosen operators on this machine: are they right, and are their rows independent?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headrace.kernels.layout import Layout, lay_out
from headrace.kernels.operators import AttentionShape, Operators, Weight
from headrace.kernels.probe import cancelling_rows
from headrace.kernels.rope import rope_tables

SHAPE = AttentionShape(heads=6, kv_heads=2, head_dim=64)
BLOCK_SIZE = 16
NULL_BLOCK = 0
# Fraction of the largest element: a few hundred roundings of the format that results are kept in.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@dataclass(frozen=True, slots=True)
class Check:
    """One property of the operators, whether it holds, and by how much."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Context:
    """A sequence for the attention check: its blocks, and the rows [start, end) to compute."""

    start: int
    end: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cache:
    """See kernels.operators.LayerCache."""

    keys: torch.Tensor
    values: torch.Tensor


def check_operators(operators: Operators) -> list[Check]:
    """Run products and attention on made-up data, alone and in company. A second at most."""
    tolerance = TOLERANCES.get(operators.weight_dtype, max(TOLERANCES.values()))
    return [*_check_products(operators, tolerance), *_check_attention(operators, tolerance)]


def _check_products(operators: Operators, tolerance: float) -> list[Check]:
    device = operators.device
    ones = torch.ones(576, device=device)

    def product(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        padded = torch.zeros(operators.padded_rows(len(x)), 576)
        padded[: len(x)] = x
        normed = operators.norm(padded.to(device), ones, 1e-6)
        return operators.linear(normed, weight)[: len(x)].float().cpu()

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 576, generator=generator)
    weight = torch.randn(192, 576, generator=generator)
    normed = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    exact = normed @ weight.to(operators.weight_dtype).double().T
    found = product(x, operators.pack(weight.to(device)))

    # Ordinary operands hide another order of summation behind the rounding to bfloat16.
    x, weight = cancelling_rows(200, 192, 576, torch.float32)
    packed = operators.pack(weight.to(device, operators.weight_dtype))
    together = product(x, packed)
    pieces = [(0, 1), (7, 1), (3, 2), (10, 3), (0, 17), (40, 64), (1, 199)]
    differing = [
        count
        for first, count in pieces
        if not torch.equal(product(x[first : first + count], packed), together[first:][:count])
    ]
    return [
        _close("products are right", found, exact, tolerance),
        _independent("a row's product is the same in any batch", differing, "rows"),
    ]


def _check_attention(operators: Operators, tolerance: float) -> list[Check]:
    contexts = [
        Context(end - 1, end, tuple(range(1 + 20 * i, 21 + 20 * i)))
        for i, end in enumerate((1, 5, 64, 130, 300))
    ]
    contexts += [Context(30, 70, tuple(range(101, 121))), Context(0, 290, tuple(range(121, 141)))]
    generator = torch.Generator().manual_seed(2)
    size = (141, SHAPE.kv_heads, BLOCK_SIZE, SHAPE.head_dim)
    keys, values = (torch.randn(size, generator=generator) for _ in range(2))
    keys[NULL_BLOCK], values[NULL_BLOCK] = 0.0, 0.0
    flat = (size[0] * size[1], size[2] * size[3])
    dtype, device = operators.cache_dtype, operators.device
    cache = Cache(*(x.view(flat).to(device, dtype) for x in (keys, values)))
    queries = [
        torch.randn(c.end - c.start, SHAPE.heads, SHAPE.head_dim, generator=generator) / 8.0
        for c in contexts
    ]
    rope = rope_tables([1.0] * (SHAPE.head_dim // 2), 512, device=device)

    def attend(of: Sequence[Context], rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        layout = _layout(of, operators)
        prepared = operators.prepare(layout, SHAPE, rope)
        out = operators.attention(torch.cat(list(rows)).to(device), cache, prepared)
        return list(out[: layout.rows].float().cpu().split([len(x) for x in rows]))

    together = attend(contexts, queries)
    exact = [
        _exact_attention(q, c, keys.to(dtype), values.to(dtype))
        for q, c in zip(queries, contexts, strict=True)
    ]
    differing = [
        c.end
        for c, x, y in zip(contexts, queries, together, strict=True)
        if not torch.equal(attend([c], [x])[0], y)
    ]
    # the longest slice again, in pieces: a single row, and two chunks
    whole, x, y = contexts[-1], queries[-1], together[-1]
    for low, high in ((whole.end - 1, whole.end), (0, 33), (33, whole.end)):
        piece = Context(whole.start + low, whole.start + high, whole.blocks)
        if not torch.equal(attend([piece], [x[low:high]])[0], y[low:high]):
            differing.append(piece.end)
    return [
        _close("attention is right", torch.cat(together), torch.cat(exact), tolerance),
        _independent("a row's attention is the same in any batch", differing, "tokens of context"),
    ]


def _layout(contexts: Sequence[Context], operators: Operators) -> Layout:
    lengths = [c.end - c.start for c in contexts]
    rows = sum(lengths)
    return lay_out(
        [0] * rows,
        [c.start for c in contexts],
        lengths,
        [block for c in contexts for block in c.blocks[: -(-c.end // BLOCK_SIZE)]],
        [],
        block_size=BLOCK_SIZE,
        null_block=NULL_BLOCK,
        padded=operators.padded_rows(rows),
        device=operators.device,
    )


def _exact_attention(
    queries: torch.Tensor, context: Context, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Softmax attention in float64, row by row: [rows, H * D]."""
    blocks = list(context.blocks)

    def gather(cache: torch.Tensor) -> torch.Tensor:
        heads = cache[blocks].double().transpose(0, 1).reshape(SHAPE.kv_heads, -1, SHAPE.head_dim)
        return heads[:, : context.end].repeat_interleave(SHAPE.group, 0)

    k, v = gather(keys), gather(values)
    scores = queries.double().transpose(0, 1) @ k.transpose(1, 2)
    row = torch.arange(context.start, context.end)[:, None]
    scores = scores.masked_fill(torch.arange(context.end) > row, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(queries), -1)


def _close(name: str, found: torch.Tensor, exact: torch.Tensor, tolerance: float) -> Check:
    error = float((found.double() - exact).abs().max() / exact.abs().max())
    return Check(name, error <= tolerance, f"largest error {error:.1e}, allowed {tolerance:.0e}")


def _independent(name: str, differing: Sequence[int], unit: str) -> Check:
    if differing:
        return Check(name, False, f"differs at {', '.join(map(str, differing))} {unit}")
    return Check(name, True, "bit for bit")
