"""Starts stop while preemption eats what steps compute, whatever the policies are."""

from __future__ import annotations

import pytest

from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Sequence, Wait
from headrace.scheduling.limits import Limits
from headrace.scheduling.registry import BUILT_IN
from headrace.scheduling.thrash_guard import ThrashGuard
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler, run_step
from tests.scheduling.test_round import Always


class Memory:
    """Some blocks, some of them available; each sequence needs three."""

    total = 80
    block_size = 4

    def __init__(self) -> None:
        self.available = 5

    def cost(self, seq: Sequence, upto: int) -> int:
        return 3


def guard(events: list[Event]) -> tuple[ThrashGuard, Memory]:
    """Its window is 64 steps of 10 tokens."""
    memory = Memory()
    made = ThrashGuard(memory, Limits(10, 100, 8), events.append)  # type: ignore[arg-type]
    return made, memory


def sequence(preemptions: int = 0) -> Sequence:
    seq = Sequence.of(make_request("r", [1] * 8), 0)
    seq.preemptions = preemptions
    return seq


def test_it_holds_past_a_tenth_lost_and_lets_go_at_a_twentieth() -> None:
    events: list[Event] = []
    watch, _ = guard(events)
    fresh, yielded = sequence(), sequence(1)
    watch.ran(640)
    watch.preempted(yielded, 64, 1.0)
    assert watch.refusal(fresh, 4, 1.0) is None
    watch.ran(400)
    watch.preempted(yielded, 32, 2.0)
    assert watch.refusal(fresh, 4, 2.0) == (
        "memory thrashes, 96 tokens lost to preemption of the last 640 computed:"
        " it needs 3 blocks, 5 are to stay free and 5 are"
    )
    watch.ran(241)  # the first loss leaves the window, but the level is not old enough
    assert watch.refusal(fresh, 4, 2.5) is not None
    watch.ran(399)
    assert watch.refusal(fresh, 4, 3.0) is None
    told = [(event.kind, event.time, event.data["level"], event.reason) for event in events]
    lost = "tokens lost to preemption of the last 640 computed"
    assert [event.data["spare"] for event in events] == [1 / 16, 0.0]
    assert told == [
        (Kind.THRASHING, 2.0, 1, f"starts leave 6.2% of the memory free: 96 {lost}"),
        (Kind.THRASHING, 3.0, 0, f"starts leave 0.0% of the memory free: 32 {lost}"),
    ]


def test_what_the_cache_gives_back_was_not_lost() -> None:
    watch, _ = guard([])
    watch.ran(640)
    watch.preempted(sequence(1), 60, 1.0)
    watch.admitted(sequence(1), 40, 1.0)
    watch.preempted(sequence(1), 44, 2.0)
    assert watch.refusal(sequence(), 4, 2.0) is None
    watch.preempted(sequence(1), 1, 2.0)
    assert watch.refusal(sequence(), 4, 2.0) is not None


def test_it_refuses_nobody_when_nothing_runs_or_a_sixteenth_stays_free() -> None:
    watch, memory = guard([])
    watch.preempted(sequence(1), 65, 1.0)
    assert watch.refusal(sequence(), 0, 1.0) is None
    assert watch.level == 1
    memory.available = 7
    assert watch.refusal(sequence(), 1, 1.0) is not None
    memory.available = 8
    assert watch.refusal(sequence(), 1, 1.0) is None
    assert watch.level == 1


def test_it_asks_for_more_room_window_by_window_and_then_for_less() -> None:
    watch, _ = guard([])
    levels: list[int] = []
    for _ in range(6):
        watch.preempted(sequence(1), 90, 1.0)
        watch.preempted(sequence(1), 90, 1.0)
        levels.append(watch.level)
        watch.ran(640)
    watch.ran(1)
    for _ in range(5):
        watch.refusal(sequence(), 4, 2.0)
        watch.refusal(sequence(), 4, 2.0)
        levels.append(watch.level)
        watch.ran(640)
    assert levels == [1, 2, 3, 4, 4, 4, 3, 2, 1, 0, 0]


@pytest.mark.parametrize(("preemptions", "room"), [(1, 2), (2, 4), (3, 5), (90, 5)])
def test_who_yielded_needs_more_room_each_time_up_to_a_sixteenth(
    preemptions: int, room: int
) -> None:
    watch, memory = guard([])
    memory.available = 3 + room - 1
    assert watch.refusal(sequence(preemptions), 2, 1.0) == (
        f"it yielded {preemptions} times: it needs 3 blocks and {room} for others to grow,"
        f" {memory.available} are free"
    )
    assert watch.refusal(sequence(preemptions), 0, 1.0) is None
    memory.available += 1
    assert watch.refusal(sequence(preemptions), 2, 1.0) is None


def overload(order: str, preemption: str) -> tuple[float, list[Event]]:
    """The share of computed tokens lost while long answers grow in little memory, all admitted."""
    events: list[Event] = []
    scheduler = make_scheduler(
        blocks=60,
        sequences=30,
        admission=Always(),
        order=order,
        preemption=preemption,
        events=events,
        prefix_cache=False,
    )
    executor = MockExecutor(4)
    for i in range(80):
        scheduler.add(make_request(f"r{i}", [i] * 12, 60, arrival=i / 100), 0.0)
    now = 1.0
    while scheduler.has_work:
        run_step(scheduler, executor, now)
        now += 1.0
        assert now < 9000, "the schedule does not end"
    lost = sum(int(event.data["lost"]) for event in events if event.kind is Kind.PREEMPTED)
    return lost / executor.computed, events


@pytest.mark.parametrize("preemption", BUILT_IN["preemption"])
@pytest.mark.parametrize("order", BUILT_IN["order"])
def test_the_most_careless_admission_does_not_make_memory_collapse(
    order: str, preemption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, events = overload(order, preemption)
    assert any(event.kind is Kind.THRASHING for event in events)
    monkeypatch.setattr(ThrashGuard, "refusal", lambda *anything: None)
    unguarded, _ = overload(order, preemption)
    assert lost < unguarded / 2


def test_the_head_of_the_queue_is_told() -> None:
    scheduler, executor = make_scheduler(blocks=24, admission=Always()), MockExecutor(4)
    for i in range(12):
        scheduler.add(make_request(f"r{i}", [i] * 7, 30), 0.0)
    told: set[str] = set()
    now = 0.0
    while scheduler.has_work:
        run_step(scheduler, executor, now)
        head = next(iter(scheduler.waiting), None)
        if head is not None and head.wait is Wait.MEMORY:
            told.add(head.wait_detail.split()[0])
        now += 1.0
    assert "memory" in told, f"the head heard only {told}"
