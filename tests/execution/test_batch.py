"""build_batch: every row of a step stands once, where its sequence's tokens and blocks say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.execution.batch import build_batch
from headrace.kernels.layout import Layout, lay_out
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Slice, Step
from tests.execution.tiny import sequence

CPU = torch.device("cpu")
BLOCK = 4


def make(pieces: list[tuple[int, int, bool]]) -> Step:
    """A step of (start, length, samples), each of a sequence with tokens and blocks of its own."""
    slices = []
    for i, (start, length, samples) in enumerate(pieces):
        count = -(-(start + length) // BLOCK)
        blocks = [1000 * i + 7 * b % 1000 for b in range(count + i % 2)]
        tokens = [1000 * i + t for t in range(start + length)]
        slices.append(Slice(sequence(tokens, blocks), start, length, samples))
    return Step(1, tuple(slices))


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from((1, 1, 1, 2, 9)), st.booleans()), max_size=6
    )
)
def test_a_layout_says_of_every_row_what_its_sequence_says(
    pieces: list[tuple[int, int, bool]],
) -> None:
    step = make(pieces)
    batch = build_batch(step, BLOCK, 9999, lambda rows: rows + 3, CPU)
    layout = batch.layout
    ends = [int(s) + int(n) for s, n in zip(layout.starts, layout.lengths, strict=True)]
    singles = [end for end, n in zip(ends, layout.lengths, strict=True) if n == 1]
    assert layout.singles == len(singles)
    assert ends[: len(singles)] == sorted(singles)
    assert (layout.lengths[len(singles) :] > 1).all()
    assert layout.rows == step.tokens
    assert layout.padded == layout.rows + 3
    found: dict[int, int] = {}  # by the sequence's number: the layout's slice
    for i in range(layout.slices):
        row, start, length = (int(a[i]) for a in (layout.row_starts, layout.starts, layout.lengths))
        owner = int(layout.tokens[row]) // 1000
        found[owner] = i
        seq = step.slices[owner].sequence
        assert (step.slices[owner].start, step.slices[owner].length) == (start, length)
        assert layout.table(i).tolist() == seq.blocks[: -(-(start + length) // BLOCK)]
        for j in range(length):
            position = start + j
            assert layout.tokens[row + j] == seq.tokens[position]
            assert layout.positions[row + j] == position
            slot = seq.blocks[position // BLOCK] * BLOCK + position % BLOCK
            assert layout.slots[row + j] == slot
    assert len(found) == len(pieces)
    assert list(batch.sampling) == [i for i, piece in enumerate(pieces) if piece[2]]
    for r, i in enumerate(batch.sampling):
        last = layout.row_starts[found[i]] + layout.lengths[found[i]] - 1
        assert layout.sampled[r] == last
        assert batch.sequences[r] is step.slices[i].sequence
    fresh = [
        b for s in step.slices for b in s.sequence.blocks[-(-s.start // BLOCK) : -(-s.end // BLOCK)]
    ]
    assert sorted(batch.fresh) == sorted(fresh)


def test_flat_arrays_are_contiguous_and_of_the_types_that_kernels_read() -> None:
    layout = build_batch(make([(3, 1, True), (0, 6, True)]), BLOCK, 99, lambda n: n, CPU).layout
    for name in ("tokens", "positions", "starts", "lengths", "row_starts", "table_starts",
                 "tables", "sampled"):  # fmt: skip
        array = getattr(layout, name)
        assert array.dtype == np.int32, name
        assert array.flags.c_contiguous, name
    assert layout.slots.dtype == np.int64
    assert layout.slots.flags.c_contiguous


def test_tensors_are_the_padded_arrays() -> None:
    layout = build_batch(make([(3, 1, True), (0, 6, True)]), BLOCK, 99, lambda n: n + 2, CPU).layout
    assert layout.token_tensor.tolist() == [*layout.tokens, 0, 0]
    assert layout.position_tensor.tolist() == [*layout.positions, 0, 0]
    assert layout.slot_tensor.tolist() == layout.slots.tolist()
    assert layout.sampled_tensor.tolist() == layout.sampled.tolist()
    assert layout.token_tensor.dtype is torch.int64
    assert layout.token_tensor is layout.token_tensor


def test_an_empty_step_is_an_empty_layout() -> None:
    layout = build_batch(Step(1, ()), BLOCK, 99, lambda n: n, CPU).layout
    assert (layout.rows, layout.slices, layout.singles) == (0, 0, 0)


def lay_out_two(tokens: list[int], tables: list[int]) -> Layout:
    return lay_out(tokens, [0, 5], [1, 2], tables, [], block_size=4, null_block=9)


def test_slices_that_do_not_add_up_are_refused() -> None:
    assert lay_out_two([1, 2, 3], [0, 1, 2]).rows == 3
    with pytest.raises(ValueError, match="2 tokens and 3 block ids were given"):
        lay_out_two([1, 2], [0, 1, 2])
    with pytest.raises(ValueError, match="3 rows and 3 blocks of 4"):
        lay_out_two([1, 2, 3], [0, 1])


def test_a_sequence_with_too_few_blocks_is_named() -> None:
    seq = Sequence.of(Request(id="short", prompt=(1,) * 9, max_tokens=1), 0)
    seq.blocks = [0, 1]
    with pytest.raises(ValueError, match=r"short.*has 2 blocks; its slice \[0, 9\) needs 3"):
        build_batch(Step(1, (Slice(seq, 0, 9, True),)), BLOCK, 99, lambda n: n, CPU)
