"""A simulated engine: the engine's own parts on a virtual clock, with every token's time."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.papers.load import Answer, Ask, Ran
from benchmarks.papers.setup import STEP_ROWS, Setup
from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Sequence
from headrace.nouns.step_cost import StepCost
from headrace.scheduling.scheduler import Policies
from headrace.simulation.arrival import Arrival
from headrace.simulation.instance import Instance, InstanceSpec
from headrace.simulation.run import HELD_BACK, simulate
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
        watch = _Watch([Answer(ask) for ask in asks])
        due = sorted(range(len(asks)), key=lambda i: asks[i].at + asks[i].held)
        arrivals = (_arrival(str(i), asks[i], asks[i].at + asks[i].held) for i in due)
        simulate(arrivals, self._spec(setup, watch), watch.ended, watch)
        return Ran(watch.answers, watch.steps, watch.padding)

    def run_clients(self, asks: Items[Ask], clients: int, setup: Setup) -> Ran:
        """A closed loop: each client sends the next ask when its last one has been answered."""
        watch = _Watch([Answer(ask) for ask in asks])
        instance = Instance(self._spec(setup, watch), watch)
        now, sent = 0.0, 0

        def send(count: int) -> None:
            nonlocal sent
            for index in range(sent, min(sent + count, len(asks))):
                watch.answers[index].ask = replace(asks[index], at=now)
                refused = instance.offer(_arrival(str(index), asks[index], now), now)
                assert refused is None, "an ask that does not fit"
            sent = min(sent + count, len(asks))

        send(clients)
        while instance.has_work:
            end = instance.begin(now)
            if end is None:  # a policy holds everybody back
                now += HELD_BACK
                continue
            now = end
            served = instance.finish()
            for each in served:
                watch.ended(each)
            send(len(served))
        return Ran(watch.answers, watch.steps, watch.padding)

    def _spec(self, setup: Setup, watch: _Watch) -> InstanceSpec:
        return _WatchedSpec(
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


def _arrival(id: str, ask: Ask, at: float) -> Arrival:
    return Arrival(
        at=at,
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
    """Fills answers: token times from the policy's hook, the rest as requests end.

    As an event sink it counts steps and padding.
    """

    answers: list[Answer]
    steps: int = 0
    padding: int = 0

    def __call__(self, event: Event) -> None:
        if event.kind is Kind.PLANNED:
            self.steps += 1
            self.padding += int(event.data["padding"])

    def won(self, seq: Sequence, now: float) -> None:
        self.answers[int(seq.request.id)].times.append(now)

    def ended(self, served: Served) -> None:
        if not served.completed or served.admitted is None:
            raise RuntimeError(f"a simulated request failed: {served.refusal or served.finish}")
        answer = self.answers[int(served.arrival.id)]
        if len(answer.times) != answer.ask.output:
            raise RuntimeError(f"{len(answer.times)} of {answer.ask.output} tokens have a time")
        answer.admitted = served.admitted
        answer.cached, answer.preemptions = served.cached, served.preemptions


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
