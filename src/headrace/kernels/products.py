"""The two products of attention, in a form whose rows do not depend on the call."""

from __future__ import annotations

from typing import Protocol

import torch

from headrace.kernels.probe import cancelling_rows

SPLIT = 256  # keys per partial sum of the values

_ROWS = (1, 2, 3, 4, 6, 8, 16)  # candidates for the fewest rows
_MORE_ROWS = (5, 7, 9, 25, 97, 512)
_KEYS = (64, 192, 256)
_BATCHES = (1, 5, 48)


Splits = tuple[tuple[torch.Tensor, torch.Tensor], ...]


def split(weights: torch.Tensor, values: torch.Tensor) -> Splits:
    """[B, rows, keys] and [B, keys, D] cut into views of ``SPLIT`` keys, the last maybe fewer."""
    return tuple(
        (weights[..., low : low + SPLIT], values[:, low : low + SPLIT])
        for low in range(0, weights.shape[-1], SPLIT)
    )


class Products(Protocol):
    """Batched products in float32. A result row depends on its own row of the left side only.

    ``min_rows`` is the fewest rows a call may have; callers pad.
    """

    min_rows: int
    name: str

    def scores(self, queries: torch.Tensor, keys: torch.Tensor, out: torch.Tensor) -> None:
        """out = [B, rows, D] times [B, keys, D], [B, rows, keys]; any number of keys agrees."""
        ...

    def weigh(self, splits: Splits, out: torch.Tensor, first: bool) -> None:
        """out (+)= [B, rows, keys] times [B, keys, D], one split after the other.

        ``first``: overwrite ``out`` instead of adding. Keys past the last whose weight is not zero
        change nothing.
        """
        ...


class BatchedProducts:
    """torch.bmm. Whether it qualifies, and from how many rows on, ``find_products`` checks."""

    name = "batched"

    def __init__(self, min_rows: int) -> None:
        self.min_rows = min_rows

    def scores(self, queries: torch.Tensor, keys: torch.Tensor, out: torch.Tensor) -> None:
        torch.bmm(queries, keys.transpose(1, 2), out=out)

    def weigh(self, splits: Splits, out: torch.Tensor, first: bool) -> None:
        for p, v in splits:
            if first:
                torch.bmm(p, v, out=out)
                first = False
            else:
                out.baddbmm_(p, v)


class ElementwiseProducts:
    """Products as multiplications and sums of fixed length: slow, and right on any machine."""

    name = "elementwise"
    min_rows = 1

    def scores(self, queries: torch.Tensor, keys: torch.Tensor, out: torch.Tensor) -> None:
        for i in range(queries.shape[1]):  # one query row at a time bounds the temporary
            out[:, i] = (keys * queries[:, i : i + 1]).sum(-1)

    def weigh(self, splits: Splits, out: torch.Tensor, first: bool) -> None:
        if first:
            out.zero_()
        for p, v in splits:
            short = SPLIT - p.shape[-1]
            weights = torch.nn.functional.pad(p, (0, short))
            columns = torch.nn.functional.pad(v, (0, 0, 0, short)).transpose(1, 2).contiguous()
            for i in range(weights.shape[1]):
                out[:, i] += (columns * weights[:, i : i + 1]).sum(-1)


def find_products(head_dim: int) -> tuple[Products, str]:
    """The fastest products that pass the self-check for this head size, and the reason.

    Uses the number of threads set at the time; it must not change afterwards.
    """
    rows = smallest_agreeing_rows(head_dim)
    if rows is None:
        return ElementwiseProducts(), "torch.bmm depends on the batch here; element by element"
    return BatchedProducts(rows), f"self-check passed from {rows} query rows a product on"


def smallest_agreeing_rows(head_dim: int) -> int | None:
    """Fewest rows from which torch.bmm agrees with itself bit for bit; None if it never does.

    The operands make the products cancel, so that any other order of summation shows. Varied:
    rows, matrices in the batch, keys as columns, keys as a sum padded with zeros, strides.
    """
    check = _Check(head_dim)
    fewest = None
    for rows in sorted({*_ROWS, *_MORE_ROWS}, reverse=True):
        if not check.agrees(rows):
            break
        fewest = rows if rows in _ROWS else fewest
    return fewest


class _Check:
    def __init__(self, head_dim: int) -> None:
        top = max(_MORE_ROWS)
        self.q, self.k = _pairs(top, 2 * SPLIT, head_dim)
        self.p, columns = _pairs(top, head_dim, SPLIT)
        self.v = columns.transpose(1, 2).contiguous()
        self.scores = torch.bmm(self.q, self.k.transpose(1, 2))
        self.values = torch.bmm(self.p, self.v)
        self.sums = torch.ones_like(self.values).baddbmm_(self.p, self.v)

    def agrees(self, rows: int) -> bool:
        return self._scores_agree(rows) and self._values_agree(rows) and self._padding_agrees(rows)

    def _scores_agree(self, rows: int) -> bool:
        for batch in _BATCHES if rows <= max(_ROWS) else _BATCHES[:1]:
            pick = torch.arange(batch) % 2
            q, k = self.q[pick, :rows].contiguous(), self.k[pick]
            for keys in (*_KEYS, 2 * SPLIT):
                expected = self.scores[pick, :rows, :keys]
                columns = k[:, :keys] if batch == 1 else k[:, :keys].contiguous()
                if not torch.equal(torch.bmm(q, columns.transpose(1, 2)), expected):
                    return False
        return True

    def _values_agree(self, rows: int) -> bool:
        for batch in _BATCHES if rows <= max(_ROWS) else _BATCHES[:1]:
            pick = torch.arange(batch) % 2
            p, v = self.p[pick, :rows].contiguous(), self.v[pick]
            wide = torch.cat((p, p), -1)[..., :SPLIT]  # rows apart, as slices of scores are
            sums = torch.ones(batch, rows, v.shape[-1]).baddbmm_(wide, v)
            if not (
                torch.equal(torch.bmm(p, v), self.values[pick, :rows])
                and torch.equal(torch.bmm(wide, v), self.values[pick, :rows])
                and torch.equal(sums, self.sums[pick, :rows])
            ):
                return False
        return True

    def _padding_agrees(self, rows: int) -> bool:
        for keys in _KEYS[:-1]:
            p = self.p[:, :rows].clone()
            p[..., keys:] = 0.0
            short, v = p[..., :keys], self.v[:, :keys]
            ones = torch.ones(2, rows, v.shape[-1])
            if not (
                torch.equal(torch.bmm(p, self.v), torch.bmm(short, v))
                and torch.equal(ones.clone().baddbmm_(p, self.v), ones.baddbmm_(short, v))
            ):
                return False
        return True


def _pairs(rows: int, columns: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices [rows, size] and two [columns, size] whose products cancel."""
    pairs = [cancelling_rows(rows, columns, size, torch.float32, seed) for seed in (1, 2)]
    return torch.stack([x for x, _ in pairs]), torch.stack([w for _, w in pairs])
