"""Replay: the same arrivals sent to a live engine and to a simulated one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.engine.service import EngineService
from headrace.nouns.delta import Delta
from headrace.nouns.errors import HeadraceError
from headrace.nouns.event import Event, Kind
from headrace.nouns.request import Targets
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.simulation.arrival import Arrival
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.run import simulate
from headrace.simulation.served import Served

FIRST_ID, LAST_ID = 100, 40_000  # ordinary tokens of the default model
PATIENCE = 600.0  # seconds after the last arrival


@dataclass(slots=True)
class Outcome:
    """What became of one request. Times are seconds; ``at`` counts from the replay's start.

    ``error`` says why there was no answer: refused, or ended early.
    """

    at: float
    tenant: str
    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    prompt: int = 0
    output: int = 0
    cached: int = 0
    error: str | None = None

    def inside(self, ttft: float, tpot: float) -> bool:
        """Answered within both targets; one token has no time per output token."""
        if self.error is not None or self.ttft is None:
            return False
        return self.ttft <= ttft and (self.tpot is None or self.tpot <= tpot)


@dataclass(frozen=True, slots=True)
class Replayed:
    """All outcomes of a replay in the order of arrival, and what the engine did.

    ``seconds`` from the first arrival to the last output. ``steps`` are the loads and seconds of a
    live engine's steps.
    """

    outcomes: Sequence[Outcome]
    seconds: float
    preemptions: int
    steps: Sequence[tuple[StepLoad, float]] = ()

    @property
    def throughput(self) -> float:
        """Output tokens a second."""
        return sum(o.output for o in self.outcomes) / self.seconds

    @property
    def hits(self) -> float:
        """The share of prompt tokens found in the cache."""
        prompts = sum(o.prompt for o in self.outcomes if o.error is None)
        return sum(o.cached for o in self.outcomes) / max(prompts, 1)

    def slowness(self, cost: StepCost) -> float:
        """The seconds of all steps over those that ``cost`` predicts for them."""
        predicted = sum(cost.seconds(load) for load, _ in self.steps)
        return sum(seconds for _, seconds in self.steps) / predicted

    def values(self, name: str) -> list[float]:
        """ttft, tpot or e2e of the requests answered."""
        found = (getattr(o, name) for o in self.outcomes if o.error is None)
        return [value for value in found if value is not None]


class PromptIds:
    """Token ids of arrivals: prefixes of a group are equal, everything else is random."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 0x9])
        self._groups: dict[str, list[int]] = {}

    def of(self, arrival: Arrival) -> tuple[int, ...]:
        ids: list[int] = []
        for group, tokens in arrival.prefix:
            known = self._groups.setdefault(group, [])
            known += self._draw(tokens - len(known))
            ids += known[:tokens]
        return tuple(ids + self._draw(arrival.prompt_tokens - len(ids)))

    def _draw(self, count: int) -> list[int]:
        drawn: list[int] = self._rng.integers(FIRST_ID, LAST_ID, max(count, 0)).tolist()
        return drawn


class _Listener:
    """Books the deltas of one request, on the engine's thread."""

    def __init__(self, outcome: Outcome, due: float, ended: threading.Semaphore) -> None:
        self.outcome, self._due, self._ended = outcome, due, ended
        self.last = 0.0

    def __call__(self, delta: Delta) -> None:
        now, outcome = time.monotonic(), self.outcome
        if delta.tokens:
            if outcome.ttft is None:
                outcome.ttft = now - self._due
            outcome.output += len(delta.tokens)
        if delta.finish_reason is None:
            return
        self.last = now
        outcome.e2e = now - self._due
        if delta.usage is not None:
            outcome.cached = delta.usage.cached
        if outcome.ttft is not None and outcome.output > 1:
            outcome.tpot = (outcome.e2e - outcome.ttft) / (outcome.output - 1)
        if delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
            outcome.error = delta.error or delta.finish_reason.value
        self._ended.release()


class _Preemptions:
    """An event sink that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: Event) -> None:
        self.count += event.kind is Kind.PREEMPTED


def live(service: EngineService, arrivals: Iterable[Arrival], seed: int = 0) -> Replayed:
    """Sends each arrival at its time to a loaded engine and waits for all to end.

    Prompts are made beforehand; times are taken on the engine's thread. Raises SystemExit where
    an answer does not come.
    """
    ids = PromptIds(seed)
    prepared = [(arrival, ids.of(arrival)) for arrival in arrivals]
    outcomes, listeners = [], []
    ended = threading.Semaphore(0)
    preemptions = _Preemptions()
    service.add_sink(preemptions)
    steps: list[tuple[StepLoad, float]] = []
    times = service.built.engine.times

    def ran(load: StepLoad, seconds: float) -> None:
        steps.append((load, seconds))

    times.add(ran)
    start = time.monotonic() + 0.2
    for number, (arrival, prompt) in enumerate(prepared):
        due = start + arrival.at
        time.sleep(max(0.0, due - time.monotonic()))
        outcome = Outcome(arrival.at, arrival.tenant, prompt=len(prompt))
        listener = _Listener(outcome, due, ended)
        outcomes.append(outcome)
        try:
            _submit(service, arrival, prompt, listener, f"replay-{number}")
        except HeadraceError as error:
            outcome.error = f"refused: {error}"
            ended.release()
        else:
            listeners.append(listener)
    for _ in prepared:
        if not ended.acquire(timeout=PATIENCE):
            raise SystemExit("a request of the replay did not end")
    times.remove(ran)
    last = max((listener.last for listener in listeners), default=start)
    return Replayed(outcomes, last - start, preemptions.count, steps)


def _submit(
    service: EngineService,
    arrival: Arrival,
    prompt: tuple[int, ...],
    listener: _Listener,
    id: str,
) -> None:
    targets = arrival.targets
    if targets.deadline is not None:
        now = service.built.engine.clock.now()
        targets = Targets(targets.ttft, targets.tpot, now + targets.deadline)
    request = service.request(
        prompt,
        SamplingParams(temperature=0.0, max_tokens=arrival.output_tokens, ignore_eos=True),
        id=f"{id}-{time.monotonic_ns()}",
        tenant=arrival.tenant,
        priority=arrival.priority,
        targets=targets,
    )
    service.submit(request, listener)


def simulated(spec: InstanceSpec, arrivals: Iterable[Arrival]) -> Replayed:
    """The same on a simulated engine."""
    served: list[Served] = []
    totals = simulate(arrivals, spec, served.append)
    served.sort(key=lambda s: (s.at, s.arrival.id))
    outcomes = [_outcome(one) for one in served]
    end = max((one.end for one in served), default=0.0)
    start = min((one.at for one in served), default=0.0)
    return Replayed(outcomes, max(end - start, 1e-9), totals.preemptions)


def _outcome(served: Served) -> Outcome:
    error = None
    if not served.completed:
        error = f"refused: {served.refusal}" if served.refused else "ended early"
    return Outcome(
        at=served.at,
        tenant=served.arrival.tenant,
        ttft=served.ttft,
        tpot=served.tpot,
        e2e=served.e2e,
        prompt=served.prompt,
        output=served.output,
        cached=served.cached,
        error=error,
    )


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
