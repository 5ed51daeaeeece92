"""DriftingCost: predictions follow the machine's speed, and a hiccup is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.drift import MOST, DriftingCost
from headrace.scheduling.linear_cost import LinearCost

COST = LinearCost({"rows": 0.01})


def test_as_predicted_without_observations() -> None:
    assert DriftingCost(COST).seconds(StepLoad(rows=5)) == COST.seconds(StepLoad(rows=5))


@pytest.mark.parametrize("rows", [1, 50])
def test_it_follows_the_machine(rows: int) -> None:
    cost, load = DriftingCost(COST), StepLoad(rows=rows)
    for _ in range(2000 // rows):
        cost.observe(load, 1.5 * COST.seconds(load))
    assert cost.scale == pytest.approx(1.5, rel=1e-3)
    for _ in range(2000 // rows):
        cost.observe(load, COST.seconds(load))
    assert cost.seconds(load) == pytest.approx(COST.seconds(load), rel=1e-3)


def test_one_hiccup_is_no_drift() -> None:
    cost = DriftingCost(COST)
    cost.observe(StepLoad(rows=1), 60.0)
    assert cost.scale < 1.05


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1e6)), max_size=50))
def test_the_scale_stays_within_bounds(steps: list[tuple[int, float]]) -> None:
    cost = DriftingCost(COST)
    for rows, seconds in steps:
        cost.observe(StepLoad(rows=rows), seconds)
        assert 1 / MOST <= cost.scale <= MOST
