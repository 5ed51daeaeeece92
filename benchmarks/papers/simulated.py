"""A simulated engine: the engine's own parts on a virtual clock, with every token's time."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

from benchmarks.papers.load import Answer, Ask, Ran
from benchmarks.papers.setup import STEP_ROWS, Setup
from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Sequence
from headrace.nouns.step_cost import StepCost
from headrace.scheduling.scheduler import Policies
from headrace.simulation.arrival import Arrival
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.run import simulate
from headrace.simulation.served import Served

UNBOUNDED = 1 << 30


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """A model on a device: what its steps cost, and the blocks that are left for the cache.

    ``block_size`` tokens a block. ``where`` names both for the page.
    """

    name: str
    cost: StepCost
    blocks: int
    block_size: int = 16
    step_tokens: int = STEP_ROWS
    token_budget: int = 512

    @property
    def where(self) -> str:
        return f"Simulated: {self.name}"

    def run(self, asks: Items[Ask], setup: Setup) -> Ran:
        """All asks at their times until every one has ended. Raises RuntimeError on a failure."""
        watch = _Watch()
        spec = _WatchedSpec(
            cost=self.cost,
            num_blocks=min(setup.blocks or self.blocks, self.blocks),
            limits=setup.limits(self.token_budget, self.step_tokens),
            block_size=self.block_size,
            order=setup.order,
            admission=setup.admission,
            batching=setup.batching,
            preemption=setup.preemption,
            prefix_cache=setup.prefix_cache,
            max_queue=UNBOUNDED,
            tenants=setup.tenants,
            watch=watch,
        )
        due = sorted(range(len(asks)), key=lambda i: asks[i].at + asks[i].held)
        answers = {str(i): Answer(ask) for i, ask in enumerate(asks)}

        def book(served: Served) -> None:
            answer = answers[served.arrival.id]
            if not served.completed:
                raise RuntimeError(f"a simulated request failed: {served.refusal or served.finish}")
            answer.times.extend(watch.times.pop(served.arrival.id))
            answer.cached, answer.preemptions = served.cached, served.preemptions

        simulate((_arrival(str(i), asks[i]) for i in due), spec, book, watch)
        return Ran(list(answers.values()), watch.steps, watch.padding)


def _arrival(id: str, ask: Ask) -> Arrival:
    return Arrival(
        at=ask.at + ask.held,
        prompt_tokens=ask.prompt,
        output_tokens=ask.output,
        max_tokens=ask.bound,
        tenant=ask.tenant,
        priority=ask.priority,
        id=id,
        prefix=((ask.group, ask.shared),) if ask.shared else (),
    )


@dataclass(slots=True)
class _Watch:
    """Counts steps and padding as an event sink; has each request's token times from the hook."""

    steps: int = 0
    padding: int = 0
    times: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        if event.kind is Kind.PLANNED:
            self.steps += 1
            self.padding += int(event.data["padding"])

    def won(self, seq: Sequence, now: float) -> None:
        self.times.setdefault(seq.request.id, []).append(now)


class _Watched:
    """A preemption policy that also notes when tokens come; everything else is its own."""

    def __init__(self, policy: Any, watch: _Watch) -> None:
        self._policy, self._watch = policy, watch
        self._computed = getattr(policy, "computed", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def computed(self, seq: Sequence, tokens: int, won: int, now: float) -> None:
        if won:
            self._watch.won(seq, now)
        if self._computed is not None:
            self._computed(seq, tokens, won, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WatchedSpec(InstanceSpec):
    watch: _Watch

    def policies(self) -> Policies:
        found = InstanceSpec.policies(self)
        return Policies(
            found.order,
            found.admission,
            found.batching,
            _Watched(found.preemption, self.watch),
        )
