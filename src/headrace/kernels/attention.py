"""Paged attention in torch whose rows do not depend on batch, chunking or block size.

The arithmetic of one row, whatever it is computed with: scores against every key (a sum over the
head's dimensions, the same for any number of keys), one exact maximum, exponentials, their sum as
a running sum of sums over spans of 64 keys, and the weighted values summed span of 256 by span of
256, spans anchored at absolute positions. Keys that a row may not see weigh exactly zero, so
padding a context changes nothing. (Same idea as the fixed split size of batch-invariant kernels
in He 2025, "Defeating nondeterminism in LLM inference".)

Slices of length 1 are gathered and multiplied together, in groups small enough for the
second-level cache; longer slices each on their own, in tiles of bounded workspace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from headrace.kernels.layout import Int64Array, Layout
from headrace.kernels.operators import AttentionShape
from headrace.kernels.products import SPLIT, Products, Splits, split

SPAN = 64  # keys per partial sum of the exponentials; contexts are padded to a multiple of it
GATHER_BYTES = 5 << 18  # keys of single rows gathered at once: what stays in second-level caches
CHUNK_BYTES = 8 << 20  # keys gathered at once for a long slice
SCORE_BYTES = 8 << 20  # scores of one tile of query rows
TILE_TOKENS = 128
GROUP_BYTES = 4 << 20  # scores of a group of single rows
NEVER = float("-inf")
LOWEST = -80.0  # exp of less is below 2e-35, where some libraries are 50 times slower


@dataclass(frozen=True, slots=True)
class Mask:
    """Keys from ``visible`` on that a row must not see; it sees all before.

    bias: 0 or -inf, added to scores; keep: 1 or 0, multiplied with weights. Both are
    [.., rows, width - visible].
    """

    visible: int
    bias: torch.Tensor
    keep: torch.Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Slices of a group that are gathered together; all but ``index`` are views into the plan.

    index: [slices * K * blocks] cache rows; queries, outputs: [slices * K, rows, D];
    scores: [slices * K, rows, width]; flat, gathered: where keys, then values go, as cache rows
    and as [slices * K, width, D]; splits: weights and values, split by split.
    """

    index: torch.Tensor
    queries: torch.Tensor
    outputs: torch.Tensor
    scores: torch.Tensor
    flat: torch.Tensor
    gathered: torch.Tensor
    splits: Splits


@dataclass(frozen=True, slots=True)
class Group:
    """Single-row slices with the same number of padded keys.

    outputs: [slices * K, rows, D]; scores: [slices * K, rows, width]; seen: the view of them that
    ``mask`` is about, [slices, K, rows, width - visible].
    """

    outputs: torch.Tensor
    scores: torch.Tensor
    seen: torch.Tensor
    mask: Mask
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """Query rows [first, last) of a long slice against its first ``width`` padded keys."""

    first: int
    last: int
    width: int
    mask: Mask


