"""Instance: one simulated engine, made of the live engine's own parts."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.engine.engine import Engine
from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.event import Event, Kind, Sink, ignore
from headrace.nouns.request import Request
from headrace.nouns.sequence import FinishReason
from headrace.nouns.step_cost import StepCost
from headrace.nouns.tenant import Tenants
from headrace.scheduling.door import Door
from headrace.scheduling.limits import Limits
from headrace.scheduling.outlook import Outlook
from headrace.scheduling.registry import create
from headrace.scheduling.scheduler import Policies, Scheduler
from headrace.simulation.account import Account
from headrace.simulation.arrival import Arrival
from headrace.simulation.clock import VirtualClock
from headrace.simulation.executor import SimulatedExecutor
from headrace.simulation.served import Served

TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """What a simulated engine is built from; the options mean what ``EngineConfig``'s do.

    ``num_blocks`` blocks of ``block_size`` tokens are its memory. ``order``, ``admission``,
    ``batching`` and ``preemption`` name policies. A ``plain`` one does without what makes
    simulations fast: it touches every sequence in every step and looks for every block of every
    prompt. Events are the same; tests show it.
    """

    cost: StepCost
    num_blocks: int
    limits: Limits
    block_size: int = 16
    order: str = "deadline"
    admission: str = "watermark"
    batching: str = "stall-free"
    preemption: str = "least-lost"
    prefix_cache: bool = True
    max_queue: int = 1024
    tenants: Tenants = field(default_factory=Tenants)
    plain: bool = False

    def policies(self) -> Policies:
        """New policy objects. Raises ConfigError for unknown names."""
        return Policies(
            order=create("order", self.order),
            admission=create("admission", self.admission),
            batching=create("batching", self.batching),
            preemption=create("preemption", self.preemption),
        )


class Instance:
    """Takes arrivals, and runs steps between times that its owner names.

    ``steps``, ``tokens`` (rows computed) and ``seconds`` (of steps) are counted from the first
    start on.
    The owner keeps the calendar: it calls ``offer`` at the time of an arrival, ``begin`` whenever
    no step is under way and there is work, and ``finish`` at the time that ``begin`` returned.
    An arrival during a step joins the queue when that step has ended, as it does live, where
    the engine reads its inbox between steps. ``events`` go to ``emit``.
    """

    def __init__(self, spec: InstanceSpec, emit: Sink = ignore) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self.busy = False
        self._emit = emit
        self._serial = 0
        self.executor = SimulatedExecutor(spec.cost, self.clock)
        self._start()

    def _start(self) -> None:
        spec = self.spec
        self._inbox: list[tuple[Arrival, Request]] = []
        self._ended: list[Served] = []
        self._promised = 0  # tokens that open sequences may need computed in all
        self._accounts: dict[str, Account] = {}
        self.memory = SequenceMemory(spec.num_blocks, spec.block_size, spec.prefix_cache)
        self.scheduler = Scheduler(
            self.memory,
            spec.policies(),
            spec.limits,
            self._emit,
            tenants=spec.tenants,
            cost=spec.cost,
            foresight=None if spec.plain else self.executor,
        )
        # Predictions are made, as live, once somebody has a target to be met: they take time.
        self.door = Door(self.scheduler, spec.max_queue)
        self.engine = Engine(
            self.scheduler,
            self.executor,
            self.clock,
            lambda seq: self._accounts[seq.request.id].of(seq),
        )

    # Running

    @property
    def has_work(self) -> bool:
        return bool(self._inbox) or self.engine.has_work

    def offer(self, arrival: Arrival, now: float) -> Served | None:
        """Queues a request, or returns it refused at once: it never fits, or ``Door`` says no."""
        need = self.memory.blocks_for(arrival.prompt_tokens + arrival.asked - 1)
        if need > self.memory.total:
            why = f"it needs {need} cache blocks; there are {self.memory.total}"
            return self._refuse(arrival, now, why, TOO_LONG)
        door, targets = self.door, arrival.targets
        if door.outlook is None and (targets.ttft, targets.deadline) != (None, None):
            door.outlook = Outlook(self.scheduler)
            door.outlook.look(now)
        full = door.full(arrival.tenant, arrival.n, now)
        if full is not None:
            return self._refuse(arrival, now, full.message, full.cause.value)
        request = arrival.request(self._serial, unknown=self.spec.plain)
        refusal = door.refusal(request, now)
        if refusal is not None:
            return self._refuse(arrival, now, refusal.message, refusal.cause.value)
        self._serial += 1
        door.enter(request, now)
        self._inbox.append((arrival, request))
        self._promised += arrival.n * (arrival.prompt_tokens + arrival.asked - 1)
        return None

    def begin(self, now: float, until: float | None = None) -> float | None:
        """Plans a step; the time at which it will be done, None if nothing can be run now.

        Where work is left even so, a policy holds it back: try again a little later. An owner
        that knows that nothing will be offered before ``until`` lets the instance run whole steps
        until then in which no sequence starts or ends; the step begun is the one after those.
        """
        assert not self.busy, "a step is under way"
        self.clock.time = now
        if self._inbox:
            self._read_inbox()
        elif until is not None:
            outlook = self.door.outlook
            self.executor.until = until if outlook is None else min(until, outlook.content)
            self.scheduler.coast(self.executor.run_steady, self.clock)
        self.busy = self.engine.has_work and self.engine.begin()
        return self.executor.ends if self.busy else None

    def finish(self) -> list[Served]:
        """Ends the step under way, at the time that ``begin`` returned; requests that ended."""
        self.clock.time = self.executor.ends
        self.engine.finish()
        if self.door.outlook is not None:
            self.door.outlook.look(self.clock.time)
        self.busy = False
        return self._hand_over()

    def abort_all(self, now: float, why: str) -> list[Served]:
        """The engine dies at ``now``: all that it had ends, the step under way is lost.

        It is empty afterwards and could start again, its memory with nothing in it.
        """
        self.clock.time = now
        for request_id in list(self._accounts):
            self.engine.abort(request_id, why)
        lost = self._hand_over()
        lost += [Served(arrival, now, finish=FinishReason.ABORT) for arrival, _ in self._inbox]
        self.busy = False
        self.executor.drop()
        self._start()
        return lost

    # What it has done

    @property
    def steps(self) -> int:
        return self.executor.steps

    @property
    def tokens(self) -> int:
        return self.executor.tokens

    @property
    def seconds(self) -> float:
        return self.executor.seconds

    # What routers may know

    @property
    def waiting(self) -> int:
        """Sequences that wait, those included that have come since the last step began."""
        return self.door.waiting

    @property
    def running(self) -> int:
        return self.scheduler.started

    @property
    def outstanding(self) -> int:
        """Tokens that its open requests may still need computed: prompts, and output asked for."""
        return self._promised - self.scheduler.stored

    def overlap(self, arrival: Arrival) -> int:
        """Tokens at the beginning of its prompt whose state is in memory."""
        if not arrival.prefix or not self.spec.prefix_cache:
            return 0
        return self.memory.found(arrival.request(0).prompt, arrival.tenant)

    # Inside

    def _read_inbox(self) -> None:
        for arrival, request in self._inbox:
            self._accounts[request.id] = Account(arrival, request.id, self._close)
            self.executor.expect(request.id, arrival.output_tokens)
            self.engine.add(request)
            self.door.passed(request)
        self._inbox.clear()

    def _close(self, account: Account, left: int) -> None:
        """A sequence of the request has ended; the last one if none is left."""
        arrival = account.arrival
        self._promised -= arrival.prompt_tokens + arrival.asked - 1
        if left:
            return
        del self._accounts[account.request_id]
        self.executor.forget_request(account.request_id)
        served = account.served()
        self._ended.append(served)

    def _hand_over(self) -> list[Served]:
        ended, self._ended = self._ended, []
        return ended

    def _refuse(self, arrival: Arrival, now: float, why: str, code: str) -> Served:
        self._emit(Event(Kind.REFUSED, now, arrival.id or None, reason=why))
        return Served(arrival, now, refusal=why, code=code)
