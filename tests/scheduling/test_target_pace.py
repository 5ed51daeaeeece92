"""Steps beside TPOT targets: as large as they allow, in time, never starving prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.event import Event, Kind
from headrace.nouns.request import Request, Targets
from headrace.nouns.sequence import Sequence, Wait
from headrace.nouns.step import Slice, Step
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.scheduling.batching import StallFree
from headrace.scheduling.limits import Limits
from headrace.scheduling.policy import PlanningRound
from headrace.scheduling.registry import create
from headrace.scheduling.scheduler import Policies, Scheduler
from headrace.scheduling.target_pace import FLOOR, LEAST, MARGIN, Allowance, prefill_load
from headrace.scheduling.uniform_batching import Uniform
from tests.scheduling.mock_executor import MockExecutor, make_request


class Linear:
    """10 ms a step, 1 ms a row, and a little for what rows look at."""

    def __init__(self, row: float = 1e-3) -> None:
        self.row = row
        self.asked = 0

    def seconds(self, load: StepLoad) -> float:
        self.asked += 1
        return 0.010 + self.row * load.rows + 1e-6 * load.pairs


def scheduler(
    batching: object, cost: StepCost | None, *, budget: int = 64, sequences: int = 16,
    blocks: int = 400, events: list[Event] | None = None,
) -> Scheduler:  # fmt: skip
    policies = Policies(
        order=create("order", "fcfs"),
        admission=create("admission", "watermark"),
        batching=batching,  # type: ignore[arg-type]
        preemption=create("preemption", "recompute"),
    )
    memory = SequenceMemory(blocks, 4, True)
    sink = (lambda event: None) if events is None else events.append
    return Scheduler(memory, policies, Limits(budget, 4096, sequences), sink, cost=cost)


def request(id: str, prompt: int, output: int, tpot: float | None, at: float = 0.0) -> Request:
    first = sum(map(ord, id)) * 100_000
    made = make_request(id, list(range(first, first + prompt)), output, arrival=at)
    return replace(made, targets=Targets(tpot=tpot))


class Timed:
    """Runs a scheduler in the time that its cost model predicts."""

    def __init__(self, made: Scheduler, cost: StepCost) -> None:
        self.scheduler, self.cost, self.now = made, cost, 0.0
        self.executor = MockExecutor(4)
        self.steps: list[Step] = []

    def add(self, asked: Request) -> Sequence:
        (seq,) = self.scheduler.add(replace(asked, arrival=self.now), self.now)
        return seq

    def step(self) -> Step:
        step = self.scheduler.plan(self.now)
        assert step is not None
        self.executor.submit(step)
        self.now += self.cost.seconds(StepLoad.of(step))
        self.scheduler.commit(step, self.executor.collect(), self.now)
        self.steps.append(step)
        return step

    def finish(self, steps: int = 5000) -> None:
        while self.scheduler.has_work:
            self.step()
            assert len(self.steps) < steps, "prompts starve"


def tpot(seq: Sequence) -> float:
    assert seq.first_token_at is not None
    assert seq.finished_at is not None
    return (seq.finished_at - seq.first_token_at) / max(1, seq.output_len - 1)


def left(seq: Sequence, now: float) -> float:
    """Seconds until its next token is due."""
    assert seq.first_token_at is not None
    assert seq.request.targets.tpot is not None
    return seq.first_token_at + seq.output_len * seq.request.targets.tpot * (1 - MARGIN) - now


@pytest.mark.parametrize("batching", [StallFree, Uniform])
def test_a_prompt_gets_what_the_target_leaves(batching: type[StallFree]) -> None:
    """50 ms, less 5 %: 47.5 ms; a step and its decode take 11 ms: 36 tokens fit, not 64."""
    events: list[Event] = []
    run = Timed(scheduler(batching(), Linear(), events=events), Linear())
    talking = run.add(request("talking", 4, 50, 0.050))
    run.step()
    long = run.add(request("long", 200, 2, None))
    step = run.step()
    assert [(p.sequence, p.length) for p in step.slices] == [(talking, 1), (long, 35)]
    assert step.reason == "1 decodes, 35 prefill tokens: 50 ms TPOT of request talking"
    assert step.budget == step.tokens == 36
    planned = [event for event in events if event.kind is Kind.PLANNED][-1]
    assert planned.reason == step.reason
    run.finish()
    assert tpot(talking) <= 0.050


def test_time_saved_is_spent_on_the_next_prompt() -> None:
    run = Timed(scheduler(StallFree(), Linear()), Linear())
    talking = run.add(request("talking", 4, 50, 0.030))
    for _ in range(4):
        run.step()
    assert left(talking, run.now) > 0.064 + 0.011
    run.add(request("long", 200, 2, None))
    step = run.step()
    assert step.tokens == step.budget == 64, "the budget, not the target, limits it"
    assert step.reason == "1 decodes, 63 prefill tokens of 63 left"


def test_nothing_is_limited_or_computed_without_targets_or_without_a_cost() -> None:
    cost = Linear()
    run = Timed(scheduler(StallFree(), cost), Linear())
    run.add(request("talking", 4, 50, None))
    run.step()
    run.add(request("long", 200, 2, None))
    assert run.step().tokens == 64
    assert cost.asked == 0
    run = Timed(scheduler(StallFree(), None), Linear())
    run.add(request("talking", 4, 50, 0.001))
    run.step()
    run.add(request("long", 200, 2, None))
    assert run.step().tokens == 64


JOBS = st.lists(
    st.tuples(
        st.integers(1, 120),  # prompt
        st.integers(1, 25),  # output
        st.sampled_from([None, 0.03, 0.05, 0.1, 0.3]),
        st.integers(0, 8),  # steps since the last arrival
    ),
    min_size=2,
    max_size=12,
)


@settings(max_examples=60)
@given(jobs=JOBS, uniform=st.booleans(), row=st.sampled_from([2e-4, 1e-3, 4e-3]))
def test_steps_are_in_time_where_they_can_be_and_as_large_as_that_allows(
    jobs: list[tuple[int, int, float | None, int]], uniform: bool, row: float
) -> None:
    cost = Linear(row)
    run = Timed(scheduler(Uniform() if uniform else StallFree(), cost), cost)
    pending = list(enumerate(jobs))
    while pending or run.scheduler.has_work:
        if pending:
            i, (prompt, output, target, pause) = pending.pop(0)
            run.add(request(f"r{i}", prompt, output, target))
        for _ in range(pause if pending else 1):
            if run.scheduler.has_work:
                check_step(run, cost)
        assert len(run.steps) < 3000


def check_step(run: Timed, cost: Linear) -> None:
    now = run.now
    waits = {s: now - s.wait_since for s in run.scheduler.running if s.wait is Wait.BUDGET}
    waits |= {s: now - s.wait_since for s in run.scheduler.waiting if s.wait is Wait.BUDGET}
    aimed = {
        s: left(s, now)
        for s in run.scheduler.running
        if s.uncomputed == 1 and s.first_token_at is not None and s.request.targets.tpot
    }
    step = run.step()
    took = cost.seconds(StepLoad.of(step))
    decodes = [p for p in step.slices if p.length == 1 and p.sequence in aimed]
    prefills = [p for p in step.slices if p not in decodes]
    alone = cost.seconds(StepLoad.sum([p for p in step.slices if p.length == 1]))
    if not aimed:
        return
    least = min(aimed.values())
    patience = max((waits.get(p.sequence, 0.0) for p in prefills), default=0.0)
    if least >= alone:
        assert took <= max(least, alone + FLOOR * patience) + 1e-9
    limited = "TPOT of request" in step.reason
    if limited:
        assert step.budget == step.tokens
        assert step.tokens < 64
        more = cost.seconds(StepLoad.of(step)) + LEAST * (cost.row + 2e-4)
        assert more > min(least, alone), "there was time for more"


@pytest.mark.parametrize("batching", [StallFree, Uniform])
def test_targets_that_can_be_met_are_met(batching: type[StallFree]) -> None:
    run = Timed(scheduler(batching(), Linear()), Linear())
    done = []
    for i in range(12):
        target = 0.04 if i % 3 else 0.06
        done.append(run.add(request(f"r{i}", 90, 20 + i, target)))
        run.step()
        run.step()
    run.finish()
    assert all(tpot(seq) <= seq.request.targets.tpot + 1e-9 for seq in done)  # type: ignore[operator]
    assert any("TPOT of request" in step.reason for step in run.steps)


@pytest.mark.parametrize("batching", [StallFree, Uniform])
def test_prompts_do_not_starve_beside_a_target_that_cannot_be_met(
    batching: type[StallFree],
) -> None:
    run = Timed(scheduler(batching(), Linear()), Linear())
    talking = run.add(request("talking", 4, 1000, 0.001))
    run.step()
    long = run.add(request("long", 300, 1, None))
    began = run.now
    while not long.finished:
        run.step()
        assert len(run.steps) < 1000
    alone = [StepLoad.sum([p for p in s.slices if p.sequence is talking]) for s in run.steps[1:]]
    assert run.now - began <= (1 + FLOOR) * sum(map(run.cost.seconds, alone))
    assert not talking.finished


def test_one_that_is_late_for_good_slows_prompts_and_does_not_stop_them() -> None:
    """It decodes again after a long pause: steps of half its target, not none."""
    run = Timed(scheduler(StallFree(), Linear()), Linear())
    talking = run.add(request("talking", 4, 50, 0.100))
    run.step()
    run.now += 10.0
    run.add(request("long", 500, 1, None))
    step = run.step()
    assert step.tokens == 39, "50 ms: 11 for the decode, 39 for tokens"
    assert left(talking, run.now) < -9


def test_who_is_late_stays_so_until_it_has_caught_up() -> None:
    """A short step after the pause changes nothing for the prompt that arrives then."""
    run = Timed(scheduler(StallFree(), Linear()), Linear())
    run.add(request("talking", 4, 50, 0.100))
    run.step()
    run.now += 10.0
    assert run.step().tokens == 1
    run.add(request("long", 500, 1, None))
    assert run.step().tokens == 39


def test_a_prompt_is_not_touched_for_a_few_tokens() -> None:
    """12 tokens would be in time in the first step; it waits for more."""
    run = Timed(scheduler(StallFree(), Linear()), Linear())
    run.add(request("talking", 4, 100, 0.025))
    run.step()
    long = run.add(request("long", 150, 1, None))
    assert run.step().tokens == 1
    assert long.wait is Wait.BUDGET
    run.finish()
    chunks = [p.length for step in run.steps for p in step.slices if p.sequence is long]
    assert len(chunks) > 3
    assert min(chunks[:-1]) >= LEAST


def test_nobody_starts_beside_a_prompt_for_which_there_is_no_time() -> None:
    run = Timed(scheduler(StallFree(), Linear()), Linear())
    run.add(request("talking", 4, 100, 0.025))
    for _ in range(3):
        run.step()
    long = run.add(request("long", 150, 1, None))
    run.step()
    assert long.computed > 0
    short = run.add(request("short", 5, 1, None))
    step = run.step()
    assert [p.length for p in step.slices] == [1], "12 tokens would have been in time"
    run.finish()
    assert short.admitted_at is not None
    assert long.finished_at is not None
    assert short.admitted_at >= long.finished_at - 0.025


def test_who_yielded_counts_again_once_it_decodes() -> None:
    run = Timed(scheduler(StallFree(), Linear(), blocks=25), Linear())
    first = run.add(request("first", 12, 60, None))
    second = run.add(request("second", 12, 60, 0.100))
    while second.wait is not Wait.PREEMPTED:
        run.step()
    run.now += 5.0
    while not (first.finished and second.uncomputed == 1):
        run.step()
    assert run.step().tokens == 1
    run.add(request("long", 42, 1, None))
    assert run.step().tokens == 1 + 38, "50 ms: half the target of one that is seconds late"
    run.finish()
    batching = run.scheduler._policies.batching
    assert isinstance(batching, StallFree)
    assert not batching._back
    assert not batching._targets


@settings(max_examples=40)
@given(jobs=JOBS, row=st.sampled_from([2e-4, 1e-3]), blocks=st.sampled_from([60, 400]))
def test_looking_only_when_needed_changes_no_step(
    jobs: list[tuple[int, int, float | None, int]], row: float, blocks: int
) -> None:
    class Always(StallFree):
        def allowance(self, round: PlanningRound, complete: bool = True) -> Allowance | None:
            return super().allowance(round, False)

    shapes = []
    for batching in (StallFree(), Always()):
        cost = Linear(row)
        run = Timed(scheduler(batching, cost, blocks=blocks), cost)
        for i, (prompt, output, target, pause) in enumerate(jobs):
            run.add(request(f"r{i}", prompt, output, target))
            for _ in range(pause):
                if run.scheduler.has_work:
                    run.step()
        run.finish()
        shapes.append(
            [
                ([(p.sequence.key, p.length) for p in s.slices], s.reason, s.budget)
                for s in run.steps
            ]
        )
    assert shapes[0] == shapes[1]


def test_nobody_is_looked_at_while_steps_are_short() -> None:
    looked: list[int] = []

    class Looking(StallFree):
        def look(self, round: PlanningRound, alone: float) -> tuple[float, Sequence | None]:
            looked.append(len(run.steps))
            return super().look(round, alone)

    run = Timed(scheduler(Looking(), Linear(), sequences=64, blocks=4000), Linear())
    for i in range(40):
        run.add(request(f"r{i}", 70, 60, 0.300))
        run.step()
    assert len(looked) <= 1


@given(start=st.integers(0, 50), length=st.integers(1, 30), spare=st.integers(0, 5))
def test_the_load_of_a_chunk_is_that_of_the_slice(start: int, length: int, spare: int) -> None:
    seq = Sequence.of(request("r", start + length + spare, 1, None), 0)
    seq.computed = start
    assert prefill_load(seq, length) == StepLoad.sum([Slice(seq, start, length, spare == 0)])
