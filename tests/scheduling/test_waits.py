"""Every second between arrival and end is either spent in a step or booked under a cause."""

from __future__ import annotations

from collections import Counter, deque

import pytest

from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Sequence, Wait
from headrace.nouns.step import Step
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import (
    MockExecutor,
    cause,
    make_request,
    make_scheduler,
    run_step,
)


def run_and_count(scheduler: Scheduler, start: float, depth: int = 1) -> Counter[Sequence]:
    """Each plan takes no time, each step in flight one second; how many each sequence was in."""
    executor = MockExecutor(scheduler.memory.block_size, depth)
    seconds: Counter[Sequence] = Counter()
    flying: deque[Step] = deque()
    now = start
    while scheduler.has_work:
        step = scheduler.plan(now)
        if step is not None:
            executor.submit(step)
            flying.append(step)
        done = flying[0] if len(flying) == depth or step is None else None
        now += 1.0
        for other in flying:
            seconds.update(piece.sequence for piece in other.slices)
        if done is not None:
            scheduler.commit(flying.popleft(), executor.collect(), now)
    return seconds


@pytest.mark.parametrize("batching", ["stall-free", "prefill-first", "static"])
@pytest.mark.parametrize("depth", [1, 2])
def test_waits_and_steps_add_up_to_the_time_between_arrival_and_end(
    batching: str, depth: int
) -> None:
    scheduler = make_scheduler(blocks=12, batching=batching, sequences=3, budget=6)
    groups = [
        scheduler.add(make_request(f"r{i}", [i % 2] * 9, 8, n=1 + i % 2, arrival=i / 8), 2.0)
        for i in range(6)
    ]
    seconds = run_and_count(scheduler, 3.0, depth)
    for seq in [seq for group in groups for seq in group]:
        assert seq.finished_at is not None
        lived = seq.finished_at - seq.request.arrival
        assert sum(seq.waits.values()) + seconds[seq] == pytest.approx(lived)
    causes = {cause for group in groups for seq in group for cause in seq.waits}
    assert Wait.QUEUE in causes
    assert (Wait.BATCH in causes) == (batching == "static")


def test_time_between_arrival_and_the_scheduler_counts_as_waiting() -> None:
    scheduler = make_scheduler()
    (seq,) = scheduler.add(make_request("r", [1], 1, arrival=2.0), 5.0)
    run_step(scheduler, MockExecutor(4), 6.0)
    assert seq.waits[Wait.QUEUE] == 4.0


def test_an_arrival_that_the_clock_has_not_reached_is_no_negative_wait() -> None:
    scheduler = make_scheduler()
    (seq,) = scheduler.add(make_request("r", [1], 1, arrival=7.0), 5.0)
    run_step(scheduler, MockExecutor(4), 6.0)
    assert seq.waits[Wait.QUEUE] == 1.0


def test_the_head_of_the_queue_waits_for_budget_and_the_others_for_their_turn() -> None:
    scheduler, executor = make_scheduler(budget=4), MockExecutor(4)
    groups = [scheduler.add(make_request(f"r{i}", [i] * 8, 2), 0.0) for i in range(3)]
    run_step(scheduler, executor, 0.0)
    head, behind = groups[1][0], groups[2][0]
    assert cause(head) is Wait.BUDGET
    assert head.wait_detail == "the step has no room left: 4 tokens of 4"
    assert cause(behind) is Wait.QUEUE


def test_all_slots_taken_is_a_wait_for_budget() -> None:
    scheduler, executor = make_scheduler(sequences=1), MockExecutor(4)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [i], 3), 0.0)
    run_step(scheduler, executor, 0.0)
    (waiting,) = scheduler.waiting
    assert cause(waiting) is Wait.BUDGET
    assert waiting.wait_detail == "all 1 sequence slots are taken"


def test_a_preempted_sequence_waits_for_that_until_it_runs_again() -> None:
    scheduler, executor = make_scheduler(blocks=6), MockExecutor(4)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [i] * 7, 12, arrival=float(i)), float(i))
    (second,) = scheduler.sequences("r1")
    preempted: float | None = None
    returned: float | None = None
    now = 2.0
    while scheduler.has_work:
        run_step(scheduler, executor, now)
        if second.preemptions and preempted is None:
            preempted = now
        if preempted is not None and returned is None:
            if second in scheduler.running:
                returned = now
            else:
                assert cause(second) is Wait.PREEMPTED
        now += 1.0
    assert preempted is not None
    assert returned is not None
    assert returned > preempted + 1
    assert second.waits[Wait.PREEMPTED] == returned - preempted
    assert Wait.MEMORY not in second.waits


def test_who_is_overtaken_at_the_head_waits_for_its_turn_again() -> None:
    scheduler = make_scheduler(order="priority", sequences=1)
    executor = MockExecutor(4)
    scheduler.add(make_request("running", [1], 9), 0.0)
    scheduler.add(make_request("head", [2], 9, priority=1), 0.0)
    run_step(scheduler, executor, 0.0)
    (head,) = scheduler.sequences("head")
    assert cause(head) is Wait.BUDGET
    scheduler.add(make_request("urgent", [3], 9, arrival=1.0), 1.0)
    run_step(scheduler, executor, 1.0)
    assert cause(head) is Wait.QUEUE
    assert cause(scheduler.sequences("urgent")[0]) is Wait.BUDGET


def test_those_whose_prefix_is_ready_wait_for_it_no_longer() -> None:
    scheduler, executor = make_scheduler(budget=20, sequences=2, blocks=64), MockExecutor(4)
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [*range(16), i], 9), 0.0)
    run_step(scheduler, executor, 0.0)
    last = scheduler.sequences("r3")[0]
    assert cause(last) is Wait.PREFIX
    run_step(scheduler, executor, 1.0)
    assert cause(scheduler.sequences("r2")[0]) is Wait.BUDGET
    assert cause(last) is Wait.QUEUE


def test_the_last_event_tells_all_waits() -> None:
    events: list[Event] = []
    scheduler = make_scheduler(sequences=1, events=events)
    groups = [scheduler.add(make_request(f"r{i}", [i], 3), 0.0) for i in range(3)]
    run_and_count(scheduler, 1.0)
    for (seq,) in groups:
        (event,) = [e for e in events if e.kind is Kind.FINISHED and e.request_id == seq.request.id]
        told = {key: value for key, value in event.data.items() if key.startswith("wait_")}
        assert told == {f"wait_{cause.value}": s for cause, s in seq.waits.items()}
        assert event.data["e2e"] == seq.finished_at
        assert event.data["ttft"] == seq.first_token_at
