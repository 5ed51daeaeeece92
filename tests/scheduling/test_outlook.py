"""Outlook: predicted waits and first tokens against what then happens."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.request import Request, Targets
from headrace.nouns.step import Step, StepResult
from headrace.nouns.step_cost import StepLoad
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling.linear_cost import LinearCost
from headrace.scheduling.margin import Margin
from headrace.scheduling.outlook import COLD, ENOUGH, EVERY, HORIZON, KINDS, Outlook
from headrace.scheduling.place import place
from headrace.scheduling.registry import BUILT_IN
from headrace.scheduling.scheduler import NO_TERMS, Scheduler
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler

COST = LinearCost({"step": 0.01, "prefill": 4e-4, "decodes": 8e-4, "decode_pairs": 1e-6})
LONGEST = 0.03
"""Seconds that no step of these tests takes."""


class Run:
    """A scheduler on a clock of its own, with an outlook."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler, self.executor = scheduler, MockExecutor(4)
        self.outlook = Outlook(scheduler)
        self.now = 0.0

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.outlook.accepted(request, self.now)
            self.scheduler.add(request, self.now)

    def step(self) -> None:
        step = self.scheduler.plan(self.now)
        assert step is not None
        self.executor.submit(step)
        self.now += COST.seconds(StepLoad.of(step))
        self.scheduler.commit(step, self.executor.collect(), self.now)
        self.outlook.look(self.now)

    def until_looked(self) -> None:
        """Steps until the outlook has just looked."""
        while self.outlook._view.time != self.now:
            self.step()

    def drain(self) -> None:
        while self.scheduler.has_work:
            self.step()


def run_of(sequences: int = 4, **options: object) -> Run:
    return Run(
        make_scheduler(
            blocks=20_000, sequences=sequences, prefix_cache=False, cost=COST,
            **options,  # type: ignore[arg-type]
        )
    )  # fmt: skip


def crowd(run: Run, count: int, prompt: int = 9, output: int = 15) -> None:
    run.add(*(make_request(f"c{i}", [i % 900] * prompt, output) for i in range(count)))


@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=14),
    newcomer=st.tuples(st.integers(1, 60), st.integers(1, 5)),
    sequences=st.integers(1, 5),
)
def test_the_first_token_comes_when_it_is_predicted(
    lengths: list[tuple[int, int]], newcomer: tuple[int, int], sequences: int
) -> None:
    """To within a step: a newcomer may share one with those before it."""
    run = run_of(sequences)
    run.add(*(make_request(f"c{i}", [i] * p, o) for i, (p, o) in enumerate(lengths)))
    run.step()
    run.until_looked()
    request = make_request("new", [7] * newcomer[0], newcomer[1], arrival=run.now)
    predicted = run.outlook.first_token(request, run.now)
    came = run.now
    run.add(request)
    [seq] = run.scheduler.sequences("new")
    run.drain()
    assert predicted is not None
    assert seq.first_token_at is not None
    actual = seq.first_token_at - came
    assert actual - LONGEST <= predicted <= actual + LONGEST


def test_whoever_comes_during_a_step_waits_for_its_end() -> None:
    run = Run(make_scheduler(blocks=999, prefix_cache=False, cost=LinearCost({"step": 1.0})))
    run.add(make_request("long", [1], 50))
    for _ in range(3):
        run.scheduler.commit(*_ran(run), run.now)
        run.outlook.look(run.now)
    came = run.now + 0.3
    assert run.outlook.wait(came) == pytest.approx(0.7)
    request = make_request("new", [2], arrival=came)
    assert run.outlook.first_token(request, came) == pytest.approx(1.7)
    assert run.outlook.wait(came + 5.0) == pytest.approx(0.7)


def _ran(run: Run) -> tuple[Step, StepResult]:
    step = run.scheduler.plan(run.now)
    assert step is not None
    run.executor.submit(step)
    run.now += 1.0
    return step, run.executor.collect()


@given(
    truths=st.lists(st.floats(0.1, 2.5), min_size=1, max_size=20),
    seed=st.integers(0, 99),
)
def test_most_promises_are_kept_once_learnt(truths: list[float], seed: int) -> None:
    """Whatever the ratio of true to predicted time is distributed like."""
    margin, drawn = Margin(), random.Random(seed)
    for _ in range(400):
        margin.learn(2.0, 2.0 * drawn.choice(truths))
    kept = 0
    for _ in range(400):
        truth = drawn.choice(truths)
        kept += truth <= margin.factor
        margin.learn(2.0, 2.0 * truth)
        assert 1.0 <= margin.factor <= 3.0
    assert kept >= 0.8 * 400


def test_close_promises_that_are_broken_lengthen_the_next() -> None:
    run = run_of(2)
    crowd(run, 6)
    run.step()
    run.until_looked()
    request = replace(make_request("new", [7] * 9, 3), targets=Targets(ttft=0.5))
    before = run.outlook.first_token(request, run.now)
    run.add(replace(request, arrival=run.now))
    run.now += 5.0  # something held the machine up
    run.drain()
    assert before is not None
    assert before > 0.25
    assert run.outlook._margin.factor > 1.0


