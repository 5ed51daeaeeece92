"""A step as one vector of integers: what is packed is what is read, whatever the slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.kernels.device import step
from headrace.kernels.device.step import (
    WIDTH,
    StepShape,
    Uploader,
    graph_shape,
    padded_width,
    step_shape,
    unpack,
)
from headrace.kernels.layout import Layout, lay_out
from headrace.kernels.operators import AttentionShape

SHAPE = AttentionShape(heads=4, kv_heads=2, head_dim=16)
CPU = torch.device("cpu")
NULL = 100_000


def layout_of(
    slices: list[tuple[int, int]], block_size: int = 16, padding: int = 0, sampled: int = 1,
    null_block: int = NULL,
) -> Layout:  # fmt: skip
    """Slices (start, length), with block ids that no other slice has."""
    ordered = sorted(slices, key=lambda s: (s[1] > 1, s[0] + s[1]))
    starts, lengths = zip(*ordered, strict=True)
    held = [-(-(s + n) // block_size) for s, n in ordered]
    rows = sum(lengths)
    return lay_out(
        list(range(100, 100 + rows)), starts, lengths, range(sum(held)),
        [rows - 1] * sampled, block_size=block_size, null_block=null_block, padded=rows + padding,
    )  # fmt: skip


def sent(layout: Layout, shape: StepShape) -> step.StepVector:
    vector = torch.full((shape.size,), -1, dtype=torch.int64)
    Uploader(CPU).send(layout, shape, vector)
    return unpack(vector, shape)


@given(
    slices=st.lists(
        st.tuples(st.integers(0, 900), st.sampled_from((1, 1, 1, 2, 17, 300))), min_size=1
    ),
    block_size=st.sampled_from((8, 16, 64, 256)),
    padding=st.integers(0, 9),
    sampled=st.integers(0, 3),
)
def test_what_is_packed_is_what_is_read(
    slices: list[tuple[int, int]], block_size: int, padding: int, sampled: int
) -> None:
    layout = layout_of(slices, block_size, padding, sampled)
    shape = step_shape(layout, SHAPE, 4)
    found = sent(layout, shape)
    rows = layout.rows
    assert found.tokens.tolist() == [*layout.tokens, *[0] * padding]
    assert found.positions.tolist() == [*layout.positions, *[0] * padding]
    assert found.slots.tolist() == [*layout.slots, *[NULL * block_size] * padding]
    assert found.sampled.tolist() == layout.sampled.tolist()
    tables = [row for table in found.groups for row in table] + list(found.longs)
    assert len(tables) == layout.slices
    for i, table in enumerate(tables):
        own = layout.table(i)
        assert table[: len(own)].tolist() == own.tolist()
        assert (table[len(own) :] == NULL).all()
    covered = [r for g in shape.groups for r in range(g.first, g.first + g.count)]
    covered += [r for s in shape.longs for r in range(s.row, s.row + s.length)]
    assert covered == list(range(rows))


@given(st.integers(1, 1 << 20))
def test_padding_a_context_costs_a_quarter_at_most(keys: int) -> None:
    width = padded_width(keys)
    assert keys <= width <= max(keys + WIDTH - 1, keys * 1.25)
    assert width % WIDTH == 0


def test_groups_are_cut_where_a_gather_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of([(10, 1)] * 7 + [(300, 1)] * 2)
    one = WIDTH * SHAPE.kv_heads * SHAPE.head_dim * 4
    monkeypatch.setattr(step, "GATHER_BYTES", 3 * one)
    found = [(g.first, g.count, g.blocks) for g in step_shape(layout, SHAPE, 4).groups]
    assert found == [(0, 3, 16), (3, 3, 16), (6, 1, 16), (7, 1, 32), (8, 1, 32)]


def test_few_graphs_serve_many_steps() -> None:
    shapes = {
        graph_shape(layout_of([(start, 1), (start // 2, 1)], padding=2), SHAPE, 2)
        for start in range(0, 1024, 7)
    }
    assert {s.groups[0].blocks * 16 for s in shapes if s is not None} == {256, 512, 1024}
    assert len(shapes) == 3


def test_what_a_graph_cannot_hold_runs_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graph_shape(layout_of([(5, 1), (0, 3)]), SHAPE, 2) is None
    single = layout_of([(5, 1)])
    assert graph_shape(single, SHAPE, 2) is not None
    monkeypatch.setattr(step, "GRAPH_BYTES", WIDTH * 32 * 2 - 1)
    assert graph_shape(single, SHAPE, 2) is None


def test_a_graphs_rows_of_padding_have_the_null_block_only() -> None:
    layout = layout_of([(5, 1), (40, 1)], padding=2)
    shape = graph_shape(layout, SHAPE, 2)
    assert shape is not None
    found = sent(layout, shape)
    (table,) = found.groups
    assert (table[2:] == NULL).all()
    assert found.slots[2:].tolist() == [NULL * 16] * 2
    assert found.sampled.tolist() == [1, 0, 0, 0]


def test_a_buffer_grows_and_is_used_again() -> None:
    uploader = Uploader(CPU)
    for slices in ([(3, 1)], [(0, 500)], [(9, 1), (8, 1)]):
        layout = layout_of(slices)
        shape = step_shape(layout, SHAPE, 4)
        vector = torch.empty(shape.size, dtype=torch.int64)
        uploader.send(layout, shape, vector)
        assert np.array_equal(unpack(vector, shape).tokens.numpy(), layout.tokens)
