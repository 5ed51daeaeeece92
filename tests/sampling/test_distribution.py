from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.sampling.distribution import invert, total

# Sums of these are exact in float32, so a naive inversion must agree everywhere.
EXACT = st.sampled_from([0.0, 0.0, 0.0, 0.25, 0.5, 1.0])
UNIFORM = st.integers(0, 2**53 - 1).map(lambda bits: bits / 2**53)


@given(st.lists(EXACT, min_size=1, max_size=700).filter(any), UNIFORM)
@example([0.0, 1.0, 0.0], 0.0)
@example([1.0] * 600, 0.9)
@example([0.0] * 300 + [1.0] + [0.0] * 300, 1 - 2.0**-53)
def test_inversion_is_the_first_cumulative_weight_above(weights: list[float], u: float) -> None:
    sums = list(accumulate(weights))
    expected = bisect_right(sums, u * sums[-1])
    got = invert(torch.tensor([weights]), torch.tensor([u], dtype=torch.float64))
    assert got.tolist() == [expected]
    assert weights[expected] > 0


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=600).filter(any),
    st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53, 1.0]),
)
def test_a_zero_weight_is_never_drawn(weights: list[float], u: float) -> None:
    # Even for u = 1, which no generator gives.
    got = invert(torch.tensor([weights]), torch.tensor([u], dtype=torch.float64))
    assert weights[int(got)] > 0


def test_tiny_weights_after_large_ones_are_found_but_not_forced() -> None:
    weights = torch.tensor([[1.0] + [1e-30] * 999])
    low, high = (torch.tensor([u], dtype=torch.float64) for u in (0.0, 1 - 2.0**-53))
    assert invert(weights, low).item() == 0
    assert weights[0, int(invert(weights, high))] > 0


def test_the_total_is_close_to_exact() -> None:
    weights = torch.rand(3, 49153, generator=torch.Generator().manual_seed(1))
    for row, got in zip(weights.tolist(), total(weights).tolist(), strict=True):
        assert math.isclose(got, math.fsum(row), rel_tol=1e-6)