def test_starts_of_those_that_wait() -> None:
    run = run_of(2)
    crowd(run, 8)
    run.step()
    run.until_looked()
    waiting = [seq for seq in run.scheduler.waiting if seq.admitted_at is None]
    predicted = [run.outlook.starts(seq.request.id, run.now)[0] + run.now for seq in waiting]
    assert len(waiting) >= 4
    run.drain()
    assert predicted == pytest.approx([seq.admitted_at for seq in waiting])
    assert run.outlook.starts("c0", run.now) == {}


def test_nobody_there_no_wait() -> None:
    run = run_of()
    assert run.outlook.wait(5.0) == 0.0
    crowd(run, 9)
    run.step()
    assert (run.outlook.wait(run.now) or 0.0) > 0
    run.drain()
    assert run.outlook.wait(run.now) == 0.0


def test_those_accepted_since_the_last_look_are_counted() -> None:
    """Before the engine's thread has seen any of them, and whether or not anybody asks between."""
    waits = []
    run = run_of(2)
    run.outlook.look(0.0)
    for i in range(20):
        waits.append(run.outlook.wait(0.0) or 0.0)
        run.outlook.accepted(make_request(f"r{i}", [1] * 30, 10), 0.0)
    again = run_of(2)
    again.outlook.look(0.0)
    for i in range(20):
        again.outlook.accepted(make_request(f"r{i}", [1] * 30, 10), 0.0)
    assert waits == sorted(waits)
    assert (again.outlook.wait(0.0) or 0.0) >= waits[-1] > 1.0


def test_one_that_the_scheduler_refused_is_forgotten() -> None:
    run = run_of(1)
    run.outlook.look(0.0)
    request = make_request("r", [1] * 30, 10)
    run.outlook.accepted(request, 0.0)
    assert (run.outlook.wait(0.0) or 0.0) > 0
    run.outlook.gone(request)
    assert run.outlook.wait(0.0) == 0.0


def test_refusals_do_not_count() -> None:
    run = run_of(1)
    crowd(run, 3)
    run.step()
    run.until_looked()
    request = make_request("r", [1] * 30, 10)
    asked = [run.outlook.first_token(request, run.now) for _ in range(5)]
    assert len(set(asked)) == 1


def test_a_queue_longer_than_the_horizon_goes_on_as_before() -> None:
    run = run_of(4)
    crowd(run, 3 * HORIZON)
    run.step()
    run.until_looked()
    predicted = run.outlook.wait(run.now)
    came = run.now
    run.drain()
    assert predicted == pytest.approx(run.now - came, rel=0.1)


def test_without_a_cost_the_pace_of_the_last_ends_tells() -> None:
    scheduler = make_scheduler(sequences=1)
    outlook = Outlook(scheduler)
    assert outlook.wait(0.0) == 0.0
    for i in range(5):
        scheduler.add(make_request(f"r{i}", [i], 4), 0.0)
    assert outlook.wait(0.0) is None
    assert outlook.first_token(make_request("x", [1]), 0.0) is None
    assert outlook.prospect(make_request("x", [1]), 0.0) is None
    assert outlook.starts("r4", 0.0) == {}
    executor = MockExecutor(4)
    for now in range(12):
        step = scheduler.plan(float(now))
        assert step is not None
        executor.submit(step)
        scheduler.commit(step, executor.collect(), float(now))
    assert len(scheduler.waiting) == 2
    assert outlook.wait(11.0) == pytest.approx(2 * (11 - 3) / 3)


def test_looks_are_not_taken_all_the_time() -> None:
    run = run_of(4)
    crowd(run, 30, output=40)
    looked = set()
    while run.scheduler.has_work:
        run.step()
        looked.add(run.outlook._view.time)
    gaps = [b - a for a, b in zip(sorted(looked), sorted(looked)[1:], strict=False)]
    assert min(gaps[:-1]) >= EVERY  # the last one is taken because nothing runs any more
    assert max(looked) == run.now


def test_lengths_are_learnt() -> None:
    run = run_of(8)
    ends = frozenset(range(0, 1000, 2))
    first = make_request("first", [3], 5000, eos=ends)
    assert run.outlook._output(first, 0) == COLD
    run.add(*(make_request(f"r{i}", [i, 1, i], 5000, eos=ends) for i in range(ENOUGH + 8)))
    run.drain()
    assert run.outlook._output(first, 0) < COLD / 8
    assert run.outlook._output(replace(first, eos_ids=frozenset()), 100) == 4900
    assert run.outlook._output(first, 4999) == 1


