"""Order 'deadline': due times, lateness, shares, and first come first served without targets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.request import Targets
from headrace.nouns.sequence import Sequence
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.deadline_order import SHARES, SPARE, EarliestDue, Lane
from headrace.scheduling.limits import Limits
from headrace.scheduling.prefill_time import PrefillTime
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler
from tests.scheduling.test_any_policy import JOBS, TIME, Job, run

SECOND = Targets(ttft=1.0, tpot=0.1)


def waiting(scheduler: Scheduler, now: float) -> list[str]:
    scheduler.waiting.refresh(now)
    return [seq.request.id for seq in scheduler.waiting]


def add(
    scheduler: Scheduler, id: str, tokens: int, at: float, targets: Targets = SECOND
) -> Sequence:
    request = make_request(id, [len(id)] * tokens, 4, arrival=at, targets=targets.since(at))
    return scheduler.add(request, at)[0]


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(JOBS, min_size=2, max_size=12),
    blocks=st.integers(18, 40),
    preemption=st.sampled_from(["recompute", "least-lost"]),
    sequences=st.integers(1, 12),
)
def test_without_targets_it_is_first_come_first_served(
    jobs: list[Job], blocks: int, preemption: str, sequences: int
) -> None:
    ends: list[list[tuple[float | None, float | None, float | None]]] = []
    for job in jobs:
        job.targets = Targets()
    for order in ("fcfs", "deadline"):
        scheduler = make_scheduler(
            order=order, preemption=preemption, blocks=blocks, sequences=sequences
        )
        everybody = run(scheduler, jobs)
        ends.append([(s.admitted_at, s.first_token_at, s.finished_at) for s in everybody])
    assert ends[0] == ends[1]


def test_whose_first_token_is_due_first_goes_first() -> None:
    scheduler = make_scheduler(order="deadline", cost=TIME)
    add(scheduler, "later", 4, 0.0, Targets(ttft=5.0))
    add(scheduler, "sooner", 4, 0.1, Targets(ttft=0.5))
    add(scheduler, "by a deadline", 4, 0.2, Targets(deadline=1.0, ttft=9.0))
    add(scheduler, "patient", 4, 0.0, Targets())
    add(scheduler, "pace only", 4, 0.1, Targets(tpot=0.001))
    assert waiting(scheduler, 0.3) == ["sooner", "by a deadline", "later", "patient", "pace only"]


def test_who_cannot_make_it_any_more_lets_others_pass() -> None:
    """96 tokens are 6 full steps of 26 ms; they have to start by 0.844."""
    scheduler = make_scheduler(order="deadline", cost=TIME, blocks=64)
    add(scheduler, "long", 96, 0.0)
    add(scheduler, "short", 4, 0.2)
    assert waiting(scheduler, 0.84) == ["long", "short"]
    assert waiting(scheduler, 0.85) == ["short", "long"]
    assert waiting(scheduler, 1.5) == ["long", "short"]  # both late, by arrival
    add(scheduler, "hopeless", 75, 1.5, Targets(ttft=0.001))
    assert waiting(scheduler, 1.6)[-1] == "hopeless"


class Starts:
    """Who starts, one at a time, while tokens flow past whoever waits."""

    def __init__(self) -> None:
        self.order = EarliestDue()
        self.scheduler = make_scheduler(
            order=self.order, sequences=1, budget=64, blocks=64, cost=TIME, prefix_cache=False
        )
        self.executor = MockExecutor(4)
        self.now = 0.0

    def one(self) -> Sequence:
        """Runs the next to start to its end."""
        step = self.scheduler.plan(self.now)
        assert step is not None
        (seq,) = [piece.sequence for piece in step.slices]
        while True:
            self.executor.submit(step)
            self.now += TIME.seconds(StepLoad.of(step))
            self.scheduler.commit(step, self.executor.collect(), self.now)
            if seq.finished:
                return seq
            step = self.scheduler.plan(self.now)
            assert step is not None


@pytest.mark.parametrize(
    ("lane", "targets"), [(Lane.PATIENT, Targets()), (Lane.LATE, Targets(ttft=0.001))]
)
def test_the_patient_and_the_late_get_their_share_of_tokens(lane: Lane, targets: Targets) -> None:
    starts = Starts()
    for i in range(200):
        add(starts.scheduler, f"w{i}", 10, 0.0, targets)
    tokens = {True: 0, False: 0}
    for i in range(300):
        if sum(seq.request.targets == SECOND for seq in starts.scheduler.waiting) < 2:
            add(starts.scheduler, f"in time {i}", 20, starts.now)
        started = starts.one()
        tokens[started.request.targets == SECOND] += started.prompt_len
    share = SHARES[lane]
    assert tokens[False] == pytest.approx(share * tokens[True], abs=10)


def test_who_is_owed_a_turn_still_has_to_be_there() -> None:
    """What was owed to those who have left is owed to nobody."""
    starts = Starts()
    hopeless = Targets(ttft=0.001)
    add(starts.scheduler, "late", 60, 0.0, hopeless)
    for i in range(13):  # it is owed 12 or 13 times 60 / 16 tokens, more than 40
        add(starts.scheduler, f"in time {i}", 60, starts.now)
        assert starts.one().request.id == f"in time {i}"
    starts.scheduler.abort("late", starts.now, "gone")
    add(starts.scheduler, "in between", 4, starts.now)
    starts.one()
    add(starts.scheduler, "late again", 40, starts.now, hopeless)
    add(starts.scheduler, "in time", 4, starts.now)
    starts.now += 0.002
    assert starts.one().request.id == "in time"


def test_one_that_had_tokens_returns_before_newcomers_and_is_never_late() -> None:
    scheduler = make_scheduler(order="deadline", blocks=8, cost=TIME, prefix_cache=False)
    executor = MockExecutor(4)
    for i in range(2):
        request = make_request(f"r{i}", [i] * 7, 20, arrival=float(i) / 100, targets=SECOND)
        scheduler.add(request, 0.02)
    (second,) = scheduler.sequences("r1")
    now = 0.02
    while not second.preemptions:
        step = scheduler.plan(now)
        assert step is not None
        executor.submit(step)
        now += TIME.seconds(StepLoad.of(step))
        scheduler.commit(step, executor.collect(), now)
    add(scheduler, "new", 4, now)
    assert waiting(scheduler, now) == ["r1", "new"]
    assert waiting(scheduler, now + 0.9)[0] == "r1"


def test_the_loosest_yields_memory_first_but_to_nobody_much_younger() -> None:
    order = EarliestDue()
    scheduler = make_scheduler(order=order, cost=TIME)
    tight = add(scheduler, "tight", 4, 5.0, Targets(ttft=9.0, tpot=0.05))
    loose = add(scheduler, "loose", 4, 5.0, Targets(ttft=9.0, tpot=1.0))
    patient = add(scheduler, "patient", 4, 5.0, Targets())
    late = add(scheduler, "late", 40, 5.0, Targets(ttft=0.0001))
    scheduler.waiting.refresh(6.0)
    ranked = sorted([late, patient, loose, tight], key=lambda seq: order.key(seq, 6.0))
    assert ranked == [tight, loose, patient, late]
    young = add(scheduler, "young", 4, 70.0, Targets(ttft=9.0, tpot=0.05))
    assert order.key(late, 70.0) < order.key(young, 70.0)


def test_the_times_of_those_long_gone_are_dropped() -> None:
    starts = Starts()
    for i in range(3 * SPARE):
        add(starts.scheduler, f"r{i}", 1, starts.now, Targets(deadline=1e6))
        starts.one()
    assert len(starts.order._queue._latest) <= SPARE + 2
    assert not starts.order._time._running
    assert not starts.order._queue.late


def prefill(limits: Limits, cost: object = TIME) -> PrefillTime:
    time = PrefillTime()
    time.bind(limits, cost)  # type: ignore[arg-type]
    return time


def test_prefill_takes_the_steps_it_needs_by_the_cost() -> None:
    time = prefill(Limits(20, 64, 8))
    assert time.seconds(20) == pytest.approx(0.030)
    assert time.seconds(21) == pytest.approx(0.060)
    for i in range(4):
        time.started(Sequence.of(make_request(f"r{i}", [1]), 0), 0.0)
    assert time.seconds(16) == pytest.approx(0.030)  # beside four decodes
    assert time.seconds(17) == pytest.approx(0.060)


def test_without_a_cost_the_last_steps_count() -> None:
    time = prefill(Limits(20, 64, 8), None)
    assert time.seconds(40) == 0.0
    time.started(Sequence.of(make_request("r", [1] * 5), 0), 0.0)
    for now in (0.5, 1.0, 1.5):
        time.planning(now)
    assert time.step == pytest.approx(0.5)
    assert time.seconds(19) == pytest.approx(0.5)


def test_it_learns_how_much_longer_prefills_take_than_predicted() -> None:
    time = prefill(Limits(20, 64, 8))
    now = 0.0
    for i in range(300):
        seq = Sequence.of(make_request(f"r{i}", [1] * 20), 0)
        time.planning(now)
        time.started(seq, now)
        now += 0.09
        seq.first_token_at = now
        time.planning(now)
        time.stopped(seq)
    assert time.factor == pytest.approx(3.0)
    assert time.seconds(20) == pytest.approx(0.09, rel=0.15)
    assert time.seconds(40) == pytest.approx(0.18, rel=0.15)
