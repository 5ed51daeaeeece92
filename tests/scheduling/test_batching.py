"""How each batching policy spends a step."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.sequence import Wait
from headrace.nouns.step import Step
from tests.scheduling.mock_executor import (
    MockExecutor,
    cause,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)


def lengths(step: Step | None) -> dict[str, int]:
    assert step is not None
    return {piece.sequence.request.id: piece.length for piece in step.slices}


def distinct(start: int, length: int) -> list[int]:
    return list(range(start, start + length))


def test_stall_free_decodes_everybody_and_prefills_with_the_rest() -> None:
    scheduler, executor = make_scheduler(budget=8, blocks=64), MockExecutor(4)
    for i in range(3):
        scheduler.add(make_request(f"d{i}", [i], 20), 0.0)
    assert lengths(run_step(scheduler, executor, 0.0)) == {"d0": 1, "d1": 1, "d2": 1}
    scheduler.add(make_request("long", distinct(100, 12)), 1.0)
    scheduler.add(make_request("late", distinct(200, 7)), 1.0)
    decodes = {"d0": 1, "d1": 1, "d2": 1}
    step = run_step(scheduler, executor, 1.0)
    assert lengths(step) == {**decodes, "long": 5}
    assert step is not None
    assert "3 decodes, 5 prefill tokens of 5 left" in step.reason
    assert lengths(run_step(scheduler, executor, 2.0)) == {**decodes, "long": 5}
    assert lengths(run_step(scheduler, executor, 3.0)) == {**decodes, "long": 2, "late": 3}
    assert lengths(run_step(scheduler, executor, 4.0)) == {**decodes, "long": 1, "late": 4}


def test_stall_free_samples_where_the_prompt_ends_only() -> None:
    scheduler, executor = make_scheduler(budget=4), MockExecutor(4)
    scheduler.add(make_request("r", distinct(0, 10), 2), 0.0)
    steps = run_all(scheduler, executor)
    pieces = [(p.start, p.length, p.samples) for step in steps for p in step.slices]
    assert pieces == [(0, 4, False), (4, 4, False), (8, 2, True), (10, 1, True)]


def test_stall_free_decodes_all_even_above_the_budget_but_prefills_nothing() -> None:
    scheduler, executor = make_scheduler(budget=4), MockExecutor(4)
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [i], 20), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.limits = type(scheduler.limits)(2, 64, 8)
    scheduler.add(make_request("new", [9]), 1.0)
    step = run_step(scheduler, executor, 1.0)
    assert lengths(step) == {f"r{i}": 1 for i in range(4)}
    (waiting,) = scheduler.waiting
    assert cause(waiting) is Wait.BUDGET


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    budget=st.integers(1, 30),
    sequences=st.integers(1, 8),
)
def test_stall_free_never_lets_a_decode_miss_a_step(
    prompts: list[int], budget: int, sequences: int
) -> None:
    scheduler = make_scheduler(blocks=200, budget=budget, sequences=sequences)
    executor = MockExecutor(4)
    now = 0.0
    pending = list(enumerate(prompts))
    while pending or scheduler.has_work:
        if pending:
            i, length = pending.pop(0)
            scheduler.add(make_request(f"r{i}", distinct(100 * i, length), 6, arrival=now), now)
        decodes = {s for s in scheduler.running if s.uncomputed == 1}
        step = run_step(scheduler, executor, now)
        assert step is not None
        assert decodes <= {piece.sequence for piece in step.slices}
        assert step.tokens <= max(budget, len(decodes))
        assert step.padding == 0
        now += 1.0


def test_prefill_first_computes_whole_prompts_and_lets_decodes_wait() -> None:
    scheduler = make_scheduler(batching="prefill-first", budget=4, limit=64)
    executor = MockExecutor(4)
    scheduler.add(make_request("first", distinct(0, 20)), 0.0)
    assert lengths(run_step(scheduler, executor, 0.0)) == {"first": 20}
    assert lengths(run_step(scheduler, executor, 1.0)) == {"first": 1}
    scheduler.add(make_request("second", distinct(100, 9)), 2.0)
    scheduler.add(make_request("third", distinct(200, 9)), 2.0)
    step = run_step(scheduler, executor, 2.0)
    assert lengths(step) == {"second": 9, "third": 9}
    assert cause(scheduler.sequences("first")[0]) is Wait.BUDGET
    assert lengths(run_step(scheduler, executor, 3.0)) == {"first": 1, "second": 1, "third": 1}


def test_prefill_first_splits_a_prompt_only_at_the_limit() -> None:
    scheduler = make_scheduler(batching="prefill-first", budget=4, limit=16)
    executor = MockExecutor(4)
    scheduler.add(make_request("long", distinct(0, 20)), 0.0)
    scheduler.add(make_request("next", distinct(100, 8)), 0.0)
    assert lengths(run_step(scheduler, executor, 0.0)) == {"long": 16}
    assert lengths(run_step(scheduler, executor, 1.0)) == {"long": 4, "next": 8}


def test_static_pads_prompts_to_the_longest_and_ended_rows_to_the_last() -> None:
    scheduler = make_scheduler(batching="static", sequences=3)
    executor = MockExecutor(4)
    for name, length, output in [("a", 3, 1), ("b", 5, 3), ("c", 9, 4)]:
        scheduler.add(make_request(name, distinct(100 * length, length), output), 0.0)
    step = run_step(scheduler, executor, 0.0)
    assert lengths(step) == {"a": 3, "b": 5, "c": 9}
    assert step is not None
    assert step.padding == (9 - 3) + (9 - 5)
    scheduler.add(make_request("d", distinct(0, 2)), 0.5)
    shapes = [(lengths(step), step.padding) for step in run_all(scheduler, executor)[:4]]
    assert shapes[0] == ({"b": 1, "c": 1}, 1)
    assert shapes[1] == ({"b": 1, "c": 1}, 1)
    assert shapes[2] == ({"c": 1}, 2)
    assert shapes[3] == ({"d": 2}, 0)


def test_static_lets_the_next_batch_wait_for_this_one() -> None:
    scheduler = make_scheduler(batching="static", sequences=2)
    executor = MockExecutor(4)
    scheduler.add(make_request("now", [1, 2], 3), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("next", [3, 4], 3, arrival=1.0), 1.0)
    run_step(scheduler, executor, 1.0)
    (waiting,) = scheduler.sequences("next")
    assert cause(waiting) is Wait.BATCH
    assert "a batch of 1 has to end first" in waiting.wait_detail


def test_static_computes_a_batch_too_large_for_one_step_in_several() -> None:
    scheduler = make_scheduler(batching="static", budget=4, limit=16, sequences=3)
    executor = MockExecutor(4)
    for i in range(3):
        scheduler.add(make_request(f"r{i}", distinct(100 * i, 10), 2), 0.0)
    steps = run_all(scheduler, executor)
    assert all(step.tokens + step.padding <= 16 for step in steps)
    assert sum(step.tokens for step in steps) == 3 * 11


def test_static_computes_prompts_of_one_token() -> None:
    scheduler, executor = make_scheduler(batching="static"), MockExecutor(4)
    for i in range(3):
        scheduler.add(make_request(f"r{i}", [i], 2), 0.0)
    assert [lengths(step) for step in run_all(scheduler, executor)] == [
        {"r0": 1, "r1": 1, "r2": 1},
        {"r0": 1, "r1": 1, "r2": 1},
    ]
