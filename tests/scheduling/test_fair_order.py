"""Order 'fair': the bound of the Virtual Token Counter, and what is charged to whom."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.sequence import Sequence
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling import fair_order
from headrace.scheduling.fair_order import INPUT_WEIGHT, OUTPUT_WEIGHT, FairShares
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler, run_step

WEIGHTS = Tenants({"double": Terms(weight=2.0), "half": Terms(weight=0.5)})


def fair(**options: object) -> tuple[Scheduler, FairShares]:
    order = FairShares()
    settings: dict[str, object] = {"order": order, "prefix_cache": False, **options}
    return make_scheduler(**settings), order  # type: ignore[arg-type]


class Backlog:
    """Keeps so many of each tenant's requests waiting, and counts what tenants are served."""

    def __init__(self, scheduler: Scheduler, shapes: dict[str, tuple[int, int, int]]) -> None:
        """``shapes`` are tokens of prompts and outputs, and how many wait, by tenant."""
        self.scheduler, self.shapes = scheduler, shapes
        self.executor = MockExecutor(scheduler.memory.block_size)
        self.ended = dict.fromkeys(shapes, 0.0)
        self.open: dict[str, list[Sequence]] = {tenant: [] for tenant in shapes}
        self.now = 0.0
        self.number = 0

    def step(self) -> None:
        waiting = Counter(seq.request.tenant for seq in self.scheduler.waiting)
        for tenant, (prompt, output, depth) in self.shapes.items():
            for _ in range(depth - waiting[tenant]):
                request = make_request(
                    f"r{self.number}", [1] * prompt, output, tenant=tenant, arrival=self.now
                )
                self.open[tenant] += self.scheduler.add(request, self.now)
                self.number += 1
        run_step(self.scheduler, self.executor, self.now)
        self.now += 1.0

    def service(self) -> dict[str, float]:
        """Prompts of those that have started, and outputs; not by weight."""
        for tenant, sequences in self.open.items():
            self.ended[tenant] += sum(_service(seq) for seq in sequences if seq.finished)
            self.open[tenant] = [seq for seq in sequences if not seq.finished]
        return {
            tenant: self.ended[tenant] + sum(map(_service, sequences))
            for tenant, sequences in self.open.items()
        }


def _service(seq: Sequence) -> float:
    prompt = 0 if seq.admitted_at is None else seq.prompt_len
    return INPUT_WEIGHT * prompt + OUTPUT_WEIGHT * seq.output_len


@settings(max_examples=40, deadline=None)
@given(
    tenants=st.lists(
        st.sampled_from(["a", "b", "double", "half"]), min_size=2, max_size=4, unique=True
    ),
    shapes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 25)), min_size=4, max_size=4),
    flood=st.integers(1, 12),
    blocks=st.integers(14, 40),
    preemption=st.sampled_from(["recompute", "least-lost"]),
    admission=st.sampled_from(["watermark", "reserve", "future"]),
    sequences=st.integers(1, 8),
)
def test_backlogged_tenants_are_served_alike_within_the_bound(
    tenants: list[str],
    shapes: list[tuple[int, int]],
    flood: int,
    blocks: int,
    preemption: str,
    admission: str,
    sequences: int,
) -> None:
    """From any time on at which all of them wait: the difference by weight of any two."""
    scheduler, _ = fair(
        blocks=blocks,
        preemption=preemption,
        admission=admission,
        sequences=sequences,
        tenants=WEIGHTS,
    )
    # The first one floods; nobody's queue runs empty while a step is planned.
    depths = [sequences + flood, *[sequences + 1] * 3]
    backlog = Backlog(
        scheduler,
        {
            tenant: (*shape, depth)
            for tenant, shape, depth in zip(tenants, shapes, depths, strict=False)
        },
    )
    weights = [WEIGHTS.terms(tenant).weight for tenant in tenants]
    history: list[list[float]] = []
    for _ in range(120):
        backlog.step()
        served = backlog.service().values()
        history.append([got / weight for got, weight in zip(served, weights, strict=True)])
    longest = max(prompt for prompt, _ in shapes)
    held = blocks * scheduler.memory.block_size
    bound = 2 * max(INPUT_WEIGHT * longest, OUTPUT_WEIGHT * held) / min(weights)
    for start in history[::30]:
        for end in history:
            shares = [abs(now - was) for was, now in zip(start, end, strict=True)]
            assert max(shares) - min(shares) <= bound


