"""Replay against the scheduler itself: exact where outputs are known and nothing is shared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.sequence import Sequence
from headrace.nouns.step_cost import StepLoad
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling.limits import Limits
from headrace.scheduling.linear_cost import LinearCost
from headrace.scheduling.replay import Job, Replay
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler

COST = LinearCost(
    {
        "step": 0.01, "prefill": 4e-4, "decodes": 8e-4, "slices": 1e-5, "samples": 1e-4,
        "decode_pairs": 1e-6, "prefill_pairs": 2e-7, "read": 1e-7,
    }
)  # fmt: skip
AMPLE = 10**6

Lengths = tuple[int, int]
JOBS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=12)


def jobs_of(lengths: list[Lengths], tenant: str = "a") -> list[Job]:
    return [Job(prompt, prompt, output, tenant) for prompt, output in lengths]


def serve(
    scheduler: Scheduler, executor: MockExecutor, now: float = 0.0, steps: int = 10_000
) -> float:
    """Runs so many steps, or to the end, each as long as it costs; the time then."""
    while scheduler.has_work and steps:
        step = scheduler.plan(now)
        assert step is not None
        executor.submit(step)
        now += COST.seconds(StepLoad.of(step))
        scheduler.commit(step, executor.collect(), now)
        steps -= 1
    return now


def queued(scheduler: Scheduler, lengths: list[Lengths], tenant: str = "a") -> list[Sequence]:
    return [
        scheduler.add(make_request(f"{tenant}{i}", [i] * p, o, tenant=tenant), 0.0)[0]
        for i, (p, o) in enumerate(lengths)
    ]


@given(lengths=JOBS, budget=st.integers(4, 40), sequences=st.integers(1, 6))
def test_first_tokens_come_when_they_do(
    lengths: list[Lengths], budget: int, sequences: int
) -> None:
    limit = max(budget, sequences)
    scheduler = make_scheduler(
        blocks=4000, budget=budget, limit=limit, sequences=sequences, prefix_cache=False
    )
    seqs = queued(scheduler, lengths)
    replay = Replay(COST, scheduler.limits, AMPLE, [], jobs_of(lengths), {})
    serve(scheduler, MockExecutor(4))
    assert replay.firsts == pytest.approx([seq.first_token_at for seq in seqs])
    starts = [opening and opening.time for opening in replay.starts]
    assert starts == pytest.approx([seq.admitted_at for seq in seqs])


@given(lengths=JOBS, steps=st.integers(1, 12), sequences=st.integers(1, 6))
def test_it_can_begin_in_the_middle(lengths: list[Lengths], steps: int, sequences: int) -> None:
    """What runs by then is taken as it is."""
    scheduler = make_scheduler(blocks=4000, sequences=sequences, prefix_cache=False)
    queued(scheduler, lengths)
    executor = MockExecutor(4)
    now = serve(scheduler, executor, steps=steps)
    running = [
        Job(s.uncomputed, len(s.tokens), s.request.max_tokens - s.output_len, "a")
        for s in scheduler.running
    ]
    seqs = list(scheduler.waiting)
    waiting = jobs_of([(s.prompt_len, s.request.max_tokens) for s in seqs])
    replay = Replay(COST, scheduler.limits, AMPLE, running, waiting, {})
    serve(scheduler, executor, now)
    assert replay.firsts == pytest.approx([(s.first_token_at or 0.0) - now for s in seqs])


@given(lengths=JOBS, sequences=st.integers(1, 4), budget=st.integers(4, 30))
def test_a_longer_queue_is_a_longer_wait(
    lengths: list[Lengths], sequences: int, budget: int
) -> None:
    limits = Limits(budget, max(budget, sequences), sequences)
    jobs = jobs_of(lengths)
    waits = [
        Replay(COST, limits, AMPLE, [], jobs[:count], {}).opening(50).time
        for count in range(len(jobs) + 1)
    ]
    assert waits == sorted(waits)
    assert waits[0] == 0.0


@given(lengths=JOBS, sequences=st.integers(1, 4))
def test_whoever_comes_later_waits_longer(lengths: list[Lengths], sequences: int) -> None:
    replay = Replay(COST, Limits(16, 16, sequences), AMPLE, [], [], {})
    firsts = [replay.start(job) for job in jobs_of(lengths)]
    assert firsts == sorted(firsts)


def test_memory_that_is_full_is_waited_for() -> None:
    jobs = jobs_of([(20, 11)] * 3)
    roomy = Replay(COST, Limits(64, 64, 8), 90, [], jobs, {}).firsts
    tight = Replay(COST, Limits(64, 64, 8), 60, [], jobs, {}).firsts
    assert roomy[0] == roomy[1] == roomy[2]
    assert tight[0] == tight[1]
    assert tight[0] is not None
    assert tight[2] is not None
    assert tight[2] > tight[0] + 10 * 0.01  # ten steps of decoding have to end first


def test_what_can_never_fit_starts_when_nothing_runs() -> None:
    replay = Replay(COST, Limits(16, 16, 2), 10, [], jobs_of([(5, 3), (50, 2)]), {})
    assert None not in replay.firsts


def test_a_tenant_at_its_bound_is_overtaken_and_then_goes_on() -> None:
    lengths = [(4, 6)] * 4
    tenants = Tenants({"flood": Terms(max_running=1)})
    scheduler = make_scheduler(blocks=4000, sequences=8, tenants=tenants, prefix_cache=False)
    flood, other = queued(scheduler, lengths, "flood"), queued(scheduler, [(7, 30)], "other")
    waiting = [*jobs_of(lengths, "flood"), *jobs_of([(7, 30)], "other")]
    replay = Replay(COST, scheduler.limits, AMPLE, [], waiting, {"flood": 1})
    parked = replay.parked("flood")
    serve(scheduler, MockExecutor(4))
    assert replay.firsts[0] == flood[0].first_token_at
    assert replay.firsts[-1] == other[0].first_token_at
    assert replay.firsts[1] is None
    last = flood[-1].finished_at
    assert last is not None
    assert last / 2 < parked < 2 * last


@given(tokens=st.integers(1, 500), budget=st.integers(1, 64))
def test_a_prefill_alone_takes_the_steps_that_it_takes(tokens: int, budget: int) -> None:
    replay = Replay(COST, Limits(budget, budget, 1), AMPLE, [], [], {})
    alone = Replay(COST, Limits(budget, budget, 1), AMPLE, [], jobs_of([(tokens, 1)]), {})
    assert replay.prefill(tokens) == pytest.approx(alone.firsts[0])


@given(
    running=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), max_size=5),
    lengths=JOBS,
    memory=st.sampled_from([0, 60, AMPLE]),
    most=st.integers(1, 3),
    after=st.floats(0, 3),
)
def test_any_replay_ends_and_never_goes_back(
    running: list[Lengths], lengths: list[Lengths], memory: int, most: int, after: float
) -> None:
    limits = Limits(6, 8, 5)
    bounds = {"a": most}
    replay = Replay(COST, limits, memory, jobs_of(running), jobs_of(lengths), bounds)
    before = replay.time
    opening = replay.opening(40, after)
    assert opening.time >= max(before, after)
    assert replay.start(Job(3, 3, 2, "b")) > opening.time
    assert replay.parked("a") >= replay.time
    assert replay.time > opening.time
