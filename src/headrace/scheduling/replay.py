"""Replay: the steps to come, coarsely, to tell when those that wait get their first token."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import ceil

from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.scheduling.limits import Limits


@dataclass(frozen=True, slots=True)
class Job:
    """A sequence as a replay sees it.

    ``known`` tokens, of which ``left`` are to be computed before the next one is won, and
    ``output`` tokens to be won in all, at least 1. It holds ``room`` tokens of memory when it ends.
    """

    left: int
    known: int
    output: int
    tenant: str

    @property
    def room(self) -> int:
        return self.known + self.output - 1


@dataclass(frozen=True, slots=True)
class Opening:
    """A moment, in seconds from the replay's start, at which a sequence starts; how many decode
    then, and their tokens."""

    time: float
    decodes: int
    context: int


class _Prefill:
    """A job whose next token is not won yet; ``place`` is its number, -1 if it runs already."""

    __slots__ = ("done", "job", "left", "place")

    def __init__(self, job: Job, place: int) -> None:
        self.job, self.place = job, place
        self.left, self.done = job.left, job.known - job.left


class Replay:
    """Steps as ``StallFree`` plans them: all decodes, then prefills first come first served up to
    the token budget, then new starts while slots and memory last.

    Steps between which nothing starts or ends are taken together, at the mean price of the first
    and the last of them, which is exact for prices linear in positions. So the work is two rounds
    for each job or so, however long. Nobody yields: each is counted with the memory that it will
    end with. ``most`` bounds running jobs of some tenants; others overtake those that wait for it.
    """

    def __init__(
        self,
        cost: StepCost,
        limits: Limits,
        memory: int,
        running: Iterable[Job],
        waiting: Iterable[Job],
        most: Mapping[str, int],
    ) -> None:
        """``memory`` is in tokens; ``running`` and ``waiting`` best first."""
        self._cost, self._limits, self._most = cost, limits, most
        self.time = 0.0
        self._steps = 0
        self._memory = memory
        self._slots = limits.sequences
        self._tenants: dict[str, int] = {}
        self._context = 0  # tokens of those that decode
        self._ends: list[tuple[int, int, Job]] = []  # a heap: by the step that is their last
        self._prefills: deque[_Prefill] = deque()
        self._waiting: deque[tuple[int, Job]] = deque()
        self._parked: dict[str, deque[tuple[int, Job]]] = {}
        self.starts: list[Opening | None] = []
        self.firsts: list[float | None] = []
        for job in running:
            self._occupy(job)
            if job.left > 1:
                self._prefills.append(_Prefill(job, -1))
            else:
                self._ends.append((job.output, len(self._ends), job))
                self._context += job.known
        self._order = len(self._ends)  # makes entries of the heap differ
        heapify(self._ends)
        for job in waiting:
            self._enqueue(job)
        self._run()

    def start(self, job: Job) -> float:
        """Adds one behind all others; seconds until its next token (or an estimate of them, where
        its tenant's bound keeps it from starting)."""
        place = self._enqueue(job)
        self._run()
        first = self.firsts[place]
        return self.parked(job.tenant) if first is None else first

    def opening(self, room: int, after: float = 0.0) -> Opening:
        """When one that needs so much memory and comes ``after`` so many seconds could start behind
        all others: in the first step planned then that has a place for it."""
        while self._prefills or not self._fits(room):
            self._advance()
        while self._ends and self.time < after:
            steps = ceil((after - self.time) / max(self._price(0, 0), 1e-9))
            self._repeat(min(steps, self._ends[0][0] - self._steps), 0, None)
        self.time = max(self.time, after)
        return Opening(self.time, len(self._ends), self._context)

    def parked(self, tenant: str) -> float:
        """Seconds until one more of a tenant at its bound would start, behind those parked.

        Each slot of the tenant's is taken to last as long as its jobs do on average.
        """
        waiting = [job for _, job in self._parked.get(tenant, ())]
        jobs = waiting or [job for _, _, job in self._ends if job.tenant == tenant]
        if not jobs:
            return self.time
        mean = sum(job.output for job in jobs) / len(jobs)
        rounds = (len(waiting) + 1) / self._most.get(tenant, 1)
        return self.time + rounds * mean * self._price(0, 0)

    def prefill(self, tokens: int, at: Opening | None = None) -> float:
        """Seconds that so many tokens take, beside what decodes then; None: beside nothing."""
        decodes, context = (at.decodes, at.context) if at is not None else (0, 0)
        chunk = max(1, min(tokens, self._limits.token_budget - decodes))
        steps = -(-tokens // chunk)
        last = tokens - chunk * (steps - 1)
        seconds = self._cost.seconds(_load(decodes, context, last, tokens - last, True))
        if steps > 1:
            first = self._cost.seconds(_load(decodes, context, chunk, 0, False))
            before = self._cost.seconds(_load(decodes, context, chunk, chunk * (steps - 2), False))
            seconds += (steps - 1) * (first + before) / 2
        return seconds

    def decode(self, known: int, at: Opening | None = None) -> float:
        """Seconds of a step in which one with so many tokens decodes beside those; None: alone."""
        decodes, context = (at.decodes, at.context) if at is not None else (0, 0)
        return self._cost.seconds(_load(decodes + 1, context + known, 0, 0, False))

    def _enqueue(self, job: Job) -> int:
        place = len(self.starts)
        self._waiting.append((place, job))
        self.starts.append(None)
        self.firsts.append(None)
        return place

    def _run(self) -> None:
        """Until everybody who may start has got a token."""
        while True:
            self._park()
            if not (self._waiting or self._prefills):
                return
            self._advance()

    def _advance(self) -> None:
        """The next step, or the steps up to the next event."""
        decodes = len(self._ends)
        room = max(0, self._limits.token_budget - decodes)
        until = self._ends[0][0] - self._steps if decodes else 0
        if room and self._prefills:
            head = self._prefills[0]
            whole = (head.left - 1) // room  # steps that it fills and does not end in
            if whole:
                self._repeat(min(whole, until) if decodes else whole, room, head)
                return
        taken = self._fill(room)
        if taken:
            self._mixed(taken)
        else:
            assert decodes, "nothing runs and nothing may start"
            self._repeat(until, 0, None)

    def _repeat(self, steps: int, chunk: int, head: _Prefill | None) -> None:
        """So many steps alike but for their positions; ``head`` gets a chunk in each."""
        done = 0 if head is None else head.done
        first = self._price(chunk, done)
        if steps > 1:
            self._context += len(self._ends) * (steps - 1)
            first = (first + self._price(chunk, done + chunk * (steps - 1))) / 2
        if head is not None:
            head.left -= chunk * steps
            head.done += chunk * steps
        self._context += len(self._ends)
        self._pass(steps, steps * first)

    def _fill(self, room: int) -> list[tuple[_Prefill, int]]:
        """Prefills of one step, and how much of each; starts new ones."""
        taken: list[tuple[_Prefill, int]] = []
        position = 0
        while room > 0:
            if position == len(self._prefills) and not self._admit():
                break
            prefill = self._prefills[position]
            length = min(prefill.left, room)
            taken.append((prefill, length))
            room -= length
            position += 1
        return taken

    def _mixed(self, taken: list[tuple[_Prefill, int]]) -> None:
        """One step of decodes and these prefills."""
        load = _load(len(self._ends), self._context, 0, 0, False)
        for prefill, length in taken:
            load += _load(0, 0, length, prefill.done, length == prefill.left)
        ended: list[_Prefill] = []
        for prefill, length in taken:
            prefill.left -= length
            prefill.done += length
            if not prefill.left:
                ended.append(self._prefills.popleft())
        self._context += len(self._ends)
        self._pass(1, self._cost.seconds(load))
        for prefill in ended:
            if prefill.place >= 0:
                self.firsts[prefill.place] = self.time
            job = prefill.job
            if job.output > 1:
                self._order += 1
                heappush(self._ends, (self._steps + job.output - 1, self._order, job))
                self._context += job.known + 1
            else:
                self._leave(job)

    def _admit(self) -> bool:
        """Starts the next that may; False if none may now."""
        self._park()
        if not self._waiting or not self._fits(self._waiting[0][1].room):
            return False
        place, job = self._waiting.popleft()
        self.starts[place] = Opening(self.time, len(self._ends), self._context)
        self._occupy(job)
        self._prefills.append(_Prefill(job, place))
        return True

    def _park(self) -> None:
        """Sets aside those at the head whose tenants run as many as they may."""
        while self._waiting:
            tenant = self._waiting[0][1].tenant
            limit = self._most.get(tenant)
            if limit is None or self._tenants.get(tenant, 0) < limit:
                return
            self._parked.setdefault(tenant, deque()).append(self._waiting.popleft())

    def _fits(self, room: int) -> bool:
        idle = self._slots == self._limits.sequences
        return idle or (self._slots > 0 and room <= self._memory)

    def _occupy(self, job: Job) -> None:
        self._slots -= 1
        self._memory -= job.room
        if job.tenant in self._most:
            self._tenants[job.tenant] = self._tenants.get(job.tenant, 0) + 1

    def _leave(self, job: Job) -> None:
        self._slots += 1
        self._memory += job.room
        if job.tenant in self._most:
            self._tenants[job.tenant] -= 1
            parked = self._parked.get(job.tenant)
            if parked:
                self._waiting.appendleft(parked.popleft())

    def _pass(self, steps: int, seconds: float) -> None:
        """Time goes by; those whose last step that was leave."""
        self.time += seconds
        self._steps += steps
        while self._ends and self._ends[0][0] <= self._steps:
            _, _, job = heappop(self._ends)
            self._context -= job.known + job.output
            self._leave(job)

    def _price(self, chunk: int, done: int) -> float:
        return self._cost.seconds(_load(len(self._ends), self._context, chunk, done, False))


def _load(decodes: int, context: int, length: int, done: int, samples: bool) -> StepLoad:
    """Decodes whose sequences have ``context`` tokens together, and ``length`` tokens of a prompt
    of which ``done`` are computed."""
    pairs = length * (2 * done + length + 1) // 2
    single = int(length == 1)
    sampled = int(samples and length > 0)
    return StepLoad(
        rows=decodes + length,
        slices=decodes + (length > 0),
        decodes=decodes + single,
        samples=decodes + sampled,
        pairs=context + pairs,
        decode_pairs=context + single * pairs,
        sample_pairs=context + sampled * (done + length),
        read=context - decodes + done,
    )
