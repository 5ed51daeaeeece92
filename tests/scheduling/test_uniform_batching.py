"""Uniform: steps of the same size, whatever the prompts are like."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.sequence import Wait
from tests.scheduling.mock_executor import (
    MockExecutor,
    cause,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)


def distinct(start: int, length: int) -> list[int]:
    return list(range(1000 * start, 1000 * start + length))


def test_long_prompts_are_decomposed_and_short_ones_composed() -> None:
    scheduler = make_scheduler(batching="uniform", budget=16, sequences=8, blocks=64)
    executor = MockExecutor(4)
    for i, length in enumerate([37, 3, 5, 2, 20]):
        scheduler.add(make_request(f"r{i}", distinct(i, length), 4), 0.0)
    shapes = []
    for now in range(5):
        step = run_step(scheduler, executor, float(now))
        assert step is not None
        shapes.append({p.sequence.request.id: p.length for p in step.slices})
    assert shapes[:4] == [
        {"r0": 16},
        {"r0": 16},
        {"r0": 5, "r1": 3, "r2": 5, "r3": 2, "r4": 1},
        {"r0": 1, "r1": 1, "r2": 1, "r3": 1, "r4": 12},
    ]
    assert shapes[4] == {"r0": 1, "r1": 1, "r2": 1, "r3": 1, "r4": 7}


@settings(max_examples=40)
@given(
    prompts=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    output=st.integers(1, 12),
    budget=st.integers(1, 30),
    sequences=st.integers(1, 24),
)
def test_a_step_has_the_budgets_tokens_while_there_are_so_many(
    prompts: list[int], output: int, budget: int, sequences: int
) -> None:
    scheduler = make_scheduler(
        batching="uniform", blocks=2000, budget=budget, sequences=sequences, limit=64
    )
    for i, length in enumerate(prompts):
        scheduler.add(make_request(f"r{i}", distinct(i, length), output), 0.0)
    executor, now = MockExecutor(4), 0.0
    while scheduler.has_work:
        known = set(scheduler.running)
        step = run_step(scheduler, executor, now)
        assert step is not None
        scheduler.check_integrity()
        assert step.tokens <= budget
        if step.tokens < budget:  # nothing was left to compute
            computed = {p.sequence for p in step.slices}
            assert known <= computed
            assert all(p.samples for p in step.slices)
            assert len(computed) == sequences or not scheduler.waiting
        now += 1.0


def test_too_many_decodes_take_turns() -> None:
    scheduler = make_scheduler(batching="uniform", budget=3, sequences=8, blocks=64)
    executor = MockExecutor(4)
    done = [scheduler.add(make_request(f"r{i}", [i], 30), 0.0)[0] for i in range(7)]
    for now in range(3):
        run_step(scheduler, executor, float(now))
    while len(scheduler.running) < 7:  # they start when decodes leave room
        scheduler.limits = type(scheduler.limits)(8, 64, 8)
        run_step(scheduler, executor, 3.0)
    scheduler.limits = type(scheduler.limits)(3, 64, 8)
    before = [seq.output_len for seq in done]
    for now in range(4, 25):
        step = run_step(scheduler, executor, float(now))
        assert step is not None
        assert step.tokens == 3
        assert {cause(s) for s in done if s not in {p.sequence for p in step.slices}} == {
            Wait.BUDGET
        }
    gained = [seq.output_len - had for seq, had in zip(done, before, strict=True)]
    assert gained == [9] * 7
    run_all(scheduler, executor)


def test_says_what_a_step_holds() -> None:
    scheduler = make_scheduler(batching="uniform", budget=8)
    scheduler.add(make_request("r", distinct(0, 20), 2), 0.0)
    step = run_step(scheduler, MockExecutor(4), 0.0)
    assert step is not None
    assert step.reason == "0 decodes, 8 prefill tokens of 8 left"
    assert step.budget == 8