def test_what_the_admission_policy_knows_of_lengths_is_taken_over() -> None:
    scheduler = make_scheduler(admission="future", cost=COST)
    lengths = scheduler.admission.lengths  # type: ignore[attr-defined]
    classes = [{"tenant": None, "category": None, "lengths": [30] * ENOUGH}]
    lengths.restore({"classes": classes})
    request = make_request("r", [1], 5000, eos=frozenset([2]))
    assert Outlook(scheduler)._output(request, 0) == 30
    assert Outlook(make_scheduler(cost=COST))._output(request, 0) == COLD


def test_ever_new_kinds_of_requests_are_not_all_kept() -> None:
    """Nobody has to be let in for that, so no end of a sequence empties it."""
    outlook = Outlook(make_scheduler(cost=COST))
    everybody = {"tenant": None, "category": None, "lengths": [30] * ENOUGH}
    outlook._lengths.restore({"classes": [everybody]})
    for i in range(KINDS + 10):
        request = make_request("r", [1], 5000, eos=frozenset([2]), category=f"c{i}")
        assert outlook._output(request, 0) == 30
    assert len(outlook._expected) <= KINDS


def test_what_the_cache_provides_is_taken_off() -> None:
    scheduler = make_scheduler(blocks=20_000, cost=COST)
    run = Run(scheduler)
    prompt = list(range(40))
    request = make_request("new", prompt, 2)
    before = run.outlook.prospect(request, run.now)
    for i in range(30):
        run.add(make_request(f"r{i}", prompt, 2))
        run.drain()
    after = run.outlook.prospect(request, run.now)
    assert before is not None
    assert after is not None
    assert after.alone < before.alone


def test_a_tenant_at_its_bound_waits_for_its_own() -> None:
    tenants = Tenants({"a": Terms(max_running=1)})
    run = run_of(8, tenants=tenants)
    run.add(*(make_request(f"a{i}", [i], 40, tenant="a") for i in range(5)))
    run.step()
    run.until_looked()
    own = run.outlook.first_token(make_request("new", [9], tenant="a"), run.now)
    other = run.outlook.first_token(make_request("new", [9], tenant="b"), run.now)
    assert own is not None
    assert other is not None
    assert own > 1.0
    assert other < 0.1


# Places


def waiting_of(order: str, tenants: Tenants = NO_TERMS) -> Scheduler:
    scheduler = make_scheduler(sequences=1, order=order, tenants=tenants, cost=COST)
    scheduler.add(make_request("running", [1], 30), 0.0)
    scheduler.plan(0.0)
    return scheduler


def placed(scheduler: Scheduler, request: Request, now: float = 1.0) -> int:
    return place(request, list(scheduler.waiting), scheduler.order, scheduler.tenants, now)


def test_first_come_first_served_puts_newcomers_last() -> None:
    scheduler = waiting_of("fcfs")
    for i in range(3):
        scheduler.add(make_request(f"r{i}", [i], arrival=0.1 * i), 0.5)
    assert placed(scheduler, make_request("new", [1], arrival=1.0)) == 3


def test_priorities_decide_the_place() -> None:
    scheduler = waiting_of("priority")
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [i], priority=i), 0.0)
    assert [
        placed(scheduler, make_request("new", [1], arrival=1.0, priority=p)) for p in (-1, 1, 9)
    ] == [0, 2, 4]


def test_shares_decide_the_place() -> None:
    scheduler = waiting_of("fair", Tenants({"heavy": Terms(weight=2.0)}))
    for i in range(9):
        scheduler.add(make_request(f"f{i}", [i], tenant="flood"), 0.0)
    for i in range(4):
        scheduler.add(make_request(f"h{i}", [i], tenant="heavy"), 0.0)
    assert placed(scheduler, make_request("new", [1], tenant="idle")) == 0
    assert placed(scheduler, make_request("new", [1], tenant="heavy")) == 4 + 2
    assert placed(scheduler, make_request("new", [1], tenant="flood")) == 9 + 4


def test_targets_decide_the_place() -> None:
    scheduler = waiting_of("deadline")
    for i, ttft in enumerate([1.0, 30.0, None, 0.001]):
        request = replace(make_request(f"r{i}", [i]), targets=Targets(ttft=ttft))
        scheduler.add(request, 0.0)
    scheduler.waiting.refresh(1.0)

    def at(ttft: float | None) -> int:
        return placed(
            scheduler, replace(make_request("new", [1], arrival=1.0), targets=Targets(ttft=ttft))
        )

    assert at(10.0) < at(60.0) < at(None)
    assert at(10.0) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=9))
def test_every_order_has_a_place_for_everybody(others: list[tuple[str, int]]) -> None:
    for order in BUILT_IN["order"]:
        scheduler = waiting_of(order)
        for i, (tenant, priority) in enumerate(others):
            request = make_request(f"r{i}", [i, 2], tenant=tenant, priority=priority)
            scheduler.add(request, 0.0)
        new = make_request("new", [1, 2, 3], arrival=1.0, tenant="a")
        assert 0 <= placed(scheduler, new) <= len(others)