@dataclass(frozen=True, slots=True)
class LongSlice:
    """A slice of several rows: where its queries are, its key chunks, its tiles.

    index: [K, blocks] cache rows. Keys are gathered ``chunk`` at a time.
    """

    row: int
    index: torch.Tensor
    chunk: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Index tensors and masks that every layer of a step shares."""

    shape: AttentionShape
    block_size: int
    rows: int
    padded: int
    singles: int
    products: Products
    queries: torch.Tensor
    outputs: torch.Tensor
    raw: torch.Tensor | None
    groups: tuple[Group, ...]
    longs: tuple[LongSlice, ...]


def _span(block_size: int) -> int:
    return math.lcm(SPAN, block_size)


def _mask(positions: Int64Array, width: int) -> Mask:
    """Mask of rows at ascending ``positions`` over ``width`` keys: [len(positions), ..]."""
    visible = int(positions[0] + 1) // SPAN * SPAN
    hidden = np.arange(visible, width, dtype=np.int64) > positions[:, None]
    bias = np.where(hidden, np.float32(NEVER), np.float32(0.0))
    return Mask(visible, torch.from_numpy(bias), torch.from_numpy((~hidden).astype(np.float32)))


def plan_attention(
    layout: Layout, shape: AttentionShape, products: Products, cache_dtype: torch.dtype
) -> AttentionPlan:
    """Build what all layers share."""
    singles = layout.singles
    rows = max(products.min_rows, shape.group)
    queries = torch.zeros(singles * shape.kv_heads, rows, shape.head_dim)
    outputs = torch.empty_like(queries)
    ranges = list(_group_ranges(layout, shape, singles))
    most = max((_gathered_rows(layout, shape, *r) for r in ranges), default=0)
    flat = torch.empty(most, layout.block_size * shape.head_dim)
    raw = None if cache_dtype is torch.float32 else flat.to(cache_dtype)
    groups = tuple(_plan_group(layout, shape, *r, queries, outputs, flat) for r in ranges)
    longs = tuple(_plan_long(layout, shape, i) for i in range(singles, layout.slices))
    return AttentionPlan(
        shape, layout.block_size, layout.rows, layout.padded, singles, products,
        queries, outputs, raw, groups, longs,
    )  # fmt: skip


def _group_ranges(
    layout: Layout, shape: AttentionShape, singles: int
) -> Iterator[tuple[int, int, int]]:
    """(first, last, width) of each group: contexts are sorted, a group has one padded width."""
    span = _span(layout.block_size)
    positions = layout.starts[:singles].astype(np.int64)
    widths = -(-(positions + 1) // span) * span
    first = 0
    while first < singles:
        last, width = first + 1, int(widths[first])
        while last < singles:
            wider = int(widths[last])
            size = (last + 1 - first) * shape.heads * wider * 4
            # a wider member makes all others pay: allow an eighth, or a span for short ones
            if size > GROUP_BYTES or wider - int(widths[first]) > max(span, width // 8):
                break
            width, last = wider, last + 1
        yield first, last, width
        first = last


def _part_size(shape: AttentionShape, width: int) -> int:
    """Slices gathered at once."""
    return max(1, GATHER_BYTES // (shape.kv_heads * width * shape.head_dim * 4))


def _gathered_rows(layout: Layout, shape: AttentionShape, first: int, last: int, width: int) -> int:
    slices = min(last - first, _part_size(shape, width))
    return slices * shape.kv_heads * width // layout.block_size


def _plan_group(
    layout: Layout, shape: AttentionShape, first: int, last: int, width: int,
    queries: torch.Tensor, outputs: torch.Tensor, flat: torch.Tensor,
) -> Group:  # fmt: skip
    heads, count = shape.kv_heads, width // layout.block_size
    blocks = np.full((last - first, count), layout.null_block, dtype=np.int64)
    for i in range(first, last):
        table = layout.table(i)
        blocks[i - first, : len(table)] = table
    index = blocks[:, None, :] * heads + np.arange(heads, dtype=np.int64)[None, :, None]
    scores = torch.empty((last - first) * heads, queries.shape[1], width)
    step = _part_size(shape, width)
    parts = []
    for low in range(0, last - first, step):
        high = min(low + step, last - first)
        rows = torch.from_numpy(index[low:high].reshape(-1))
        mine = slice((first + low) * heads, (first + high) * heads)
        weights = scores[low * heads : high * heads]
        into = flat[: len(rows)]
        gathered = into.view(-1, width, shape.head_dim)
        parts.append(
            Part(
                rows, queries[mine], outputs[mine], weights, into, gathered,
                split(weights, gathered),
            )
        )  # fmt: skip
    mask = _mask(layout.starts[first:last].astype(np.int64), width)
    mask = Mask(mask.visible, mask.bias[:, None, None], mask.keep[:, None, None])
    seen = scores.view(last - first, heads, -1, width)[..., mask.visible :]
    return Group(outputs[first * heads : last * heads], scores, seen, mask, tuple(parts))


def _plan_long(layout: Layout, shape: AttentionShape, i: int) -> LongSlice:
    span, size = _span(layout.block_size), layout.block_size
    start, length, heads = int(layout.starts[i]), int(layout.lengths[i]), shape.kv_heads
    width = -(-(start + length) // span) * span
    unit = math.lcm(SPLIT, size)
    chunk = max(unit, CHUNK_BYTES // (heads * shape.head_dim * 4) // unit * unit)
    blocks = np.full(width // size, layout.null_block, dtype=np.int64)
    table = layout.table(i)
    blocks[: len(table)] = table
    index = blocks * heads + np.arange(heads, dtype=np.int64)[:, None]
    step = max(1, min(TILE_TOKENS, SCORE_BYTES // (shape.heads * width * 4)))
    tiles = []
    for first in range(0, length, step):
        last = min(first + step, length)
        high = -(-(start + last) // span) * span
        positions = np.arange(start + first, start + last, dtype=np.int64)
        tiles.append(Tile(first, last, high, _mask(positions, high)))
    return LongSlice(
        int(layout.row_starts[i]), torch.from_numpy(index), min(chunk, width), tuple(tiles)
    )


def _weights(scores: torch.Tensor, seen: torch.Tensor, mask: Mask) -> torch.Tensor:
    """exp(scores - max) in place, zero where hidden; returns its sum over keys.

    scores: [.., rows, keys]; ``seen`` is the view of them that ``mask`` is about.
    """
    seen.add_(mask.bias)
    scores.sub_(scores.amax(-1, keepdim=True)).clamp_(min=LOWEST).exp_()
    seen.mul_(mask.keep)
    spans = scores.view(*scores.shape[:-1], scores.shape[-1] // SPAN, SPAN).sum(-1)
    return spans.cumsum(-1)[..., -1:]


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """Attention of every row of a step: q [rows, H, D], already scaled -> [padded, H * D]."""
    shape = plan.shape
    out = torch.empty(plan.padded, shape.heads * shape.head_dim)
    if plan.singles:
        _attend_singles(q, keys, values, plan, out)
    for long in plan.longs:
        _attend_long(q, keys, values, plan, long, out)
    out[plan.rows :] = 0.0
    return out


def _attend_singles(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: AttentionPlan,
    out: torch.Tensor,
) -> None:  # fmt: skip
    shape, n = plan.shape, plan.singles
    heads, dim = shape.kv_heads, shape.head_dim
    products = plan.products
    plan.queries[:, : shape.group] = q[:n].view(n * heads, shape.group, dim)
    for g in plan.groups:
        for p in g.parts:
            _gather(keys, p, plan.raw)
            products.scores(p.queries, p.gathered, p.scores)
        total = _weights(g.scores, g.seen, g.mask)
        for p in g.parts:
            _gather(values, p, plan.raw)
            products.weigh(p.splits, p.outputs, True)
        g.outputs.div_(total)
    out[:n] = plan.outputs[:, : shape.group].reshape(n, heads * shape.group * dim)


def _gather(cache: torch.Tensor, part: Part, raw: torch.Tensor | None) -> None:
    """Fill ``part.gathered``, by way of ``raw`` when the cache is not float32."""
    if raw is None:
        torch.index_select(cache, 0, part.index, out=part.flat)
    else:
        narrow = raw[: len(part.index)]
        torch.index_select(cache, 0, part.index, out=narrow)
        part.flat.copy_(narrow)


def _attend_long(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: AttentionPlan,
    long: LongSlice, out: torch.Tensor,
) -> None:  # fmt: skip
    shape, dim, heads = plan.shape, plan.shape.head_dim, plan.shape.kv_heads
    total_keys = long.index.shape[1] * plan.block_size
    whole = long.chunk >= total_keys

    def gather(cache: torch.Tensor, low: int, high: int) -> torch.Tensor:
        index = long.index[:, low // plan.block_size : high // plan.block_size].reshape(-1)
        return cache.index_select(0, index).float().view(heads, high - low, dim)

    if whole:
        all_keys, all_values = gather(keys, 0, total_keys), gather(values, 0, total_keys)
    for tile in long.tiles:
        tokens, first = tile.last - tile.first, long.row + tile.first
        count = shape.group * tokens
        padded = max(count, plan.products.min_rows)
        queries = torch.zeros(heads, padded, dim)
        x = q[first : first + tokens].view(tokens, heads, shape.group, dim).permute(1, 2, 0, 3)
        queries[:, :count].view(heads, shape.group, tokens, dim).copy_(x)
        scores = torch.empty(heads, padded, tile.width)
        chunks = [(0, tile.width)] if whole else list(_chunks(tile.width, long.chunk))
        for low, high in chunks:
            k = all_keys[:, low:high] if whole else gather(keys, low, high)
            plan.products.scores(queries, k, scores[..., low:high])
        seen = scores[:, :count].view(heads, shape.group, tokens, -1)[..., tile.mask.visible :]
        total = _weights(scores, seen, tile.mask)
        result = torch.empty(heads, padded, dim)
        for low, high in chunks:
            v = all_values[:, low:high] if whole else gather(values, low, high)
            plan.products.weigh(split(scores[..., low:high], v), result, low == 0)
        y = result.div_(total)[:, :count].view(heads, shape.group, tokens, dim)
        rows = out[first : first + tokens].view(tokens, heads, shape.group, dim)
        rows.copy_(y.permute(2, 0, 1, 3))


def _chunks(width: int, chunk: int) -> Iterator[tuple[int, int]]:
    """[0, width) cut at multiples of ``chunk``, so that splits stay anchored."""
    for low in range(0, width, chunk):
        yield low, min(low + chunk, width)
