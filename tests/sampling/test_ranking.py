from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.sampling.ranking import arg_max, largest
from tests.sampling.sequences import random_logits

# Few distinct values, so that equals are everywhere; both zeros are equal.
VALUES = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 0.25, 2.0, 7.0])


def _naive(row: list[float], k: int) -> list[int]:
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


@given(st.data(), st.integers(1, 4), st.integers(1, 120))
def test_the_larger_first_then_the_lower_id(data: st.DataObject, rows: int, vocab: int) -> None:
    row = st.lists(VALUES, min_size=vocab, max_size=vocab)
    values = data.draw(st.lists(row, min_size=rows, max_size=rows))
    k = data.draw(st.integers(1, vocab))
    logits = torch.tensor(values)
    got, ids = largest(logits, k)
    assert ids.tolist() == [_naive(row, k) for row in values]
    assert torch.equal(got, logits.gather(-1, ids))
    assert arg_max(logits)[1].tolist() == [_naive(row, 1)[0] for row in values]


@pytest.mark.parametrize("k", [1, 20, 64, 512, 4096])
def test_coarse_logits_of_a_real_vocabulary_size(k: int) -> None:
    # As a bfloat16 output head gives them: thousands of equals, also across the cut.
    logits = random_logits(3, 49152).bfloat16().float()
    ids = largest(logits, k)[1]
    expected = np.argsort(-logits.numpy(), axis=-1, kind="stable")[:, :k]
    assert np.array_equal(ids.numpy(), expected)
    for r in range(3):
        assert torch.equal(largest(logits[r : r + 1], k)[1][0], ids[r])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_logit_shows_in_the_largest_value(bad: float) -> None:
    logits = random_logits(5, 1000)
    logits[2, 700] = bad
    logits[3] = -math.inf
    assert arg_max(logits)[0].isfinite().tolist() == [True, True, False, False, True]


def test_a_nan_among_infinities_still_shows() -> None:
    logits = torch.tensor([[-math.inf, math.inf, math.nan], [math.nan, math.inf, 0.0]])
    assert not arg_max(logits)[0].isfinite().any()
