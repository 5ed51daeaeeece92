"""The token budget: the knee of a measurement, held under the target, with its reason."""

from __future__ import annotations

import pytest

from headrace.execution.token_budget import choose_budget, measure_token_budget
from tests.execution.tiny import executor, tiny_transformer

POINTS = ((16, 0.016), (32, 0.020), (64, 0.028), (128, 0.050), (256, 0.095), (512, 0.188))


def test_the_knee_is_the_smallest_size_near_the_best_rate() -> None:
    budget = choose_budget(POINTS)
    assert budget.tokens == 128
    assert "knee" in budget.reason
    assert budget.points == POINTS


@pytest.mark.parametrize(
    ("target", "tokens", "reason"),
    [(0.2, 128, "within the TPOT target"), (0.03, 64, "largest step"), (0.01, 16, "cannot be met")],
)
def test_a_target_bounds_the_step(target: float, tokens: int, reason: str) -> None:
    budget = choose_budget(POINTS, target)
    assert budget.tokens == tokens
    assert reason in budget.reason


def test_measuring_leaves_the_executor_as_it_was() -> None:
    local = executor(tiny_transformer("float32"), 70)
    budget = measure_token_budget(local)
    assert [rows for rows, _ in budget.points] == [16, 32, 64, 128, 256, 512, 1024]
    assert budget.tokens in dict(budget.points)
    assert all(not layer.keys[-2:].any() for layer in local.cache.layers)


def test_a_tiny_cache_bounds_what_is_measured() -> None:
    budget = measure_token_budget(executor(tiny_transformer("float32"), 3))
    assert [rows for rows, _ in budget.points] == [16, 32]
    assert measure_token_budget(executor(tiny_transformer("float32"), 1, 8)).tokens == 8
