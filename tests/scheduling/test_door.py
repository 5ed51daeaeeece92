"""Door: bounds that are kept, targets out of reach, and when to come back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.event import Kind
from headrace.nouns.request import Request, Targets
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling.door import Cause, Door
from headrace.scheduling.linear_cost import LinearCost
from headrace.scheduling.outlook import Outlook
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler, run_step

COST = LinearCost({"step": 0.1})


def door_of(max_queue: int = 100, **options: Any) -> tuple[Door, Scheduler]:
    scheduler = make_scheduler(**{"cost": COST, "blocks": 1000, **options})
    return Door(scheduler, max_queue, Outlook(scheduler)), scheduler


def wanting(ttft: float | None = None, deadline: float | None = None, **more: Any) -> Request:
    request = make_request(more.pop("id", "new"), more.pop("prompt", [1]), **more)
    return replace(request, targets=Targets(ttft=ttft, deadline=deadline))


def fill(door: Door, scheduler: Scheduler, count: int, output: int = 50) -> None:
    for i in range(count):
        request = make_request(f"r{i}", [i], output)
        assert door.refusal(request, 0.0) is None
        door.enter(request, 0.0)
        scheduler.add(request, 0.0)
        door.passed(request)


def test_a_full_queue() -> None:
    door, scheduler = door_of(max_queue=3)
    fill(door, scheduler, 3)
    refusal = door.refusal(make_request("new", [1]), 0.0)
    assert refusal is not None
    assert refusal.cause is Cause.QUEUE
    assert "3 sequences wait already and the queue holds 3; try again in" in refusal.message
    assert refusal.retry_after is not None
    assert refusal.retry_after >= 1.0


def test_those_on_their_way_count() -> None:
    door, scheduler = door_of(max_queue=3)
    request = make_request("r", [1], n=3)
    door.enter(request, 0.0)
    assert (door.pending, door.waiting) == (3, 3)
    assert door.refusal(make_request("new", [1]), 0.0) is not None
    scheduler.add(request, 0.0)
    door.passed(request)
    assert (door.pending, door.waiting) == (0, 3)


def test_a_tenants_own_bound_is_its_own() -> None:
    door, scheduler = door_of(tenants=Tenants({"a": Terms(max_waiting=2)}))
    for i in range(2):
        request = make_request(f"a{i}", [i], tenant="a")
        door.enter(request, 0.0)
        scheduler.add(request, 0.0)
        door.passed(request)
    refusal = door.refusal(make_request("new", [1], tenant="a"), 0.0)
    assert refusal is not None
    assert refusal.cause is Cause.TENANT
    assert "2 sequences of tenant 'a' wait already and it may have 2" in refusal.message
    assert door.refusal(make_request("new", [1], tenant="b"), 0.0) is None
    assert (door.most("a"), door.most("b")) == (2, 100)
    run_step(scheduler, MockExecutor(4), 0.0)  # they run now, nobody waits
    assert door.refusal(make_request("new", [1], tenant="a"), 0.1) is None


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abc"), st.integers(1, 3)),
        st.tuples(st.just("pass"), st.just(""), st.just(0)),
        st.tuples(st.just("step"), st.just(""), st.just(0)),
    ),
    max_size=60,
)


@given(moves=MOVES, bounds=st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)))
def test_bounds_are_never_passed_and_nobody_is_refused_without_need(
    moves: list[tuple[str, str, int]], bounds: dict[str, int]
) -> None:
    tenants = Tenants({name: Terms(max_waiting=most) for name, most in bounds.items()})
    door, scheduler = door_of(max_queue=9, sequences=2, tenants=tenants)
    executor = MockExecutor(4)
    inbox: list[Request] = []
    for number, (move, tenant, n) in enumerate(moves):
        waiting = Counter(seq.request.tenant for seq in scheduler.waiting)
        for request in inbox:
            waiting[request.tenant] += request.n
        assert waiting.total() <= 9
        assert all(waiting[name] <= most for name, most in bounds.items())
        if move == "ask":
            request = make_request(f"r{number}", [number], 5, n=n, tenant=tenant)
            refusal = door.refusal(request, float(number))
            room = min(9 - waiting.total(), bounds.get(tenant, 9) - waiting[tenant])
            assert (refusal is None) == (n <= room)
            if refusal is None:
                door.enter(request, float(number))
                inbox.append(request)
        elif move == "pass" and inbox:
            request = inbox.pop(0)
            scheduler.add(request, float(number))
            door.passed(request)
        elif move == "step" and scheduler.has_work:
            run_step(scheduler, executor, float(number))


def test_a_first_token_that_would_come_too_late() -> None:
    door, scheduler = door_of(sequences=2)
    fill(door, scheduler, 4)  # two rounds of 50 steps before the next can start
    refusal = door.refusal(wanting(ttft=1.0), 0.0)
    assert refusal is not None
    assert refusal.cause is Cause.TARGET
    assert refusal.retry_after == pytest.approx(10.1 - 1.0, abs=0.5)
    assert "the first token is wanted within 1 s and would take about 10 s now" in refusal.message
    assert door.refusal(wanting(ttft=11.0), 0.0) is None
    assert door.refusal(wanting(deadline=5.0), 0.0) is not None
    assert door.refusal(wanting(deadline=11.0), 0.0) is None
    assert door.refusal(wanting(ttft=11.0, deadline=5.0), 0.0) is not None
    assert door.refusal(wanting(), 0.0) is None


def test_an_answer_that_would_end_too_late() -> None:
    """Eleven tokens take 1.1 s, whoever else is there; if it may end before, a few may do."""
    door, _ = door_of()
    request = wanting(deadline=1.0, max_tokens=11)
    assert door.refusal(replace(request, max_tokens=9), 0.0) is None
    assert door.refusal(request, 0.0) is None  # late by its own length only, and little
    refusal = door.refusal(replace(request, max_tokens=30), 0.0)
    assert refusal is not None
    assert refusal.retry_after is None
    assert "the answer is wanted within 1 s from now and takes about 3 s" in refusal.message
    assert door.refusal(replace(request, max_tokens=30, eos_ids=frozenset([0])), 0.0) is None


def test_coming_back_when_told_helps() -> None:
    door, scheduler = door_of(sequences=2)
    fill(door, scheduler, 4)
    refusal = door.refusal(wanting(ttft=1.0), 0.0)
    assert refusal is not None
    assert refusal.retry_after is not None
    executor, now = MockExecutor(4), 0.0
    assert door.outlook is not None
    while now < refusal.retry_after:
        run_step(scheduler, executor, now)
        now += 0.1
        door.outlook.look(now)
    assert door.refusal(wanting(ttft=1.0, arrival=now), now) is None


def test_what_is_out_of_reach_by_itself_has_no_time_to_come_back() -> None:
    door, _ = door_of(budget=16)
    long = list(range(160))  # ten steps
    refusal = door.refusal(wanting(ttft=0.4, prompt=long), 0.0)
    assert refusal is not None
    assert refusal.retry_after is None
    assert "takes about 1 s even with nobody else here (160 prompt tokens)" in refusal.message


def test_what_is_too_late_already_is_not_let_in() -> None:
    door, _ = door_of()
    for request in (wanting(deadline=5.0), wanting(ttft=1.0, arrival=4.0)):
        refusal = door.refusal(request, 6.0)
        assert refusal is not None
        assert refusal.retry_after is None
        assert "has passed" in refusal.message


def test_a_tenant_that_runs_all_it_may_is_told_of_its_own_queue() -> None:
    tenants = Tenants({"a": Terms(max_waiting=2, max_running=1)})
    door, scheduler = door_of(tenants=tenants)
    executor, now = MockExecutor(4), 0.0
    for i in range(3):
        request = make_request(f"a{i}", [i], 50, tenant="a")
        assert door.refusal(request, now) is None
        door.enter(request, now)
        scheduler.add(request, now)
        door.passed(request)
        run_step(scheduler, executor, now)
        now += 0.1
    assert door.outlook is not None
    door.outlook.look(now)
    refusal = door.refusal(make_request("new", [1], tenant="a"), now)
    assert refusal is not None
    assert refusal.retry_after is not None
    assert refusal.retry_after > 5.0
    assert door.outlook.wait(now) == 0.0


def test_what_only_its_own_length_delays_a_little_is_let_in() -> None:
    door, scheduler = door_of(budget=16, sequences=1)
    request = wanting(ttft=0.8, prompt=list(range(160)))
    assert door.refusal(request, 0.0) is None
    fill(door, scheduler, 1)
    refusal = door.refusal(request, 0.0)
    assert refusal is not None
    assert refusal.retry_after is not None


@pytest.mark.parametrize("now", [0.1, 0.3, 1e3 / 7, 1e6 / 3])
def test_an_idle_server_refuses_nobody_for_now(now: float) -> None:
    """Neither by rounding nor by what slow days have taught: nobody would ever get in again."""
    for slow in (0, 100):
        door, _ = door_of(budget=16)
        outlook = door.outlook
        assert outlook is not None
        for _ in range(slow):
            outlook._margin.learn(1.0, 9.0)
        for looked in (0.0, 0.07, now):
            outlook.look(looked)
            for ttft in (0.6, 0.9, 1.0, 1.1, 2.9):  # it takes 1 s
                request = wanting(ttft=ttft, prompt=list(range(160)), arrival=now)
                assert door.refusal(request, now) is None
            deadline = wanting(deadline=now + 0.9, max_tokens=11, arrival=now)
            assert door.refusal(deadline, now) is None


def test_without_predictions_nobody_is_refused_for_a_target() -> None:
    for door, scheduler in (door_of(cost=None), door_of()):
        if door.outlook is not None and scheduler.cost is not None:
            door.outlook = None
        fill(door, scheduler, 90)
        assert door.refusal(wanting(ttft=0.001), 0.0) is None


def test_ever_new_tenants_leave_nothing_behind() -> None:
    door, _ = door_of(max_queue=8)
    waits = make_request("waits", [1], tenant="waits")
    door.enter(waits, 0.0)
    for i in range(3000):
        request = make_request(f"r{i}", [1], tenant=f"t{i}")
        door.enter(request, 0.0)
        door.passed(request)
    assert len(door._entered) < 2000
    assert len(door._passed) < 2000
    assert door.pending == 1
    door.passed(waits)
    assert door.pending == 0


def test_a_refusal_is_an_event() -> None:
    door, scheduler = door_of(sequences=2)
    fill(door, scheduler, 4)
    request = wanting(ttft=1.0, tenant="a")
    refusal = door.refusal(request, 0.0)
    assert refusal is not None
    event = refusal.event(request, 3.0)
    assert (event.kind, event.time, event.request_id) == (Kind.REFUSED, 3.0, "new")
    assert event.data["cause"] == "target_out_of_reach"
    assert event.data["tenant"] == "a"
    assert event.reason == refusal.message
