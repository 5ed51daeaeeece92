"""Scheduler: plans steps and takes in their results. Pure: no torch, no sockets, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.clock import Clock
from headrace.nouns.errors import ContextLengthExceeded, InvalidRequest
from headrace.nouns.event import Event, Kind, Sink, ignore
from headrace.nouns.request import Request
from headrace.nouns.sequence import FinishReason, Sequence, Status, Wait
from headrace.nouns.step import Sampled, Step, StepResult
from headrace.nouns.step_cost import StepCost
from headrace.nouns.tenant import Tenants
from headrace.scheduling.cohort import Cohort, Foresight
from headrace.scheduling.limits import Limits
from headrace.scheduling.policy import (
    AdmissionPolicy,
    BatchingPolicy,
    OrderPolicy,
    PreemptionPolicy,
    Surroundings,
)
from headrace.scheduling.queue import WaitingQueue, queue_for
from headrace.scheduling.round import Desk, Round
from headrace.scheduling.thrash_guard import ThrashGuard
from headrace.scheduling.usage import Usage


class Gain(NamedTuple):
    """A token that a sequence won in a step; it may have ended the sequence."""

    sequence: Sequence
    sampled: Sampled


NO_TERMS = Tenants()
Hook = Callable[[Sequence, float], None]
Stopper = Callable[[Sequence, Sampled], str | None]


@dataclass(frozen=True, slots=True)
class Policies:
    """The four small objects that make up a scheduler."""

    order: OrderPolicy
    admission: AdmissionPolicy
    batching: BatchingPolicy
    preemption: PreemptionPolicy

    def bind(self, surroundings: Surroundings) -> None:
        """Tells each policy that wants to know where it is."""
        for bind in self.hooks("bind"):
            bind(surroundings)

    def hooks(self, name: str) -> tuple[Callable[..., None], ...]:
        """The methods called ``name`` of those policies that have one."""
        policies = (self.order, self.admission, self.batching, self.preemption)
        return tuple(getattr(policy, name) for policy in policies if hasattr(policy, name))


class Scheduler:
    """``plan`` makes the next step, ``commit`` takes in what became of it.

    Live server and simulator run this very object. Several steps may be planned before the
    first is committed (pipelines); a sequence is in at most one of them.
    """

    def __init__(
        self,
        memory: SequenceMemory,
        policies: Policies,
        limits: Limits,
        emit: Sink,
        *,
        tenants: Tenants = NO_TERMS,
        cost: StepCost | None = None,
        foresight: Foresight | None = None,
    ) -> None:
        """``cost`` predicts step times for the policies that plan by them.

        With ``foresight`` (a simulation) steady decodes advance as a ``Cohort``, unless a policy
        wants to be told each sequence's every token; steps and events are the same.
        """
        policies.bind(Surroundings(memory, limits, tenants, cost, emit))
        self._arrived = policies.hooks("arrived")
        self._computed = policies.hooks("computed")
        self._ended = policies.hooks("ended")
        self.memory = memory
        self.limits = limits
        self.tenants, self.cost = tenants, cost
        self.usage = Usage(tenants)
        self.waiting = queue_for(policies.order)
        self._policies = policies
        self._emit = emit
        self._groups: dict[str, list[Sequence]] = {}
        self._listening = emit is not ignore
        self._running: dict[Sequence, Any] = {}  # with their ranks
        self._loose, self._cohort = self._running, None
        if foresight is not None and not self._computed:
            self._loose = {}
            self._cohort = Cohort(memory, foresight, self._running, self._loose)
        # Whether steps in which all that happens is a row of each member may be run by ``coast``.
        self._coasts = (
            self._cohort is not None
            and not self._listening
            and not policies.order.dynamic
            and getattr(policies.batching, "only_decodes", False)
        )
        # Queues of orders that keep them themselves, or change by the time, hear of every plan.
        self._hears = policies.order.dynamic or not isinstance(self.waiting, WaitingQueue)
        self._turned_away: Sequence | None = None  # in the last round; see Round
        self._left_in_flight: list[Sequence] = []  # members that ended in the step under way
        self._in_flight: set[Sequence] = set()
        self._explained: dict[Sequence, None] = {}
        self._tickets = 0
        self._steps = 0
        self._guard = guard = ThrashGuard(memory, limits, emit)
        self._desk = Desk(
            running=self._running,
            loose=self._loose,
            cohort=self._cohort,
            in_flight=self._in_flight,
            queue=self.waiting,
            usage=self.usage,
            memory=memory,
            admission=policies.admission,
            preemption=policies.preemption,
            rank=self._rank,
            siblings=lambda seq: self._groups[seq.request.id],
            guard=guard,
            admitted=(*policies.hooks("admitted"), guard.admitted),
            preempted=(*policies.hooks("preempted"), guard.preempted),
            looks_at_running=getattr(policies.admission, "looks_at_running", True),
            emit=emit,
        )

    @property
    def running(self) -> list[Sequence]:
        if self._cohort is not None:
            self._cohort.settle()
        return list(self._running)

    @property
    def started(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def stored(self) -> int:
        """Tokens whose state those that run have."""
        steady = 0 if self._cohort is None else self._cohort.computed
        return steady + sum([seq.computed for seq in self._loose])

    @property
    def order(self) -> OrderPolicy:
        return self._policies.order

    @property
    def admission(self) -> AdmissionPolicy:
        return self._policies.admission

    def watch(self, arrived: Hook, ended: Hook) -> None:
        """``arrived`` and ``ended`` hear from now on what policies' methods of these names do."""
        self._arrived = (*self._arrived, arrived)
        self._ended = (*self._ended, ended)

    @property
    def has_work(self) -> bool:
        return bool(self._groups)

    def sequences(self, request_id: str) -> list[Sequence]:
        """The request's sequences; empty once all have ended."""
        if self._cohort is not None:
            self._cohort.settle()
        return list(self._groups.get(request_id, ()))

    def add(self, request: Request, now: float) -> list[Sequence]:
        """Queues a request. Raises InvalidRequest if it can never run or its id is in use."""
        if request.id in self._groups:
            raise InvalidRequest(f"request id {request.id!r} is in use; choose another", "id")
        tokens = len(request.prompt) + request.max_tokens - 1  # the last one's state is not needed
        need, total = self.memory.blocks_for(tokens), self.memory.total
        if need > total:
            message = (
                f"prompt ({len(request.prompt)} tokens) and output (up to {request.max_tokens})"
                f" need {need} cache blocks of {self.memory.block_size} tokens; there are {total}."
                " Lower max_tokens or serve with a larger cache"
            )
            cause = {"tenant": request.tenant, "cause": "context_length_exceeded"}
            self._emit(Event(Kind.REFUSED, now, request.id, reason=message, data=cause))
            raise ContextLengthExceeded(message)
        group = [Sequence.of(request, index) for index in range(request.n)]
        self._groups[request.id] = group
        for seq in group:
            seq.ticket, seq.wait_since = self._tickets, min(request.arrival, now)
            self._tickets += 1
            for arrived in self._arrived:
                arrived(seq, now)
            self.usage.queued(seq)
            self.waiting.push(seq, now)
        data: dict[str, float | int | str] = {
            "tenant": request.tenant,
            "prompt": len(request.prompt),
            "max_tokens": request.max_tokens,
            "n": request.n,
        }
        ahead = len(self.waiting) - request.n
        reason = f"{ahead} sequences wait already"
        self._emit(Event(Kind.ARRIVED, now, request.id, reason=reason, data=data))
        return group

    def plan(self, now: float) -> Step | None:
        """The next step, or None when nothing can be computed now."""
        if self._hears:
            self.waiting.refresh(now)
        if self._policies.order.dynamic:
            for seq in self._running:
                self._running[seq] = self._rank(seq, now)
        round = Round(
            self._desk,
            now=now,
            step_id=self._steps,
            budget=self.limits.token_budget,
            limit=self.limits.step_tokens,
            max_sequences=self.limits.sequences,
        )
        reason = self._policies.batching.fill(round)
        round.close()
        self._guard.ran(round.spent)
        self._turned_away = round.turned_away
        self._explain(round)
        if not (round.slices or round.steady):
            return None
        cohort = self._cohort
        step = Step(
            id=self._steps,
            slices=tuple(round.slices.values()),
            copies=tuple(chain.from_iterable(round.copies.values())) if round.copies else (),
            padding=round.padding,
            budget=round.budget,
            planned_at=now,
            reason=reason,
            steady=round.steady,
            steady_pairs=cohort.computed + round.steady if cohort is not None else 0,
        )
        self._steps += 1
        self._in_flight.update(round.slices)
        if not self._listening:
            return step
        data = {
            "slices": len(step.slices) + step.steady,
            "tokens": round.spent,
            "padding": step.padding,
            "waiting": len(self.waiting),
            "running": len(self._running),
            "free_blocks": self.memory.available,
        }
        self._emit(Event(Kind.PLANNED, now, step_id=step.id, reason=reason, data=data))
        return step

    def coast(self, run: Callable[[int, int], bool], clock: Clock) -> None:
        """Runs steps as long as all that happens is a token for everybody, and ``run`` says so.

        The same as ``plan`` and ``commit`` for each of them. ``run`` is given the rows of a step
        and the positions that they see together; it may refuse the step, else it moves the clock.
        """
        cohort = self._cohort
        if cohort is None or not self._coasts or not len(cohort):
            return
        if self._loose or self._in_flight or (len(self.waiting) and not self._is_full()):
            return

        def run_planned(rows: int, pairs: int) -> bool:
            now = clock.now()
            planned = run(rows, pairs)
            if planned:
                self.waiting.refresh(now)
            return planned

        steps = cohort.coast(run_planned if self._hears else run)
        self._steps += steps
        self._guard.ran(len(cohort) * steps)

    def _is_full(self) -> bool:
        """Whether the next round would only tell the same sequence that all slots are taken."""
        if self._hears or len(self._running) < self.limits.sequences:
            return False
        return self.waiting[0] is self._turned_away

    def commit(
        self, step: Step, result: StepResult, now: float, stopper: Stopper | None = None
    ) -> list[Gain]:
        """Books a step: state computed, tokens won, sequences ended. In the order of planning.

        ``stopper`` is asked about each token won and returns the stop string it completed.
        """
        assert result.step_id == step.id, "results come in the order of their steps"
        gains: list[Gain] = []
        sampling = result.sampled if result.error is None else self._failed(step, result)
        for slice, sampled in zip(step.slices, sampling, strict=True):
            seq = slice.sequence
            self._in_flight.discard(seq)
            if seq.status is Status.FINISHED:  # in flight: its blocks waited for this moment
                self._forget(seq)
                continue
            if result.error is None:
                seq.computed = slice.start + slice.length
                self.memory.commit(seq)
                for computed in self._computed:
                    computed(seq, slice.length, int(sampled is not None), now)
            if sampled is not None:
                self._gain(seq, sampled, now, stopper)
                gains.append(Gain(seq, sampled))
        steady = self._commit_cohort(step, gains)
        if not self._listening:
            return gains
        count = len(gains) + steady
        data = {"tokens": step.tokens, "elapsed": result.elapsed, "gains": count}
        if result.work is not None and result.error is None:
            work = result.work
            data |= {"operations": work.operations, "bytes": work.bytes, "limit": work.seconds}
        reason = result.error or step.reason
        self._emit(Event(Kind.RAN, now, step_id=step.id, reason=reason, data=data))
        return gains

    def finish(
        self,
        seq: Sequence,
        reason: FinishReason,
        now: float,
        stop_reason: int | str | None = None,
        error: str | None = None,
    ) -> None:
        """Ends a sequence for a reason found outside (a stop string, an abort)."""
        if seq.finished:
            return
        if self._cohort is not None and seq in self._cohort:
            if self._cohort.flying:
                self._in_flight.add(seq)
                self._left_in_flight.append(seq)
            self._cohort.leave(seq)
        self.usage.left(seq)
        if seq.status is Status.WAITING:
            self.waiting.remove(seq, now)
        else:
            del self._running[seq]
            self._loose.pop(seq, None)
        seq.set_wait(None, now)
        seq.status, seq.finish_reason, seq.finished_at = Status.FINISHED, reason, now
        seq.stop_reason, seq.error = stop_reason, error
        for ended in self._ended:
            ended(seq, now)
        if seq not in self._in_flight:
            self._forget(seq)
        if self._listening:
            kind = Kind.ABORTED if reason is FinishReason.ABORT else Kind.FINISHED
            self._emit(self._end(kind, seq, now))

    def abort(self, request_id: str, now: float, why: str) -> list[Sequence]:
        """Ends all sequences of a request; returns those that had not ended before."""
        ended = [seq for seq in self._groups.get(request_id, ()) if not seq.finished]
        for seq in ended:
            self.finish(seq, FinishReason.ABORT, now, error=why)
        return ended

    def check_integrity(self) -> None:
        """Queue, running set, groups and memory agree with each other."""
        if self._cohort is not None:
            self._cohort.settle()
            self._cohort.check_integrity()
        waiting = list(self.waiting)
        assert all(s.status is Status.WAITING and not s.blocks for s in waiting)
        assert all(s.status is Status.RUNNING for s in self._running)
        doomed = [s for s in self._in_flight if s.finished]
        known = {s for group in self._groups.values() for s in group if not s.finished}
        assert known == set(waiting) | set(self._running), "a sequence is lost or kept too long"
        assert len(waiting) + len(self._running) == len(known), "a sequence is in two places"
        self.usage.check_integrity(waiting, self._running)
        assert all(
            any(not s.finished for s in g) or set(g) & self._in_flight
            for g in self._groups.values()
        ), "an ended request is still known"
        self.waiting.check_integrity()
        self.memory.check_integrity([*self._running, *doomed])

    def _rank(self, seq: Sequence, now: float) -> Any:
        return (self._policies.order.key(seq, now), seq.ticket)

    def _explain(self, round: Round) -> None:
        """Books why those wait whom the round left out and said nothing about."""
        for seq in self._explained:
            told = seq in round.explained or seq.wait in (Wait.QUEUE, Wait.PREEMPTED)
            if seq.status is Status.WAITING and not told:
                seq.set_wait(Wait.QUEUE, round.now, "others are ahead of it")
        self._explained = round.explained
        if self._cohort is not None and not round.steady and round.slices:
            self._cohort.dissolve()  # members wait, too
        if 0 < len(round.slices) + round.steady < len(self._running):
            for seq in self._loose:
                if seq.wait is None and seq not in round.slices and seq not in self._in_flight:
                    detail = f"the step's budget of {round.budget} is spent"
                    seq.set_wait(Wait.BUDGET, round.now, detail)

    def _commit_cohort(self, step: Step, gains: list[Gain]) -> int:
        """Each member of the cohort has won a token, as ``step.steady`` says; how many did.

        Those of ``gains`` that go on join it.
        """
        cohort = self._cohort
        if cohort is None:
            return 0
        for seq in self._left_in_flight:
            self._in_flight.discard(seq)
            self._forget(seq)
        steady = step.steady - len(self._left_in_flight)
        self._left_in_flight.clear()
        if step.steady:
            cohort.arrive()
        for seq, _ in gains:
            if seq.status is Status.RUNNING:
                cohort.join(seq)
        return steady

    @staticmethod
    def _failed(step: Step, result: StepResult) -> tuple[Sampled, ...]:
        """A step that failed as a whole fails each of its sequences."""
        return tuple(Sampled(token=-1, error=result.error) for _ in step.slices)

    def _gain(self, seq: Sequence, sampled: Sampled, now: float, stopper: Stopper | None) -> None:
        if sampled.error is not None:
            self.finish(seq, FinishReason.ERROR, now, error=sampled.error)
            return
        token, request = sampled.token, seq.request
        seq.tokens.append(token)
        if seq.first_token_at is None:
            seq.first_token_at = now
            if self._listening:
                self._emit(Event(Kind.FIRST_TOKEN, now, request.id, seq.index))
        if token in request.eos_ids or token in request.params.stop_token_ids:
            self.finish(seq, FinishReason.STOP, now, stop_reason=token)
        elif stopper is not None and (matched := stopper(seq, sampled)) is not None:
            self.finish(seq, FinishReason.STOP, now, stop_reason=matched)
        elif len(seq.tokens) - len(request.prompt) >= request.max_tokens:
            self.finish(seq, FinishReason.LENGTH, now)

    def _forget(self, seq: Sequence) -> None:
        self.memory.release(seq, keep=seq.finish_reason is not FinishReason.ERROR)
        group = self._groups[seq.request.id]
        if len(group) == 1 or all(s.finished and s not in self._in_flight for s in group):
            del self._groups[seq.request.id]

    @staticmethod
    def _end(kind: Kind, seq: Sequence, now: float) -> Event:
        assert seq.finish_reason is not None
        data: dict[str, float | int | str] = {
            "tenant": seq.request.tenant,
            "finish_reason": seq.finish_reason.value,
            "prompt": seq.prompt_len,
            "output": seq.output_len,
            "cached": seq.cached or 0,
            "preemptions": seq.preemptions,
            "e2e": now - seq.request.arrival,
        }
        if seq.first_token_at is not None:
            data["ttft"] = seq.first_token_at - seq.request.arrival
        targets = seq.request.targets
        for name, due in (("ttft", targets.ttft), ("tpot", targets.tpot)):
            if due is not None:
                data[f"target_{name}"] = due
        if targets.deadline is not None:
            data["target_e2e"] = targets.deadline - seq.request.arrival
        for cause, seconds in seq.waits.items():
            data[f"wait_{cause.value}"] = seconds
        reason = seq.error or seq.finish_reason.value
        return Event(kind, now, seq.request.id, seq.index, reason=reason, data=data)