def test_a_flood_gets_no_more_than_one_who_asks_for_as_much_as_it_gets() -> None:
    """Long runs: the shares are within 2 per cent of the weights."""
    scheduler, _ = fair(blocks=40, sequences=6, tenants=WEIGHTS)
    backlog = Backlog(scheduler, {"a": (9, 7, 30), "double": (9, 7, 7), "half": (9, 7, 7)})
    for _ in range(2500):
        backlog.step()
    got = backlog.service()
    total = sum(got.values())
    assert got["a"] / total == pytest.approx(1 / 3.5, rel=0.02)
    assert got["double"] / total == pytest.approx(2 / 3.5, rel=0.02)
    assert got["half"] / total == pytest.approx(0.5 / 3.5, rel=0.02)


def test_who_returns_from_idleness_is_lifted_to_the_least_of_those_who_wait() -> None:
    scheduler, order = fair(sequences=1)
    executor = MockExecutor(4)
    for i in range(6):
        scheduler.add(make_request(f"a{i}", [1] * 4, 4, tenant="a"), 0.0)
    for now in range(9):
        run_step(scheduler, executor, float(now))
    least = order.served("a")
    assert least > 2 * 12
    scheduler.add(make_request("b", [2] * 4, 4, tenant="b"), 9.0)
    assert order.served("b") == least


def test_what_the_cache_gives_and_what_is_recomputed_costs_nothing() -> None:
    scheduler, order = fair(prefix_cache=True, blocks=6)
    executor = MockExecutor(4)
    scheduler.add(make_request("first", [1] * 9, 12, tenant="a"), 0.0)
    while scheduler.has_work:
        run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("stays", [9] * 4, 15, tenant="c", arrival=1.0), 1.0)
    scheduler.add(make_request("again", [1] * 9, 12, tenant="a", arrival=2.0), 2.0)
    (again,) = scheduler.sequences("again")
    most = 0.0
    while not again.finished:
        run_step(scheduler, executor, 2.0)
        most = max(most, order.served("a"))
    assert again.preemptions
    assert again.cached == 8
    assert most == INPUT_WEIGHT * (9 - 8) + OUTPUT_WEIGHT * 11  # then it ended


def test_alone_it_takes_everything_and_its_own_go_by_arrival() -> None:
    scheduler, _ = fair(sequences=2)
    executor = MockExecutor(4)
    for i in range(5):
        scheduler.add(make_request(f"r{i}", [i] * 4, 3, tenant="a", arrival=float(-i)), 0.0)
    ends: list[str] = []
    while scheduler.has_work:
        before = scheduler.running
        run_step(scheduler, executor, 1.0)
        assert len(scheduler.running) == 2 or not len(scheduler.waiting) or len(before) == 2
        ends += [seq.request.id for seq in before if seq.finished]
    assert ends == ["r4", "r3", "r2", "r1", "r0"]


def test_idle_tenants_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_order, "MOST_IDLE", 50)
    scheduler, order = fair(sequences=4)
    executor = MockExecutor(4)
    scheduler.add(make_request("long", [1] * 4, 100, tenant="stays"), 0.0)
    for i in range(400):
        scheduler.add(make_request(f"r{i}", [1] * 4, 2, tenant=f"t{i}"), float(i))
        run_step(scheduler, executor, float(i))
        if i % 40 == 0 and not scheduler.sequences("long"):
            scheduler.add(make_request("long", [1] * 4, 100, tenant="stays"), float(i))
    assert len(order._counters) <= 50 + 10
    while scheduler.has_work:
        run_step(scheduler, executor, 400.0)
    assert not order._counters
    assert not order._weights
    assert not order._starts


@settings(max_examples=50, deadline=None)
@given(
    tenants=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    passed=st.integers(0, 5),
    charges=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=8),
)
def test_the_queue_shows_the_least_served_tenants_first(
    tenants: list[int], passed: int, charges: list[tuple[int, int]]
) -> None:
    """Against a plain search for the least among those left, with some passed over."""
    scheduler, order = fair()
    for i, tenant in enumerate(tenants):
        scheduler.add(make_request(f"r{i}", [1], 1, tenant=f"t{tenant}", arrival=float(i)), 0.0)
    for tenant, charge in charges:
        if tenant in tenants:
            order._charge(f"t{tenant}", float(charge))
    queue = scheduler.waiting
    queue.refresh(1.0)
    left = list(range(len(tenants)))
    passed = min(passed, len(tenants) - 1)
    seen: list[int] = []
    while left:
        expected = min(left, key=lambda i: (order.served(f"t{tenants[i]}"), f"t{tenants[i]}", i))
        position = min(len(seen), passed)
        shown = queue[position]
        assert shown.request.id == f"r{expected}"
        left.remove(expected)
        if len(seen) < passed:
            seen.append(expected)
        else:
            assert queue.pop(position) is shown
            order._charge(shown.request.tenant, 3.0)
    assert [queue[i].request.id for i in range(passed)] == [f"r{i}" for i in seen]
    assert len(queue) == passed
    assert all(a is not b for a, b in pairwise(queue))
