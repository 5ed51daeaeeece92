"""Engine: the step loop around scheduler and executor. One thread drives it."""

from __future__ import annotations

from collections import deque

from headrace.engine.output import OutputFactory, TokenTaker
from headrace.engine.step_times import StepTimes
from headrace.nouns.clock import Clock
from headrace.nouns.delta import Delta
from headrace.nouns.executor import Executor
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled, Step, StepResult
from headrace.scheduling.scheduler import Scheduler


class Engine:
    """Adds requests, runs steps, returns deltas. Not thread-safe: see ``EngineService``.

    The same class runs live and simulated; ``clock``, ``executor`` and ``outputs`` differ.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, clock: Clock, outputs: OutputFactory
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.clock = clock
        self.steps = 0
        self.times = StepTimes()
        self._new_output = outputs
        self._outputs: dict[Sequence, TokenTaker] = {}
        self._in_flight: deque[Step] = deque()

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request) -> None:
        """Queues a request. Raises InvalidRequest if it can never run."""
        for seq in self.scheduler.add(request, self.clock.now()):
            self._outputs[seq] = self._new_output(seq)

    def step(self) -> list[Delta]:
        """Plans, runs and commits one step; the deltas of the sequences that gained a token."""
        self.begin()
        return self.finish()

    def begin(self) -> bool:
        """Plans and submits as many steps as the executor takes; True if any is in flight."""
        while len(self._in_flight) < self.executor.depth:
            step = self.scheduler.plan(self.clock.now())
            if step is None:
                break
            self.executor.submit(step)
            self._in_flight.append(step)
        return bool(self._in_flight)

    def finish(self) -> list[Delta]:
        """Waits for the oldest step in flight and commits it; nothing happens without one.

        A simulator of several engines begins and finishes at different times of its clock.
        """
        if not self._in_flight:
            self.times.pause()
            return []
        step = self._in_flight.popleft()
        result = self.executor.collect()
        if result.error is not None and len(step.slices) > 1 and self.executor.depth == 1:
            result = self._isolate(step)
        now = self.clock.now()
        gains = self.scheduler.commit(step, result, now, self._stop_string)
        self.times.ran(step, result, now, self.has_work)
        self.steps += 1
        return [self._deliver(gain.sequence) for gain in gains]

    def abort(self, request_id: str, why: str) -> list[Delta]:
        """Ends a request; the last deltas of its sequences. Unknown ids are nobody's fault."""
        ended = self.scheduler.abort(request_id, self.clock.now(), why)
        return [self._close(seq) for seq in ended]

    def _isolate(self, step: Step) -> StepResult:
        """Runs a failed step's slices one by one, so that only those at fault end.

        Computing a slice again writes the same state to the same places; the step's copies were
        made when it was submitted.
        """
        sampled: list[Sampled | None] = []
        elapsed = 0.0
        for slice in step.slices:
            self.executor.submit(step._replace(slices=(slice,), copies=(), padding=0))
            result = self.executor.collect()
            elapsed += result.elapsed
            failed = result.error is not None
            sampled.append(Sampled(-1, error=result.error) if failed else result.sampled[0])
        return StepResult(step.id, tuple(sampled), elapsed)

    def _stop_string(self, seq: Sequence, sampled: Sampled) -> str | None:
        return self._outputs[seq].push(sampled)

    def _deliver(self, seq: Sequence) -> Delta:
        return self._close(seq) if seq.finished else self._outputs[seq].take()

    def _close(self, seq: Sequence) -> Delta:
        self.executor.forget(seq)
        output = self._outputs.pop(seq)
        output.close()
        return output.take()
