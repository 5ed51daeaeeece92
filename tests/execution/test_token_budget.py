"""The token budget: the knee of a measurement, held under the target, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.execution import token_budget
from headrace.execution.local import LocalExecutor
from headrace.execution.token_budget import (
    choose_budget,
    find_token_budget,
    measure_token_budget,
)
from headrace.execution.tuning import Tuning
from headrace.nouns.errors import ConfigError
from headrace.nouns.step import Step, StepResult
from headrace.sampling.sampler import Sampler
from tests.execution.tiny import VOCAB, executor, tiny_transformer

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


def test_measuring_leaves_the_executor_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_budget, "SECONDS", 1e9)
    monkeypatch.setattr(token_budget, "PASSES", 1)
    local = executor(tiny_transformer("float32"), 70)
    budget = measure_token_budget(local)
    assert [rows for rows, _ in budget.points] == [16, 32, 64, 128, 256, 512, 1024]
    assert budget.tokens in dict(budget.points)
    assert all(not layer.keys[-2:].any() for layer in local.cache.layers)


def test_a_tiny_cache_bounds_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_budget, "SECONDS", 1e9)
    budget = measure_token_budget(executor(tiny_transformer("float32"), 3))
    assert [rows for rows, _ in budget.points] == [16, 32]
    assert measure_token_budget(executor(tiny_transformer("float32"), 1, 8)).tokens == 8


def test_a_disturbed_time_does_not_move_the_knee() -> None:
    disturbed = tuple((rows, seconds * (9 if rows == 128 else 1)) for rows, seconds in POINTS)
    assert choose_budget(disturbed).tokens == 256  # 128 rows cannot take longer than 256 rows
    assert choose_budget(disturbed, 0.1).tokens == 256
    late = tuple((rows, seconds * (9 if rows == 16 else 1)) for rows, seconds in POINTS)
    assert choose_budget(late).tokens == 128
    assert choose_budget(late, 0.03).tokens == 64


class Counting(LocalExecutor):
    """Counts steps; ``seconds`` of rows is what they are said to have taken."""

    def __init__(self, blocks: int, seconds: Callable[[int, int], float]) -> None:
        found = executor(tiny_transformer("float32"), blocks)
        super().__init__(found.transformer, found.cache, Sampler(VOCAB))
        self.steps: list[int] = []
        self._said = seconds

    def submit(self, step: Step) -> None:
        self.steps.append(step.tokens)
        super().submit(step)

    def collect(self) -> StepResult:
        found = super().collect()
        return found._replace(elapsed=self._said(self.steps[-1], len(self.steps)))


def steady(rows: int, number: int) -> float:
    return 0.001 + rows * 1e-5 + number * 1e-9


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tuning:
    """An empty cache, and a measurement that ends by what it did instead of by the clock."""
    monkeypatch.setattr(token_budget, "SECONDS", 1e9)
    monkeypatch.setattr(token_budget, "PASSES", 2)
    monkeypatch.setattr(token_budget, "PASS_ROWS", 32)
    monkeypatch.setattr(token_budget, "ROWS", (16, 32, 64, 128))
    return Tuning(tmp_path / "tuning.json", {"machine": "this"})


def test_a_second_start_takes_the_first_ones_measurement(kept: Tuning) -> None:
    first = Counting(70, steady)
    found = find_token_budget(first, None, kept, "float32")
    assert len(first.steps) > 8  # each size twice
    second = Counting(70, steady)
    again = find_token_budget(second, None, kept, "float32")
    assert (again.tokens, again.points) == (found.tokens, found.points)
    assert "earlier start" in again.reason
    assert second.steps == [16]  # the model runs
    under = find_token_budget(second, steady(64, 0) + 1e-6, kept, "float32")
    assert under.tokens == 64


def test_what_times_depend_on_is_not_mixed_up(kept: Tuning) -> None:
    find_token_budget(Counting(70, steady), None, kept, "float32")
    for blocks, settings in ((70, "int8"), (3, "float32")):
        other = Counting(blocks, steady)
        find_token_budget(other, None, kept, settings)
        assert len(other.steps) > 1


def test_a_disturbed_measurement_is_used_and_not_kept(kept: Tuning) -> None:
    def disturbed(rows: int, number: int) -> float:
        return steady(rows, 0) * number

    found = find_token_budget(Counting(70, disturbed), None, kept, "float32")
    assert found.points
    assert not kept.path.exists()


def test_a_measurement_that_ended_too_early_is_used_and_not_kept(
    kept: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_budget, "SECONDS", -1.0)  # the smallest size is timed all the same
    found = find_token_budget(Counting(70, steady), None, kept, "float32")
    assert [rows for rows, _ in found.points] == [16]
    assert not kept.path.exists()


@pytest.mark.parametrize(
    "value",
    [
        7, [], [7], [[16]], [[16, 0.0]], [[16, -1.0]], [[16, "1"]], [[16, True]], [[17, 1.0]],
        [[16, 1e999]], [[16, float("nan")]], {"16": 1.0},
        [[r, 1.0] for r in (16, 32, 64, 128, 9)],
    ],
)  # fmt: skip
def test_a_kept_value_of_another_form_is_measured_again(kept: Tuning, value: object) -> None:
    find_token_budget(Counting(70, steady), None, kept, "float32")
    name = next(iter(kept._read()))
    kept.put(name, value)
    measured = Counting(70, steady)
    find_token_budget(measured, None, kept, "float32")
    assert len(measured.steps) > 1
    assert kept.get(name) != value


def test_a_model_that_cannot_run_says_so_also_with_a_kept_measurement(
    kept: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = Counting(70, steady)
    find_token_budget(local, None, kept, "float32")

    def fail(*_: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(local.transformer, "forward", fail)
    with pytest.raises(ConfigError, match="no such instruction"):
        find_token_budget(local, None, kept, "float32")
