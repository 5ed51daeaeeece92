"""Attention of gathered contexts, in two forms; which one runs is found by a probe at start.

``FusedAttention`` is torch's scaled dot product attention. On CUDA the memory-efficient kernel is
asked for: it walks the keys in ascending blocks, one thread block per query tile, never splits a
context and never looks at the batch, so that rows should depend on themselves alone. ``probe``
checks that on the device at hand.

``LadderAttention`` is for devices that fail it. All its products are batched products of one shape,
[b, 16, D] x [b, D, 256] and [b, 16, 256] x [b, 256, D + 8], where b comes from a ladder of counts
that a probe found to agree bit for bit: no product is called with a shape that was not probed. The
sum of the exponentials is one more column of the values, so that no reduction is left to a library
whose order might depend on the call; splits of 256 keys, anchored at absolute positions, are added
in ascending order (the fixed split size of He 2025, "Defeating nondeterminism in LLM inference").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from headrace.kernels.linear import agreeing_rungs
from headrace.kernels.probe import cancelling_rows

SPLIT = 256
QUERY_ROWS = 16
BATCHES = (1, 8, 64, 512)
ONES = 8  # columns appended to the values: one of ones, the others keep rows aligned
SCORE_ELEMENTS = 4 << 20  # scores worked on at once
DIFFERENT = 4  # operands of a probe, repeated to fill a batch
NEVER = float("-inf")


class Attention(Protocol):
    """softmax(q k^T) v over the keys that a row sees; q is already scaled.

    q: [A, B, L, D]; k, v: [A, B, W, D], or [A, 1, W, D] where all of B share their keys; W is a
    multiple of 256. Keys that a row does not see weigh exactly zero, but must be finite.
    """

    name: str

    def mask(self, seen: torch.Tensor, width: int, dtype: torch.dtype) -> Any:
        """From ``seen`` [A or 1, 1 or L], how many keys a row sees, what ``__call__`` takes."""
        ...

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any
    ) -> torch.Tensor:
        """[A, B, L, D] in q's format."""
        ...


