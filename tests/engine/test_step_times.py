"""StepTimes: whose step took how long, across idle times and held-back plans."""

from __future__ import annotations

from headrace.engine.step_times import StepTimes
from headrace.nouns.clock import Clock
from headrace.nouns.request import Request
from headrace.nouns.step import Step, StepResult
from headrace.nouns.step_cost import StepLoad
from tests.engine.engines import build_engine
from tests.scheduling.mock_executor import MockExecutor


class Ticks(Clock):
    """Each look at the clock is a second later."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        self.time += 1.0
        return self.time


def step(planned_at: float) -> Step:
    return Step(0, (), planned_at=planned_at)


def test_from_one_commit_to_the_next_and_from_the_plan_after_a_pause() -> None:
    times, seen = StepTimes(), list[float]()
    times.add(lambda load, seconds: seen.append(seconds))
    times.ran(step(10.0), StepResult(0, ()), 12.0, True)
    times.ran(step(12.5), StepResult(0, ()), 15.0, False)
    times.ran(step(100.0), StepResult(0, ()), 101.0, True)
    times.pause()
    times.ran(step(200.0), StepResult(0, ()), 204.0, True)
    assert seen == [2.0, 3.0, 1.0, 4.0]


def test_failed_steps_tell_nothing_but_time_goes_on() -> None:
    times, seen = StepTimes(), list[float]()
    times.add(lambda load, seconds: seen.append(seconds))
    times.ran(step(0.0), StepResult(0, ()), 1.0, True)
    times.ran(step(1.0), StepResult(0, (), error="broken"), 5.0, True)
    times.ran(step(5.0), StepResult(0, ()), 6.0, True)
    assert seen == [1.0, 1.0]


def test_an_engine_tells_every_steps_load() -> None:
    engine = build_engine(MockExecutor(4), budget=8)
    engine.clock = Ticks()
    loads: list[StepLoad] = []
    times: list[float] = []

    def listen(load: StepLoad, seconds: float) -> None:
        loads.append(load)
        times.append(seconds)

    engine.times.add(listen)
    engine.add(Request(id="a", prompt=tuple(range(12)), max_tokens=3))
    while engine.has_work:
        engine.step()
    assert [load.rows for load in loads] == [8, 4, 1, 1]
    assert [load.samples for load in loads] == [0, 1, 1, 1]
    assert loads[1] == StepLoad(4, 0, 1, 0, 1, 9 + 10 + 11 + 12, 0, 12, 8)
    # The clock was looked at to plan the first step; then twice a step.
    assert times == [1.0, 2.0, 2.0, 2.0]
    engine.times.remove(listen)
    engine.add(Request(id="b", prompt=(1, 2), max_tokens=1))
    engine.step()
    assert len(loads) == 4
