"""Queue orders, and the queue that keeps them."""

from __future__ import annotations

import pytest

from headrace.nouns.sequence import Sequence
from headrace.scheduling.order import ByPriority, FirstComeFirstServed
from headrace.scheduling.queue import WaitingQueue
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler, run_step


def waiting(id: str, ticket: int, arrival: float = 0.0, priority: int = 0) -> Sequence:
    seq = Sequence.of(make_request(id, [1], arrival=arrival, priority=priority), 0)
    seq.ticket = ticket
    return seq


def ids(queue: WaitingQueue) -> list[str]:
    return [seq.request.id for seq in queue]


class LongestWait:
    """A dynamic order: whoever waits longest, but never before one second."""

    dynamic = True

    def key(self, seq: Sequence, now: float) -> float:
        waited = now - seq.request.arrival
        return -waited if waited > 1.0 else 0.0


def test_first_come_first_served_goes_by_arrival_then_ticket() -> None:
    queue = WaitingQueue(FirstComeFirstServed())
    for seq in [waiting("late", 0, 2.0), waiting("b", 2, 1.0), waiting("a", 1, 1.0)]:
        queue.push(seq, 3.0)
    assert ids(queue) == ["a", "b", "late"]


def test_priority_goes_first_whenever_it_arrived() -> None:
    queue = WaitingQueue(ByPriority())
    for seq in [waiting("x", 0, 0.0, 1), waiting("y", 1, 9.0, -5), waiting("z", 2, 0.5, 1)]:
        queue.push(seq, 9.0)
    assert ids(queue) == ["y", "x", "z"]


def test_one_is_taken_out_wherever_it_is() -> None:
    for order in (FirstComeFirstServed(), LongestWait()):
        queue = WaitingQueue(order)
        sequences = [waiting(str(i), i, float(i)) for i in range(4)]
        for seq in sequences:
            queue.push(seq, 4.0)
        for gone in (sequences[2], sequences[0], sequences[3]):
            queue.remove(gone, 7.0)
            with pytest.raises(ValueError, match="is not waiting"):
                queue.remove(gone, 7.0)
        assert ids(queue) == ["1"]
        assert queue[0] is sequences[1]


def test_a_dynamic_order_changes_while_sequences_wait() -> None:
    queue = WaitingQueue(LongestWait())
    queue.push(waiting("late", 0, 5.0), 5.0)
    queue.push(waiting("early", 1, 4.5), 5.0)
    assert ids(queue) == ["late", "early"]
    queue.refresh(8.0)
    assert ids(queue) == ["early", "late"]


def test_a_scheduler_sorts_a_dynamic_queue_for_every_plan() -> None:
    scheduler = make_scheduler(order=LongestWait(), sequences=1)
    executor = MockExecutor(4)
    scheduler.add(make_request("late", [1], 1, arrival=5.0), 5.0)
    scheduler.add(make_request("early", [2], 1, arrival=4.5), 5.0)
    step = run_step(scheduler, executor, 8.0)
    assert step is not None
    assert [piece.sequence.request.id for piece in step.slices] == ["early"]


def test_fcfs_is_overtaken_by_nobody() -> None:
    """A large prompt at the head is not passed by small ones that would fit."""
    scheduler = make_scheduler(blocks=12, budget=16)
    executor = MockExecutor(4)
    scheduler.add(make_request("running", [1] * 20, 16), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("large", [2] * 32, 2, arrival=1.0), 1.0)
    started: list[str] = []
    now = 1.0
    while scheduler.has_work:
        if now < 40:
            scheduler.add(make_request(f"small{now}", [3], 2, arrival=now + 1), now + 1)
        step = run_step(scheduler, executor, now)
        assert step is not None
        started += [p.sequence.request.id for p in step.slices if p.start == 0]
        now += 1.0
    assert started.index("large") == 0


def test_priority_overtakes_the_queue_and_takes_memory_from_the_running() -> None:
    scheduler = make_scheduler(order="priority", blocks=6, budget=16)
    executor = MockExecutor(4)
    for i in range(2):
        scheduler.add(make_request(f"low{i}", [i] * 8, 12, priority=5), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("urgent", [7] * 3, 16, arrival=1.0, priority=0), 1.0)
    order: list[str] = []
    now = 1.0
    while scheduler.has_work:
        before = set(scheduler.running)
        run_step(scheduler, executor, now)
        order += [s.request.id for s in before if s.finished]
        now += 1.0
    assert order == ["urgent", "low0", "low1"]
