"""What holds under every combination of registered policies: all end, alone or in a crowd alike."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.request import Request, Targets
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Step
from headrace.nouns.step_cost import StepLoad
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling.registry import BUILT_IN
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import MockExecutor, alone, make_request, make_scheduler

ORDERS, PREEMPTIONS = list(BUILT_IN["order"]), list(BUILT_IN["preemption"])
ADMISSIONS, BATCHINGS = list(BUILT_IN["admission"]), list(BUILT_IN["batching"])
PREFIXES = [[], [1] * 16, [1] * 16 + [2] * 5, [3] * 33]
TARGETS = [
    Targets(),
    Targets(ttft=0.2, tpot=0.05),
    Targets(ttft=2.0),
    Targets(tpot=0.1),
    Targets(deadline=1.0),
]
TENANTS = Tenants({"heavy": Terms(weight=3.0), "light": Terms(weight=0.5)})


class LinearTime:
    """A step of so many rows takes so long."""

    def seconds(self, load: StepLoad) -> float:
        return 0.01 + 0.001 * (load.rows + load.padding)


TIME = LinearTime()


@dataclass
class Job:
    """A request that arrives ``gap`` steps after the one before."""

    gap: int
    prefix: int
    tail: int
    max_tokens: int
    n: int
    tenant: str
    targets: Targets
    priority: int

    def request(self, number: int, now: float) -> Request:
        prompt = PREFIXES[self.prefix] + [number % 5] * self.tail
        return make_request(
            f"r{number}",
            prompt,
            self.max_tokens,
            n=self.n,
            arrival=now,
            priority=self.priority,
            tenant=self.tenant,
            targets=self.targets.since(now),
            category=f"c{self.max_tokens % 2}",
        )


JOBS = st.builds(
    Job,
    gap=st.integers(0, 6),
    prefix=st.integers(0, len(PREFIXES) - 1),
    tail=st.integers(1, 9),
    max_tokens=st.integers(1, 30),
    n=st.sampled_from([1, 1, 1, 3]),
    tenant=st.sampled_from(["default", "heavy", "light"]),
    targets=st.sampled_from(TARGETS),
    priority=st.integers(0, 2),
)


def run(scheduler: Scheduler, jobs: list[Job], depth: int = 1) -> list[Sequence]:
    """Runs on a clock that steps move, until all have ended. Fails if that takes too long."""
    executor = MockExecutor(scheduler.memory.block_size, depth)
    flying: deque[Step] = deque()
    everybody: list[Sequence] = []
    now, number, gap, steps = 0.0, 0, 0, 0
    most = 50 + 20 * sum(job.n * (80 + job.max_tokens) + job.gap for job in jobs)
    while number < len(jobs) or scheduler.has_work:
        while number < len(jobs) and (gap >= jobs[number].gap or not scheduler.has_work):
            everybody += scheduler.add(jobs[number].request(number, now), now)
            number, gap = number + 1, 0
        step = scheduler.plan(now)
        if step is not None:
            executor.submit(step)
            flying.append(step)
            now += TIME.seconds(StepLoad.of(step))
        assert flying, "work is left but no step is planned"
        if step is None or len(flying) == depth:
            scheduler.commit(flying.popleft(), executor.collect(), now)
        scheduler.check_integrity()
        gap, steps = gap + 1, steps + 1
        assert steps < most, "the schedule does not end"
    for seq in everybody:
        assert seq.output_len == seq.request.max_tokens
        assert seq.tokens == alone(seq), "the schedule changed the output"
    assert scheduler.memory.available == scheduler.memory.total
    return everybody


@pytest.mark.parametrize("preemption", PREEMPTIONS)
@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=12, deadline=None)
@given(
    jobs=st.lists(JOBS, min_size=2, max_size=12),
    blocks=st.integers(18, 40),
    budget=st.integers(2, 48),
    sequences=st.integers(1, 12),
    admission=st.sampled_from(ADMISSIONS),
    batching=st.sampled_from(BATCHINGS),
    prefix_cache=st.booleans(),
    known_cost=st.booleans(),
    depth=st.sampled_from([1, 1, 2]),
)
def test_everybody_ends_with_the_tokens_they_have_alone(
    order: str,
    preemption: str,
    jobs: list[Job],
    blocks: int,
    budget: int,
    sequences: int,
    admission: str,
    batching: str,
    prefix_cache: bool,
    known_cost: bool,
    depth: int,
) -> None:
    scheduler = make_scheduler(
        blocks=blocks,
        budget=budget,
        sequences=sequences,
        order=order,
        admission=admission,
        batching=batching,
        preemption=preemption,
        prefix_cache=prefix_cache,
        tenants=TENANTS,
        cost=TIME if known_cost else None,
    )
    run(scheduler, jobs, depth)


CROWD = [
    Job(number % 3, number % 4, 1 + number % 7, 20 + number % 9, 1 + number % 2, tenant, target, 0)
    for number, (tenant, target) in enumerate(product(["heavy", "light"], TARGETS))
]


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("admission", ADMISSIONS)
@pytest.mark.parametrize("preemption", PREEMPTIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_crowd_in_too_little_memory_ends_under_every_combination(
    order: str, preemption: str, admission: str, batching: str
) -> None:
    scheduler = make_scheduler(
        blocks=24,
        budget=24,
        order=order,
        admission=admission,
        batching=batching,
        preemption=preemption,
        tenants=TENANTS,
        cost=TIME,
    )
    everybody = run(scheduler, CROWD)
    if admission == "watermark" and batching == "stall-free":
        assert any(seq.preemptions for seq in everybody), "memory was not short"
