"""What a planning round lets a batching policy do, whatever the policy asks for."""

from __future__ import annotations

from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Sequence, Status, Wait
from headrace.scheduling.policy import MemoryView, PlanningRound
from tests.scheduling.mock_executor import (
    MockExecutor,
    cause,
    make_request,
    make_scheduler,
    run_step,
)
from tests.scheduling.policies import Scripted


class Always:
    """Admits whoever asks."""

    def refusal(self, seq: Sequence, running: list[Sequence], memory: MemoryView) -> str | None:
        return None


def admit_and_take(round: PlanningRound) -> None:
    while (seq := round.admit()) is not None:
        round.take(seq, 1000)


def test_takes_and_pads_within_what_the_executor_can_do() -> None:
    batching = Scripted()
    scheduler = make_scheduler(batching=batching, budget=4, limit=10)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [i] * 7), 0.0)

    def script(round: PlanningRound) -> None:
        admit_and_take(round)
        assert round.spent == 10
        round.pad(3)

    batching.script = script
    step = run_step(scheduler, MockExecutor(4), 0.0)
    assert step is not None
    assert [(p.length, p.samples) for p in step.slices] == [(7, True), (3, False)]
    assert step.padding == 0


def test_padding_adds_up_to_the_limit_at_most() -> None:
    batching = Scripted()
    scheduler = make_scheduler(batching=batching, budget=4, limit=10)
    scheduler.add(make_request("r", [1] * 4), 0.0)

    def script(round: PlanningRound) -> None:
        admit_and_take(round)
        round.pad(-5)
        round.pad(2)
        round.pad(100)

    batching.script = script
    step = run_step(scheduler, MockExecutor(4), 0.0)
    assert step is not None
    assert step.padding == 6


def test_takes_a_sequence_once_and_only_one_that_runs() -> None:
    batching = Scripted()
    scheduler = make_scheduler(batching=batching)
    (seq,) = scheduler.add(make_request("r", [1] * 8), 0.0)
    taken: list[bool] = []

    def script(round: PlanningRound) -> None:
        taken.append(round.take(seq, 4))
        round.admit()
        taken.extend(round.take(seq, length) for length in (0, -1, 4, 4))

    batching.script = script
    step = run_step(scheduler, MockExecutor(4), 0.0)
    assert taken == [False, False, False, True, False]
    assert step is not None
    assert step.tokens == 4


def test_running_are_those_not_in_flight_best_rank_first() -> None:
    batching = Scripted()
    scheduler = make_scheduler(batching=batching, order="priority")
    executor = MockExecutor(4, depth=2)
    for name, priority in [("c", 3), ("a", 1), ("b", 2)]:
        scheduler.add(make_request(name, [1], priority=priority), 0.0)
        batching.script = admit_and_take
        run_step(scheduler, executor, 0.0)
    batching.script = lambda round: round.take(scheduler.sequences("b")[0], 1)
    assert scheduler.plan(1.0) is not None
    seen: list[str] = []
    batching.script = lambda round: seen.extend(s.request.id for s in round.running())
    assert scheduler.plan(2.0) is None
    assert seen == ["a", "c"]


def test_nobody_is_admitted_once_somebody_found_no_memory() -> None:
    batching = Scripted()
    events: list[Event] = []
    scheduler = make_scheduler(blocks=2, batching=batching, admission=Always(), events=events)
    executor = MockExecutor(4)
    for name in ("first", "second"):
        scheduler.add(make_request(name, [ord(name[0])] * 4, 4), 0.0)
    batching.script = admit_and_take
    run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("third", [7], 4), 1.0)
    first, second = scheduler.sequences("first") + scheduler.sequences("second")
    admitted: list[Sequence | None] = []

    def script(round: PlanningRound) -> None:
        assert round.take(first, 1)
        admitted.append(round.admit())

    batching.script = script
    run_step(scheduler, executor, 1.0)
    assert second.status is Status.WAITING
    assert admitted == [None]
    assert [e.request_id for e in events if e.kind is Kind.ADMITTED] == ["first", "second"]


def test_a_preempted_sibling_finds_its_own_output_again_and_keeps_its_first_times() -> None:
    events: list[Event] = []
    scheduler, executor = make_scheduler(blocks=5, events=events), MockExecutor(4)
    _, second = scheduler.add(make_request("r", [1, 2, 3, 4, 5], 12, n=2), 0.0)
    now = 0.0
    while scheduler.has_work:
        run_step(scheduler, executor, now)
        now += 1.0
    first, again = [e for e in events if e.kind is Kind.ADMITTED and e.index == 1]
    assert first.reason == "shares the prompt of sibling 0"
    assert first.data == {"found": 4, "known": 5, "preemptions": 0}
    assert again.data == {"found": 8, "known": 12, "preemptions": 1}
    assert second.admitted_at == first.time
    assert second.cached == 4


def test_the_policy_can_say_why_the_head_waits() -> None:
    batching = Scripted()
    scheduler = make_scheduler(batching=batching)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [i]), 0.0)
    batching.script = lambda round: round.hold(Wait.BATCH, "because")
    assert scheduler.plan(1.0) is None
    head, behind = scheduler.waiting
    assert (head.wait, head.wait_detail, behind.wait) == (Wait.BATCH, "because", Wait.QUEUE)
    batching.script = lambda round: None
    assert scheduler.plan(2.0) is None
    assert cause(head) is Wait.QUEUE
    assert head.waits[Wait.BATCH] == 1.0
