"""Attention against its definition, for every way a context can be cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kernels import attention
from headrace.kernels.attention import attend, plan_attention
from headrace.kernels.layout import lay_out
from headrace.kernels.operators import AttentionShape
from headrace.kernels.products import (
    BatchedProducts,
    ElementwiseProducts,
    Products,
    find_products,
    smallest_agreeing_rows,
)


class Pages:
    """Random contexts in a cache, and slices at their ends."""

    def __init__(
        self, shape: AttentionShape, block_size: int, slices: list[tuple[int, int]], seed: int
    ) -> None:
        """``slices`` are (context before the slice, length)."""
        slices = sorted(slices, key=lambda s: (s[1] > 1, s[0] + s[1]))
        generator = torch.Generator().manual_seed(seed)
        self.shape = shape
        counts = [-(-(start + length) // block_size) for start, length in slices]
        null = sum(counts)
        order = torch.randperm(null, generator=generator).numpy()
        rows = (null + 1) * shape.kv_heads
        self.keys = torch.zeros(rows, block_size * shape.head_dim)
        self.values = torch.zeros(rows, block_size * shape.head_dim)
        self.contexts = []
        tables: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        for (start, length), count in zip(slices, counts, strict=True):
            table, order = order[:count].astype(np.int64), order[count:]
            tables.append(table)
            k, v = torch.randn(
                2, start + length, shape.kv_heads, shape.head_dim, generator=generator
            )
            self.contexts.append((k, v))
            for p in range(start + length):
                for head in range(shape.kv_heads):
                    row = int(table[p // block_size]) * shape.kv_heads + head
                    at = p % block_size * shape.head_dim
                    self.keys[row, at : at + shape.head_dim] = k[p, head]
                    self.values[row, at : at + shape.head_dim] = v[p, head]
        lengths = tuple(length for _, length in slices)
        total = sum(lengths)
        self.q = torch.randn(total, shape.heads, shape.head_dim, generator=generator)
        self.layout = lay_out(
            [0] * total,
            [start for start, _ in slices],
            lengths,
            [int(block) for table in tables for block in table],
            [],
            block_size=block_size,
            null_block=null,
            padded=total + 2,
        )

    def attend(self, products: Products) -> torch.Tensor:
        plan = plan_attention(self.layout, self.shape, products, torch.float32)
        return attend(self.q, self.keys, self.values, plan)

    def expected(self) -> torch.Tensor:
        """Softmax attention written out in double precision."""
        rows = []
        for i, (k, v) in enumerate(self.contexts):
            for j in range(self.layout.lengths[i]):
                seen = int(self.layout.starts[i]) + j + 1
                q = self.q[int(self.layout.row_starts[i]) + j].double()
                for head in range(self.shape.heads):
                    group = head // self.shape.group
                    scores = k[:seen, group].double() @ q[head]
                    rows.append(scores.softmax(0) @ v[:seen, group].double())
        return torch.stack(rows).view(len(self.q), -1)


SHAPES = (AttentionShape(6, 2, 16), AttentionShape(4, 4, 32), AttentionShape(8, 1, 24))


@settings(max_examples=25)
@given(
    shape=st.sampled_from(SHAPES),
    block_size=st.sampled_from((8, 16, 64, 128)),
    slices=st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from((1, 1, 2, 7, 40, 130))),
        min_size=1, max_size=5,
    ),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_it_is_attention(
    shape: AttentionShape, block_size: int, slices: list[tuple[int, int]], seed: int
) -> None:
    pages = Pages(shape, block_size, slices, seed)
    out = pages.attend(find_products(shape.head_dim)[0])
    assert torch.allclose(out[: len(pages.q)].double(), pages.expected(), atol=2e-5)
    assert not out[len(pages.q) :].any()


def test_elementwise_products_are_attention_too_and_do_not_depend_on_the_batch() -> None:
    pages = Pages(SHAPES[0], 16, [(300, 1), (10, 1), (250, 9)], 0)
    out = pages.attend(ElementwiseProducts())
    assert torch.allclose(out[: len(pages.q)].double(), pages.expected(), atol=2e-5)
    decoded = Pages(SHAPES[0], 16, [(300, 1)], 0)
    crowd = Pages(SHAPES[0], 16, [(300, 1), (300, 1), (0, 5)], 0)
    for i in (0, 1):
        k, v = decoded.contexts[0]
        assert crowd.layout.starts[i] == 300
        _write(crowd, i, k, v)
        crowd.q[i] = decoded.q[0]
    assert torch.equal(
        crowd.attend(ElementwiseProducts())[0], decoded.attend(ElementwiseProducts())[0]
    )


def _write(pages: Pages, i: int, k: torch.Tensor, v: torch.Tensor) -> None:
    size, dim, heads = pages.layout.block_size, pages.shape.head_dim, pages.shape.kv_heads
    for p in range(len(k)):
        for head in range(heads):
            row = int(pages.layout.table(i)[p // size]) * heads + head
            at = p % size * dim
            pages.keys[row, at : at + dim] = k[p, head]
            pages.values[row, at : at + dim] = v[p, head]


def test_bounds_on_workspace_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES[0]
    products = find_products(shape.head_dim)[0]
    pages = Pages(shape, 16, [(400, 1), (390, 1), (500, 200), (0, 600)], 5)
    roomy = pages.attend(products)
    monkeypatch.setattr(attention, "CHUNK_BYTES", 1)
    monkeypatch.setattr(attention, "SCORE_BYTES", shape.heads * 704 * 4 * 3)
    monkeypatch.setattr(attention, "GATHER_BYTES", 1)
    plan = plan_attention(pages.layout, shape, products, torch.float32)
    assert [len(g.parts) for g in plan.groups] == [2]
    assert max(len(long.tiles) for long in plan.longs) == 200
    assert all(long.chunk == attention.SPLIT for long in plan.longs)
    assert torch.equal(pages.attend(products), roomy)


def test_batched_products_are_refused_where_they_depend_on_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = torch.bmm

    def moody(a: torch.Tensor, b: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        if a.shape[1] % 2:
            order = torch.arange(a.shape[2]).roll(11)
            return honest(a[..., order], b[:, order], **kwargs)
        return honest(a, b, **kwargs)

    if not isinstance(find_products(64)[0], BatchedProducts):
        pytest.skip("this processor's own batched products depend on the batch")
    monkeypatch.setattr(torch, "bmm", moody)
    assert smallest_agreeing_rows(64) is None
    products, reason = find_products(64)
    assert isinstance(products, ElementwiseProducts)
    assert "depends on the batch" in reason


def test_the_scale_belongs_to_the_caller() -> None:
    pages = Pages(SHAPES[0], 16, [(3, 1)], 1)
    plain = pages.attend(find_products(16)[0])
    pages.q *= math.sqrt(16)
    assert not torch.allclose(plain, pages.attend(find_products(16)[0]))


def test_hidden_keys_weigh_exactly_zero() -> None:
    """However large the values of tokens to come are, a row's result stays the same."""
    shape = SHAPES[0]
    products = find_products(shape.head_dim)[0]
    pages = Pages(shape, 16, [(70, 90)], 2)
    plain = pages.attend(products)[:50]
    k, v = (context.clone() for context in pages.contexts[0])
    k[120:], v[120:] = 50.0, 1e37
    _write(pages, 0, k, v)
    assert torch.equal(pages.attend(products)[:50], plain)


def test_scores_far_apart_are_right() -> None:
    pages = Pages(SHAPES[1], 16, [(200, 1), (150, 20)], 4)
    pages.q *= 300.0
    out = pages.attend(find_products(SHAPES[1].head_dim)[0])[: len(pages.q)]
    assert torch.allclose(out.double(), pages.expected(), atol=1e-4)
