"""Memory is short: who yields, and what becomes of the step that was being planned."""

from __future__ import annotations

from dataclasses import replace

from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Sequence, Status, Wait
from headrace.nouns.step import Step
from headrace.scheduling.policy import PlanningRound
from headrace.scheduling.preemption import Recompute
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import (
    MockExecutor,
    alone,
    cause,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)
from tests.scheduling.policies import Scripted, Victim


def run_script(
    scheduler: Scheduler, batching: Scripted, executor: MockExecutor, now: float, *takes: Sequence
) -> Step | None:
    """One step that computes one token of each, in that order."""
    batching.script = lambda round: [round.take(seq, 1) for seq in takes]
    return run_step(scheduler, executor, now)


def test_the_worst_rank_yields() -> None:
    sequences = [Sequence.of(make_request(str(i), [1]), 0) for i in range(3)]
    ranks = dict(zip(sequences, [5, 9, 1], strict=True))
    assert Recompute().victim(sequences, sequences[2], ranks.__getitem__) is sequences[1]


class NoOrder:
    """Nobody ranks before anybody else."""

    dynamic = False

    def key(self, seq: Sequence, now: float) -> int:
        return 0


def test_of_equal_ranks_the_later_ticket_yields() -> None:
    scheduler, executor = make_scheduler(blocks=6, order=NoOrder()), MockExecutor(4)
    groups = [scheduler.add(make_request(f"r{i}", [i] * 7, 12), 0.0) for i in range(2)]
    run_all(scheduler, executor)
    assert [seq.preemptions for (seq,) in groups] == [0, 1]


def test_the_latest_yields_and_is_computed_again() -> None:
    events: list[Event] = []
    scheduler, executor = make_scheduler(blocks=6, events=events), MockExecutor(4)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [i] * 7, 12, arrival=float(i)), float(i))
    first, second = scheduler.sequences("r0") + scheduler.sequences("r1")
    steps = run_all(scheduler, executor)
    assert (first.preemptions, second.preemptions) == (0, 1)
    (event,) = [event for event in events if event.kind is Kind.PREEMPTED]
    assert (event.request_id, event.index) == ("r1", 0)
    assert event.reason == "request r0 ranks before it and found no free block"
    assert event.data["lost"] == 12
    assert first.finished_at is not None
    assert second.finished_at is not None
    assert first.finished_at < second.finished_at
    assert second.tokens == alone(second)
    assert len(steps) > 12
    assert second.cached == 0  # what it finds of its own on its return is no cached prompt


def test_a_sequence_without_a_better_claim_yields_itself() -> None:
    scheduler, executor = make_scheduler(blocks=6), MockExecutor(4)
    scheduler.add(make_request("first", [1] * 5, 10), 0.0)
    scheduler.add(make_request("second", [2] * 8, 10), 0.0)
    (second,) = scheduler.sequences("second")
    for now in range(6):
        run_step(scheduler, executor, float(now))
        if second.preemptions:
            break
    assert second.status is Status.WAITING
    assert cause(second) is Wait.PREEMPTED
    assert second.wait_detail == "it had the worst rank when its own growth found no free block"
    run_all(scheduler, executor)
    assert second.tokens == alone(second)


def forked(batching: Scripted, blocks: int) -> tuple[Scheduler, MockExecutor, list[Sequence]]:
    """A request of three siblings that share their only, half full block; none has copied yet."""
    scheduler = make_scheduler(blocks=blocks, batching=batching)
    executor = MockExecutor(4)
    scheduler.add(make_request("r", [1, 2], 6, n=3), 0.0)
    batching.script = lambda round: [round.take(s, 2) for s in [round.admit()] if s]
    run_step(scheduler, executor, 0.0)
    group = scheduler.sequences("r")

    def admit_all(round: PlanningRound) -> None:
        while round.admit() is not None:
            continue

    batching.script = admit_all
    assert scheduler.plan(1.0) is None
    assert all(s.status is Status.RUNNING and s.blocks == group[0].blocks for s in group)
    return scheduler, executor, group


def test_who_yields_gives_back_its_slice_its_copies_and_its_share_of_the_budget() -> None:
    batching = Scripted()
    scheduler, executor, (first, second, third) = forked(batching, blocks=8)
    memory = scheduler.memory
    stranger = Sequence.of(make_request("x", [9] * 23), 0)
    memory.adopt(stranger)
    assert memory.grow(stranger, 6 * 4) == []  # one block is left
    spent: list[int] = []

    def script(round: PlanningRound) -> None:
        for seq in (third, second, first):
            round.take(seq, 1)
            spent.append(round.spent)

    batching.script = script
    step = scheduler.plan(2.0)
    # third copied to the last block; second found none left, third yielded its own to it.
    assert third.status is Status.WAITING
    assert spent == [1, 1, 2]
    assert step is not None
    assert [piece.sequence for piece in step.slices] == [second, first]
    assert step.tokens == 2
    assert len(step.copies) == 1
    assert step.copies[0][1] == second.blocks[0]
    executor.submit(step)
    scheduler.commit(step, executor.collect(), 3.0)