class FusedAttention:
    """torch.nn.functional.scaled_dot_product_attention with a bias of 0 and -inf."""

    name = "scaled dot product"

    def mask(self, seen: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
        """[A or 1, 1, 1 or L, W]."""
        hidden = torch.arange(width, device=seen.device) >= seen[:, :, None]
        bias = torch.zeros(hidden.shape, dtype=dtype, device=seen.device)
        return bias.masked_fill_(hidden, NEVER)[:, None]

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        k, v = (x.expand(-1, q.shape[1], -1, -1) for x in (k, v))
        attend = torch.nn.functional.scaled_dot_product_attention
        if q.device.type != "cuda":
            return attend(q, k, v, attn_mask=mask, scale=1.0)
        # of the kernels that take a bias, the one whose order of sums is fixed
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return attend(q, k, v, attn_mask=mask, scale=1.0)


@dataclass(frozen=True, slots=True)
class Seen:
    """Keys that each row sees, int64 [A or 1, 1 or L], of ``width`` keys."""

    keys: torch.Tensor
    width: int


class LadderAttention:
    """Attention in float32 by products of one shape; see the module's docstring."""

    name = "products of fixed shape"

    def __init__(self, device: torch.device, head_dim: int) -> None:
        self._scores, self._values = _batch_ladders(device, head_dim)

    def mask(self, seen: torch.Tensor, width: int, dtype: torch.dtype) -> Seen:
        del dtype
        return Seen(seen, width)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Seen
    ) -> torch.Tensor:
        many, heads, length, dim = q.shape
        seen = mask.keys[:, None].expand(many, heads, length)
        if k.shape[1] == heads:  # a unit, whose rows share their keys, is one of B
            units, rows = many * heads, length
        else:
            units, rows = many, heads * length
        tiles = -(-rows // QUERY_ROWS)
        queries = _in_tiles(q.reshape(units, rows, dim).float(), tiles)
        visible = _in_tiles(seen.reshape(units, rows, 1), tiles)[..., 0]
        keys, values = (x.reshape(units, mask.width, dim) for x in (k, v))
        owner = torch.arange(units, device=q.device)[:, None].expand(-1, tiles).reshape(-1)
        out = torch.empty_like(queries)
        step = max(1, SCORE_ELEMENTS // (QUERY_ROWS * mask.width))
        for low in range(0, len(queries), step):
            piece = slice(low, low + step)
            of = owner[piece]
            out[piece] = self._attend(
                queries[piece],
                keys.index_select(0, of).float(),
                values.index_select(0, of).float(),
                visible[piece],
            )
        whole = out.view(units, tiles * QUERY_ROWS, dim)[:, :rows]
        return whole.reshape(many, heads, length, dim).to(q.dtype)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        """q [C, 16, D], k and v [C, W, D], seen [C, 16] -> [C, 16, D], all float32."""
        count, rows, dim = q.shape
        width = k.shape[1]
        splits = width // SPLIT
        spread = q[:, None].expand(count, splits, rows, dim).reshape(-1, rows, dim)
        scores = _batched(spread, k.reshape(-1, SPLIT, dim).transpose(1, 2), self._scores)
        scores = scores.view(count, splits, rows, SPLIT).transpose(1, 2)
        keys = torch.arange(width, device=q.device).view(splits, SPLIT)
        scores = scores.masked_fill(keys >= seen[:, :, None, None], NEVER)
        weights = (scores - scores.amax((-2, -1), keepdim=True)).exp_()
        weights = weights.transpose(1, 2).reshape(-1, rows, SPLIT)
        ones = v.new_zeros(count, width, ONES)
        ones[..., 0] = 1.0
        wide = torch.cat((v, ones), -1).view(-1, SPLIT, dim + ONES)
        sums = _batched(weights, wide, self._values).view(count, splits, rows, dim + ONES)
        total = sums[:, 0].clone()
        for i in range(1, splits):
            total += sums[:, i]
        return total[..., :dim] / total[..., dim : dim + 1]


def _in_tiles(x: torch.Tensor, tiles: int) -> torch.Tensor:
    """[units, rows, n] -> [units * tiles, 16, n]; rows added are zeros, or see one key."""
    fill = 0 if x.is_floating_point() else 1
    padded = x.new_full((len(x), tiles * QUERY_ROWS, x.shape[-1]), fill)
    padded[:, : x.shape[1]] = x
    return padded.view(-1, QUERY_ROWS, x.shape[-1])


def _batched(a: torch.Tensor, b: torch.Tensor, rungs: Sequence[int]) -> torch.Tensor:
    """torch.bmm of a [n, 16, k] and b [n, k, m], called with batch counts of ``rungs`` only."""
    results, at = [], 0
    while at < len(a):
        left = len(a) - at
        size = next((r for r in rungs if r >= left), rungs[-1])
        x, y = a[at : at + size], b[at : at + size]
        if len(x) < size:
            x = torch.cat((x, x.new_zeros(size - len(x), *x.shape[1:])))
            y = _lengthened(y, size)
        results.append(torch.bmm(x, y)[:left])
        at += size
    return results[0] if len(results) == 1 else torch.cat(results)


def _lengthened(y: torch.Tensor, size: int) -> torch.Tensor:
    """y [n, k, m] with zeros to [size, k, m], its last two dimensions laid out as they were."""
    turned = y.stride(-1) != 1
    whole = y.transpose(1, 2) if turned else y
    whole = torch.cat((whole, whole.new_zeros(size - len(whole), *whole.shape[1:])))
    return whole.transpose(1, 2) if turned else whole


def _batch_ladders(device: torch.device, head_dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batch counts that agree for the scores, and for the weighted values."""
    keys = _operands(device, SPLIT, head_dim)
    columns = _operands(device, head_dim + ONES, SPLIT)
    weights, values = columns[0], columns[1].transpose(1, 2).contiguous()
    return (
        _agreeing_batches(keys[0], keys[1].transpose(1, 2)),
        _agreeing_batches(weights, values),
    )


def _operands(device: torch.device, columns: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[512, 16, size] and [512, columns, size] whose products cancel; a few different ones."""
    pairs = [
        cancelling_rows(QUERY_ROWS, columns, size, torch.float32, seed, device)
        for seed in range(DIFFERENT)
    ]
    many = BATCHES[-1] // DIFFERENT
    return torch.stack([x for x, _ in pairs] * many), torch.stack([w for _, w in pairs] * many)


def _agreeing_batches(a: torch.Tensor, b: torch.Tensor) -> tuple[int, ...]:
    """Counts that agree, and are the same for any row of a product and any product of a batch."""

    def product(x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x, b[: len(x)])

    def same_anywhere(count: int) -> bool:
        x, y = a[:count], b[:count]
        expected = torch.bmm(x, y)
        rolled = (torch.equal(torch.bmm(x.roll(n, 1), y), expected.roll(n, 1)) for n in (1, 8))
        return all(rolled) and torch.equal(expected[DIFFERENT:], expected[:-DIFFERENT])

    steady = [count for count in BATCHES if same_anywhere(count)]
    return agreeing_rungs(product, a, steady or BATCHES)


def choose_attention(
    device: torch.device, head_dim: int, dtype: torch.dtype
) -> tuple[Attention, str]:
    """The fused form where its rows are independent here, else the other; and the reason."""
    try:
        differing = probe(FusedAttention(), device, head_dim, dtype)
    except RuntimeError as error:
        differing = f"fails ({str(error).splitlines()[0]})"
    if not differing:
        return FusedAttention(), "self-check passed: rows do not depend on the call"
    return LadderAttention(device, head_dim), f"torch's fused attention {differing} here"


def probe(attention: Attention, device: torch.device, head_dim: int, dtype: torch.dtype) -> str:
    """What changes a row's bits: other rows, chunks, padding or the batch; empty when nothing.

    Compares every row of a context of 600 tokens computed at once with the same rows in chunks,
    and as single rows, alone and in batches, against contexts padded to several widths.
    """
    heads, group, context, widest = 2, 3, 600, 2048
    generator = torch.Generator(device).manual_seed(head_dim)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    k, v = made(heads, 1, widest, head_dim), made(heads, 1, widest, head_dim)
    # Scores of many sizes, so that weights of many keys count in a sum.
    q = made(heads, group, context, head_dim) * (2 * head_dim**-0.5)

    def chunk(start: int, end: int, width: int) -> torch.Tensor:
        seen = torch.arange(start + 1, end + 1, device=device)[None]
        keys, values = k[:, :, :width], v[:, :, :width]
        return attention(q[:, :, start:end], keys, values, attention.mask(seen, width, dtype))

    def singles(places: list[int], width: int) -> torch.Tensor:
        at = torch.tensor(places, device=device)
        queries = q[:, :, at].permute(2, 0, 1, 3)
        keys, values = (x[None, :, 0, :width].expand(len(places), -1, -1, -1) for x in (k, v))
        mask = attention.mask(at[:, None] + 1, width, dtype)
        found = attention(queries, keys.contiguous(), values.contiguous(), mask)
        return found.permute(1, 2, 0, 3)

    whole = chunk(0, context, 768)
    for start, end in ((0, 1), (0, 7), (3, 67), (64, 320), (511, 600)):
        width = -(-end // SPLIT) * SPLIT
        if not torch.equal(chunk(start, end, width), whole[:, :, start:end]):
            return f"changes with the chunk ({end - start} rows of {width} keys)"
    for width in (768, 1024, widest):
        for places in ([0], [599], [1, 63, 64, 255, 256, 511], list(range(0, 600, 13))):
            if not torch.equal(singles(places, width), whole[:, :, places]):
                return f"changes with the batch ({len(places)} single rows of {width} keys)"
    return ""
