"""max_running: a tenant's own bound is kept, and nobody else waits because of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Wait
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling.round import LOOK_AHEAD
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import (
    MockExecutor,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)


def limited(limits: dict[str, int], **options: Any) -> Scheduler:
    """A scheduler whose tenants may run so many sequences at once."""
    tenants = Tenants({name: Terms(max_running=most) for name, most in limits.items()})
    return make_scheduler(tenants=tenants, **{"blocks": 64, **options})


def test_those_behind_a_tenant_at_its_limit_start_all_the_same() -> None:
    scheduler, executor = limited({"a": 1}), MockExecutor(4)
    for i in range(3):
        scheduler.add(make_request(f"a{i}", [i], 4, tenant="a"), 0.0)
    scheduler.add(make_request("b", [9], 4, tenant="b"), 0.0)
    run_step(scheduler, executor, 0.0)
    assert {seq.request.id for seq in scheduler.running} == {"a0", "b"}
    [second] = scheduler.sequences("a1")
    assert (second.wait, second.wait_detail) == (Wait.TENANT, "its tenant may run 1 at once")
    run_all(scheduler, executor)
    assert second.waits[Wait.TENANT] > 0


def test_a_backlog_longer_than_the_look_ahead_blocks_nobody() -> None:
    scheduler, executor = limited({"a": 1}), MockExecutor(4)
    for i in range(2 * LOOK_AHEAD):
        scheduler.add(make_request(f"a{i}", [i % 1000], 4, tenant="a"), 0.0)
    scheduler.add(make_request("b", [9], 4, tenant="b"), 0.0)
    run_step(scheduler, executor, 1.0)
    assert {seq.request.id for seq in scheduler.running} == {"a0", "b"}


def test_siblings_share_their_tenants_limit() -> None:
    scheduler, executor = limited({"a": 2}), MockExecutor(4)
    scheduler.add(make_request("r", [1, 2, 3], 5, n=5, tenant="a"), 0.0)
    run_all(scheduler, executor)
    assert scheduler.usage.running("a") == scheduler.usage.waiting("a") == 0


def test_an_abort_makes_room() -> None:
    scheduler, executor = limited({"a": 1}), MockExecutor(4)
    for name in ("first", "second", "third"):
        scheduler.add(make_request(name, [1], 9, tenant="a"), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.abort("first", 1.0, "gone")
    scheduler.abort("second", 1.0, "gone")
    assert scheduler.usage.full == {}
    run_step(scheduler, executor, 2.0)
    assert [seq.request.id for seq in scheduler.running] == ["third"]


WORK = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 12), st.integers(1, 10), st.integers(1, 3)),
    min_size=1,
    max_size=14,
)


@given(
    work=WORK,
    limits=st.dictionaries(st.sampled_from("abc"), st.integers(1, 3)),
    blocks=st.integers(8, 24),
    batching=st.sampled_from(["stall-free", "prefill-first", "static"]),
    order=st.sampled_from(["fcfs", "priority"]),
)
def test_limits_hold_and_all_work_ends(
    work: list[tuple[str, int, int, int]],
    limits: dict[str, int],
    blocks: int,
    batching: str,
    order: str,
) -> None:
    """``check_integrity``, after every step of ``run_all``, compares counts with limits."""
    scheduler = limited(limits, blocks=blocks, batching=batching, order=order)
    for i, (tenant, prompt, output, n) in enumerate(work):
        tokens = [(7 * i + j) % 1000 for j in range(prompt)]
        scheduler.add(make_request(f"r{i}", tokens, output, n=n, tenant=tenant), 0.0)
    run_all(scheduler, MockExecutor(4))


@pytest.mark.parametrize("batching", ["stall-free", "prefill-first"])
@given(others=st.lists(st.integers(1, 8), min_size=1, max_size=6), flood=st.integers(0, 30))
def test_a_flood_at_its_limit_delays_others_by_no_more_than_its_running(
    batching: str, others: list[int], flood: int
) -> None:
    """With slots to spare, others start in the same steps as without the flood's backlog."""

    def starts(backlog: int) -> list[tuple[str | None, int | None]]:
        events: list[Event] = []
        scheduler = limited({"flood": 1}, blocks=512, sequences=64, batching=batching,
                            events=events)  # fmt: skip
        for i in range(1 + backlog):
            scheduler.add(make_request(f"f{i}", [1, i], 40, tenant="flood"), 0.0)
        for i, output in enumerate(others):
            scheduler.add(make_request(f"o{i}", [2, i], output, tenant="other"), 0.0)
        executor = MockExecutor(4)
        for now in range(12):
            run_step(scheduler, executor, float(now))
        return [
            (event.request_id, event.step_id)
            for event in events
            if event.kind is Kind.ADMITTED and str(event.request_id).startswith("o")
        ]

    assert starts(flood) == starts(0)