def test_a_copy_of_a_copy_in_one_step_reads_where_the_first_one_came_from() -> None:
    """The first sibling copies, the last one is forked from it and copies too, in one step."""
    batching = Scripted()
    scheduler = make_scheduler(batching=batching)
    executor = MockExecutor(4)
    scheduler.add(make_request("r", [1, 2], 6, n=3), 0.0)
    first, second, third = scheduler.sequences("r")
    batching.script = lambda round: [round.take(s, 2) for s in [round.admit()] if s]
    run_step(scheduler, executor, 0.0)
    batching.script = lambda round: round.admit()
    assert scheduler.plan(1.0) is None
    shared = first.blocks[0]

    def script(round: PlanningRound) -> None:
        round.take(first, 1)
        assert round.admit() is third
        round.take(third, 1)

    batching.script = script
    step = run_step(scheduler, executor, 2.0)
    assert step is not None
    assert step.copies == ((shared, step.copies[0][1]), (shared, third.blocks[0]))
    batching.script = lambda round: [round.take(s, 1) for s in (first, second, third)]
    for now in range(3, 9):
        run_step(scheduler, executor, float(now))
    assert [seq.tokens for seq in (first, second, third)] == [
        alone(seq) for seq in (first, second, third)
    ]


def test_the_source_of_a_copy_may_yield_in_the_same_step() -> None:
    batching = Scripted()
    scheduler, executor, (first, second, third) = forked(batching, blocks=4)
    scheduler._desk = replace(scheduler._desk, preemption=Victim(first))
    memory = scheduler.memory
    stranger = Sequence.of(make_request("x", [9] * 5), 0)
    memory.adopt(stranger)
    assert memory.grow(stranger, 8) == []  # one block is left
    step = run_script(scheduler, batching, executor, 2.0, first, second, third)
    assert first.status is Status.WAITING
    assert step is not None
    assert [piece.sequence for piece in step.slices] == [second, third]
    assert [s.tokens for s in (second, third)] == [alone(s) for s in (second, third)]


def test_nobody_starts_in_the_round_in_which_somebody_yields() -> None:
    events: list[Event] = []
    scheduler = make_scheduler(blocks=6, events=events)
    executor = MockExecutor(4)
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [i] * 7, 12), 0.0)
    run_all(scheduler, executor)
    yielded: set[int | None] = set()
    for event in events:
        if event.kind is Kind.PREEMPTED:
            yielded.add(event.step_id)
        if event.kind is Kind.ADMITTED:
            assert event.step_id not in yielded
    assert yielded


def test_the_best_rank_waits_for_steps_in_flight_instead_of_yielding() -> None:
    batching = Scripted()
    scheduler = make_scheduler(blocks=4, batching=batching)
    executor = MockExecutor(4, depth=2)
    scheduler.add(make_request("first", [1] * 4, 9), 0.0)
    scheduler.add(make_request("second", [2] * 3, 9), 0.0)
    first, second = scheduler.sequences("first") + scheduler.sequences("second")
    batching.script = lambda round: [round.take(s, 4) for s in [round.admit()] if s]
    for now in range(2):
        run_step(scheduler, executor, float(now))
    for now in range(2, 6):
        run_script(scheduler, batching, executor, float(now), first, second)
    assert (first.computed, second.computed, scheduler.memory.available) == (8, 7, 0)

    batching.script = lambda round: round.take(second, 1)
    flying = scheduler.plan(6.0)
    assert flying is not None
    executor.submit(flying)
    batching.script = lambda round: [round.take(first, 1), round.take(second, 1)]
    assert scheduler.plan(7.0) is None  # second is in flight and cannot yield now
    assert (first.status, first.preemptions, first.wait) == (Status.RUNNING, 0, Wait.MEMORY)
    scheduler.check_integrity()
    scheduler.commit(flying, executor.collect(), 8.0)
    step = run_script(scheduler, batching, executor, 9.0, first)
    assert step is not None
    assert [piece.sequence for piece in step.slices] == [first]
    assert (first.preemptions, second.preemptions) == (0, 1)
    assert second.tokens == alone(second)


def test_a_sequence_in_flight_is_in_no_second_step() -> None:
    batching = Scripted()
    scheduler = make_scheduler(batching=batching)
    scheduler.add(make_request("r", [1] * 8), 0.0)
    (seq,) = scheduler.sequences("r")
    batching.script = lambda round: [round.take(s, 4) for s in [round.admit()] if s]
    assert scheduler.plan(0.0) is not None
    taken: list[bool] = []
    batching.script = lambda round: taken.append(round.take(seq, 4))
    assert scheduler.plan(1.0) is None
    assert taken == [False]
