"""Round: one planning round, the desk at which a batching policy works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.memory.sequence_memory import Copy, SequenceMemory
from headrace.nouns.event import Event, Kind, Sink, ignore
from headrace.nouns.sequence import Sequence, Status, Wait
from headrace.nouns.step import Slice
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.cohort import Cohort
from headrace.scheduling.policy import AdmissionPolicy, PreemptionPolicy, Queue
from headrace.scheduling.thrash_guard import ThrashGuard
from headrace.scheduling.usage import Usage

# Sequences waiting for a prefix are passed over; this bounds how many are looked at per round.
LOOK_AHEAD = 256


@dataclass(frozen=True, slots=True)
class Desk:
    """What all rounds of a scheduler share.

    ``running`` are the started sequences with their ranks, the smallest the best; ``rank`` gives
    one its rank. ``loose`` are those of them that are in no ``cohort``: all, if there is none.
    ``in_flight`` are those in steps that are not committed yet.
    """

    running: dict[Sequence, Any]
    loose: dict[Sequence, Any]
    cohort: Cohort | None
    in_flight: set[Sequence]
    queue: Queue
    usage: Usage
    memory: SequenceMemory
    admission: AdmissionPolicy
    preemption: PreemptionPolicy
    rank: Callable[[Sequence, float], Any]
    siblings: Callable[[Sequence], list[Sequence]]
    guard: ThrashGuard
    admitted: tuple[Callable[..., None], ...]
    preempted: tuple[Callable[..., None], ...]
    looks_at_running: bool
    emit: Sink


class Round:
    """Implements ``PlanningRound`` on the scheduler's running set, queue and memory.

    Moves sequences between them as it goes; a sequence that yields loses its slice.
    """

    def __init__(
        self, desk: Desk, *, now: float, step_id: int, budget: int, limit: int, max_sequences: int
    ) -> None:
        self.now, self.step_id = now, step_id
        self.budget, self.limit, self.max_sequences = budget, limit, max_sequences
        self.spent = 0
        self.padding = 0
        self.slices: dict[Sequence, Slice] = {}
        self.copies: dict[Sequence, list[Copy]] = {}
        self._desk = desk
        self.steady = 0  # members of the cohort with a row in this step
        self._running, self._in_flight = desk.running, desk.in_flight
        self._loose, self._cohort = desk.loose, desk.cohort
        self._decodes = 0  # slices that decode_all has made
        self._queue, self._memory = desk.queue, desk.memory
        self.explained: dict[Sequence, None] = {}  # waiting sequences that were told why
        self.turned_away: Sequence | None = None  # the queue's head, since all slots are taken
        self._short = False  # a running sequence found no free block
        self._closed = False  # the queue's head was told why it waits
        self._position = 0  # queue entries before it wait for a prefix or for their tenant
        self._passed = 0  # how many of them wait for a prefix

    def running(self) -> list[Sequence]:
        self._scatter()
        return sorted(self._candidates(), key=self._running.__getitem__)

    def prefilling(self) -> list[Sequence]:
        return self._ranked([s for s in self._loose if len(s.tokens) - s.computed > 1])

    def decode_all(self) -> None:
        cohort = self._cohort
        if cohort is not None and len(cohort):
            cohort.part()
        ready = [s for s in self._loose if len(s.tokens) - s.computed == 1]
        if cohort is not None and len(cohort):
            need = cohort.due + sum([self._memory.missing(s, s.computed + 1) for s in ready])
            if need <= self._memory.available:
                self.steady = cohort.depart()
                self.spent += self.steady
            else:
                ready += cohort.dissolve()
        for seq in self._ranked(ready):
            self.take(seq, 1)
        self._decodes = len(self.slices)

    def load(self) -> StepLoad:
        cohort = self._cohort
        pairs = cohort.computed + self.steady if self.steady and cohort is not None else 0
        return StepLoad.sum(self.slices.values(), self.padding, self.steady, pairs)

    def decoding(self) -> list[Sequence]:
        rows = [seq for seq, slice in self.slices.items() if slice.samples and slice.length == 1]
        if self.steady and self._cohort is not None:
            self._cohort.settle()
            decodes = rows[: self._decodes] + [s for s in self._running if s in self._cohort]
            rows[: self._decodes] = sorted(decodes, key=self._running.__getitem__)
        return rows

    def head(self) -> Sequence | None:
        return self._queue[self._position] if self._position < len(self._queue) else None

    def _ranked(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those of them that no step in flight holds, best rank first."""
        flying = self._in_flight
        if flying:
            sequences = [seq for seq in sequences if seq not in flying]
        if len(sequences) > 1:
            sequences.sort(key=self._running.__getitem__)
        return sequences

    def _scatter(self) -> None:
        """Gives up the cohort: its members' rows become slices of their own."""
        cohort = self._cohort
        if cohort is None or not len(cohort):
            return
        planned, members = self.steady, cohort.dissolve()
        if planned:
            slices = list(self.slices.values())
            decodes = slices[: self._decodes]
            decodes += [Slice(seq, seq.computed, 1, True) for seq in members]
            decodes.sort(key=lambda slice: self._running[slice.sequence])
            self.slices = {s.sequence: s for s in decodes + slices[self._decodes :]}
            self.steady = 0

    def take(self, seq: Sequence, length: int) -> bool:
        computed, known = seq.computed, len(seq.tokens)
        length = min(length, known - computed, self.limit - self.spent)
        if length < 1 or seq.status is not Status.RUNNING:
            return False
        if seq in self.slices or seq in self._in_flight:
            return False
        end = computed + length
        copies = self._memory.grow(seq, end)
        if copies is None:
            copies = self._make_room(seq, end)
            if copies is None:
                return False
        if copies:
            # Executors read all sources before they write: a source that is itself filled by a
            # copy of this step is read where that one comes from.
            origin = {to: source for done in self.copies.values() for source, to in done}
            self.copies[seq] = [(origin.get(source, source), to) for source, to in copies]
        self.slices[seq] = Slice(seq, computed, length, end == known)
        self.spent += length
        if seq.wait is not None:
            seq.set_wait(None, self.now)
        return True

    def _make_room(self, seq: Sequence, upto: int) -> list[Copy] | None:
        """Lets others yield until ``seq`` can grow; None if it has to yield or wait itself."""
        self._short = True
        self._scatter()
        while True:
            rank = self._running.__getitem__
            victim = self._desk.preemption.victim(self._candidates(), seq, rank)
            if victim is seq and self._in_flight:  # those back soon may be the ones to yield
                self._explain(seq, Wait.MEMORY, "steps in flight hold the blocks that it needs")
                return None
            self._preempt(victim, seq)
            if victim is seq:
                return None
            copies = self._memory.grow(seq, upto)
            if copies is not None:
                return copies

    def _candidates(self) -> list[Sequence]:
        """Started sequences that no step in flight holds."""
        if not self._in_flight:
            return list(self._running)
        return [seq for seq in self._running if seq not in self._in_flight]

    def admit(self, wait_for_prefix: bool = True) -> Sequence | None:
        full = self._desk.usage.full
        while self._position < len(self._queue) and self._passed < LOOK_AHEAD:
            seq = self._queue[self._position]
            tenant = seq.request.tenant
            if tenant in full:  # nobody behind it has to wait for that
                self._explain(seq, Wait.TENANT, f"its tenant may run {full[tenant]} at once")
                self._position += 1
                continue
            blocked = self._obstacle(seq, wait_for_prefix)
            if blocked is None:
                self._queue.pop(self._position)
                self._start(seq)
                return seq
            cause, detail = blocked
            self._explain(seq, cause, detail)
            if cause is not Wait.PREFIX:
                self._closed = True
                if cause is Wait.BUDGET and not self._position:
                    self.turned_away = seq
                return None
            self._position += 1
            self._passed += 1
        return None

    def pad(self, rows: int) -> None:
        self.padding += max(0, min(rows, self.limit - self.spent - self.padding))

    def hold(self, cause: Wait, detail: str) -> None:
        self._closed = True
        if len(self._queue):
            self._explain(self._queue[0], cause, detail)

    def close(self) -> None:
        """The policy is done: whoever would have been next waits for the step's room."""
        if self._closed or not (self.slices or self.steady) or self._passed >= LOOK_AHEAD:
            return
        if self._position < len(self._queue):
            detail = f"the step has no room left: {self.spent} tokens of {self.budget}"
            self._explain(self._queue[self._position], Wait.BUDGET, detail)

    def _obstacle(self, seq: Sequence, wait_for_prefix: bool) -> tuple[Wait, str] | None:
        """Why ``seq`` may not start now, if it may not."""
        if self._short:
            return Wait.MEMORY, "a running sequence has just found no free block"
        if len(self._running) >= self.max_sequences:
            return Wait.BUDGET, f"all {self.max_sequences} sequence slots are taken"
        if wait_for_prefix:
            owner = self._memory.awaits(seq) or self._unready_leader(seq)
            if owner is not None:
                return Wait.PREFIX, f"request {owner.request.id} is computing a prefix it shares"
        held = self._desk.guard.refusal(seq, len(self._running), self.now)
        if held is not None:
            return Wait.MEMORY, held
        if self._cohort is not None and self._desk.looks_at_running:
            self._cohort.settle()
        refusal = self._desk.admission.refusal(seq, list(self._running), self._memory)
        return None if refusal is None else (Wait.MEMORY, refusal)

    def _leader(self, seq: Sequence) -> Sequence | None:
        """The running sibling that has come furthest, if ``seq`` still wants the prompt's state."""
        if seq.request.n == 1 or seq.output_len:
            return None
        running = [
            s for s in self._desk.siblings(seq) if s.status is Status.RUNNING and s is not seq
        ]
        return max(running, key=lambda s: s.computed, default=None)

    def _unready_leader(self, seq: Sequence) -> Sequence | None:
        """The sibling whose prompt state ``seq`` will share, while it is being computed."""
        leader = self._leader(seq)
        return None if leader is None or leader.computed >= seq.prompt_len else leader

    def _start(self, seq: Sequence) -> None:
        leader = self._leader(seq)
        if leader is not None and leader.computed < seq.prompt_len:
            leader = None
        found = self._memory.adopt(seq) if leader is None else self._memory.fork(leader, seq)
        if seq.cached is None:
            seq.cached = min(found, seq.prompt_len)
        if seq.admitted_at is None:
            seq.admitted_at = self.now
        seq.status = Status.RUNNING
        self._desk.usage.started(seq)
        self._loose[seq] = self._running[seq] = self._desk.rank(seq, self.now)
        for admitted in self._desk.admitted:
            admitted(seq, found, self.now)
        seq.set_wait(Wait.BUDGET, self.now, "admitted, not yet in a step")
        if self._desk.emit is not ignore:
            shares = f"shares the prompt of sibling {leader.index}" if leader else None
            data = {"found": found, "known": len(seq.tokens), "preemptions": seq.preemptions}
            self._note(Kind.ADMITTED, seq, shares or f"{found} tokens found", data)

    def _preempt(self, victim: Sequence, needy: Sequence) -> None:
        lost, detail = victim.computed, self._why(victim, needy)
        dropped = self.slices.pop(victim, None)
        if dropped is not None:
            self.spent -= dropped.length
        self.copies.pop(victim, None)
        self._memory.release(victim)
        del self._running[victim]
        self._loose.pop(victim, None)
        victim.status = Status.WAITING
        self._desk.usage.yielded(victim)
        victim.preemptions += 1
        victim.set_wait(Wait.PREEMPTED, self.now, detail)
        for preempted in self._desk.preempted:
            preempted(victim, lost, self.now)
        self._queue.push(victim, self.now)
        self._note(Kind.PREEMPTED, victim, detail, {"lost": lost})

    def _why(self, victim: Sequence, needy: Sequence) -> str:
        """The reason why ``victim`` yields to ``needy``, which may be itself."""
        ranks = self._running
        if victim is needy:
            if ranks[victim] == max(ranks.values()):
                return "it had the worst rank when its own growth found no free block"
            return "its own growth found no free block and it loses least"
        if ranks[needy] < ranks[victim]:
            return f"request {needy.request.id} ranks before it and found no free block"
        return f"request {needy.request.id} found no free block and this one loses less"

    def _explain(self, seq: Sequence, cause: Wait, detail: str) -> None:
        self.explained[seq] = None
        if seq.wait is Wait.PREEMPTED:  # the cause of all its waiting until it runs again
            return
        if seq.wait is not cause:
            seq.set_wait(cause, self.now, detail)
        else:
            seq.wait_detail = detail

    def _note(self, kind: Kind, seq: Sequence, reason: str, data: dict[str, int]) -> None:
        event = Event(kind, self.now, seq.request.id, seq.index, self.step_id, reason, data)
        self._desk.emit(event)
