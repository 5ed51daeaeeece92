"""Outlook: how long those that wait, and those that might come, will wait."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.scheduling.margin import Margin
from headrace.scheduling.output_lengths import OutputLengths, cannot_end_early
from headrace.scheduling.pace import Pace
from headrace.scheduling.place import place
from headrace.scheduling.replay import Job, Opening, Replay

if TYPE_CHECKING:
    from headrace.scheduling.scheduler import Scheduler

EVERY = 0.1
"""Seconds between two looks at the scheduler, at least."""
HORIZON = 256
"""Waiting sequences that are replayed; beyond them the mean of their second half goes on."""
SHARES = (1 / 8, 3 / 8, 5 / 8, 7 / 8)
"""Quantiles of an output's length whose mean is expected."""
ENOUGH = 16
COLD = 256
"""Output tokens expected of requests that may end by themselves until ``ENOUGH`` have."""
SHORT = 0.25
"""Quantile of an output's length that a deadline has to leave time for."""
STRIDE = 16
"""Expected lengths are worked out for every 16th token, and anew after 16 more have ended."""
KINDS = 4096
"""Kinds of requests whose expected lengths are kept."""
NEWS = 0.05
CLOSE = 0.5
"""Predictions of this share of a target and more teach how much to allow for: they matter."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """Seconds to the ``first`` token of a request and to the ``last`` of its answer, if that is a
    short one of its kind; and the same with nobody else there, for which no ``margin`` is allowed
    yet: the factor that the first two include."""

    first: float
    last: float
    alone: float
    alone_last: float
    margin: float = 1.0


Seen = tuple[Sequence, int, int]
"""A sequence, its known tokens and how many of them are computed, as it was at some time."""


@dataclass(frozen=True, slots=True)
class View:
    """A scheduler at ``time``. ``waiting`` are the first ``HORIZON`` in the queue's order, ``more``
    wait behind them; ``memory`` is in tokens and includes what those that run hold."""

    time: float
    running: tuple[Seen, ...]
    waiting: tuple[Seen, ...]
    more: int
    memory: int


class Outlook:
    """Predicts waits by a ``Replay`` of what it last saw of a scheduler.

    ``look`` is called on the scheduler's thread, after steps; it takes down a few numbers. All
    else may be called on any thread and works on these, when asked, within a bounded time. Without
    a cost of steps, waits come from the ``Pace`` of the last ends, and first tokens are not
    predicted. Output lengths are learnt, as is the share of prompts that the cache provides.

    Coarse where the scheduler is not as ``Replay`` says: another batching than ``stall-free``,
    sequences that yield, prompts that share what is being computed.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lengths = OutputLengths()
        learnt = getattr(scheduler.admission, "lengths", None)
        if isinstance(learnt, OutputLengths):  # taken over now; learnt apart, on other threads
            self._lengths.restore(learnt.to_json())
        self._expected: dict[tuple[str, str, int, int], int] = {}  # further tokens, by kind
        self._fresh = 0  # sequences observed when it was emptied
        self._pace = Pace()
        self._found = 0.0  # share of prompts
        self._margin = Margin()
        self._last: tuple[str, float] = ("", 0.0)  # the request asked for last, and the answer
        self._promised: dict[str, tuple[float, float]] = {}  # by request: when, and how soon
        self._lock = threading.Lock()
        self._arrived: deque[str] = deque()
        self._ended: deque[Sequence] = deque()  # not learnt from yet
        self._coming: dict[str, Request] = {}  # accepted, not seen by the last look
        self._view = View(0.0, (), (), 0, self._memory())
        self._replay: Replay | None = None
        self._ahead: list[tuple[int, float]] = []  # newcomers within the queue: place, seconds
        self._behind = 0  # newcomers behind the horizon
        scheduler.watch(self.arrived, self.ended)

    # On the scheduler's thread

    def look(self, now: float) -> None:
        """Takes a look if the last one is old or nothing runs any more."""
        idle = not self._scheduler.has_work
        if (now - self._view.time < EVERY and not idle) or not self._lock.acquire(blocking=False):
            return
        try:
            while self._arrived:
                self._coming.pop(self._arrived.popleft(), None)
            while self._ended:
                self._learn(self._ended.popleft())
            if self._lengths.observed >= self._fresh + STRIDE:
                self._expected, self._fresh = {}, self._lengths.observed
            self._view = self._seen(now)
            self._replay, self._ahead, self._behind = None, [], 0
        finally:
            self._lock.release()

    @property
    def content(self) -> float:
        """A time before which it does not look again while there is work."""
        return self._view.time + 0.999 * EVERY

    def arrived(self, seq: Sequence, now: float) -> None:
        """The scheduler has ``seq``."""
        if not seq.index:
            self._arrived.append(seq.request.id)

    def ended(self, seq: Sequence, now: float) -> None:
        """``seq`` has ended."""
        self._pace.ended(now)
        self._ended.append(seq)

    # On any thread

    def accepted(self, request: Request, now: float) -> None:
        """``request`` will be added to the scheduler."""
        with self._lock:
            self._coming[request.id] = request
            asked, predicted = self._last
            ttft = request.targets.ttft
            if asked == request.id and ttft is not None and predicted >= CLOSE * ttft:
                self._promised[asked] = (now, predicted)
            if self._replay is not None:
                self._join(self._replay, request, now)

    def gone(self, request: Request) -> None:
        """``request`` was accepted, but the scheduler did not take it."""
        with self._lock:
            self._coming.pop(request.id, None)
            self._promised.pop(request.id, None)
            self._replay = None

    def wait(self, now: float, tenant: str = "") -> float | None:
        """Seconds until a request that came now would start if it came last; None if not known.

        Of a tenant at its ``max_running`` it waits for its own as well.
        """
        if self._scheduler.cost is None:
            return self._pace.predicted_wait(self._waiting(), now)
        with self._lock:
            replay = self._replayed(now)
            start = replay.opening(0, now - self._view.time).time + self._beyond(replay)
            if tenant in self._scheduler.usage.full:
                start = max(start, replay.parked(tenant))
            return max(0.0, self._view.time + start - now)

    def prospect(self, request: Request, now: float) -> Prospect | None:
        """What ``request`` could expect if it came now; None if not known.

        With the ``Margin`` by which most such promises are kept. A tenant at its ``max_running``
        waits for its own as well.
        """
        if self._scheduler.cost is None:
            return None
        with self._lock:
            replay = self._replayed(now)
            job = self._newcomer(request, 0)
            opening, late = self._opening(replay, request, job, now)
            start = max(0.0, self._view.time + opening.time + late - now)
            if request.tenant in self._scheduler.usage.full:
                start = max(start, self._view.time + replay.parked(request.tenant) - now)
            first = start + replay.prefill(job.left, opening)
            self._last = (request.id, first)
            more, alone = self._short(request) - 1, replay.prefill(job.left)
            return Prospect(
                self._margin.factor * first,
                self._margin.factor * (first + more * replay.decode(job.known, opening)),
                alone,
                alone + more * replay.decode(job.known),
                self._margin.factor,
            )

    def first_token(self, request: Request, now: float) -> float | None:
        """``prospect``'s first token."""
        found = self.prospect(request, now)
        return None if found is None else found.first

    def starts(self, request_id: str, now: float) -> dict[int, float]:
        """Predicted seconds until each waiting sequence of a request starts, by its index; those
        that it did not see when it last looked, or not so far ahead, are left out."""
        if self._scheduler.cost is None:
            return {}
        with self._lock:
            replay = self._replayed(now)
            found = {}
            for number, (seq, _, _) in enumerate(self._view.waiting):
                opening = replay.starts[number]
                if seq.request.id == request_id and opening is not None:
                    found[seq.index] = max(0.0, self._view.time + opening.time - now)
            return found

    # Inside, with the lock

    def _seen(self, now: float) -> View:
        scheduler = self._scheduler
        running = tuple((s, len(s.tokens), s.computed) for s in scheduler.running)
        waiting = tuple((s, len(s.tokens), 0) for s in islice(scheduler.waiting, HORIZON))
        more = len(scheduler.waiting) - len(waiting)
        return View(now, running, waiting, more, self._memory())

    def _memory(self) -> int:
        return self._scheduler.memory.total * self._scheduler.memory.block_size

    def _learn(self, seq: Sequence) -> None:
        self._lengths.observe(seq)
        promise = self._promised.pop(seq.request.id, None)
        if promise is not None and seq.first_token_at is not None:
            self._margin.learn(promise[1], seq.first_token_at - promise[0])
        if seq.cached is not None and not seq.index:
            self._found += NEWS * (seq.cached / seq.prompt_len - self._found)

    def _newcomer(self, request: Request, index: int) -> Job:
        return self._waiter(request, index, len(request.prompt))

    def _waiter(self, request: Request, index: int, known: int) -> Job:
        """One that waits: siblings share a prompt, and the cache helps."""
        left = 1 if index else max(1, round(known * (1 - self._found)))
        return self._job(request, known, left)

    def _job(self, request: Request, known: int, left: int) -> Job:
        return Job(left, known, self._output(request, known - len(request.prompt)), request.tenant)

    def _output(self, request: Request, produced: int) -> int:
        """Further output tokens that it is expected to have, at least 1."""
        most = max(1, request.max_tokens - produced)
        if cannot_end_early(request):
            return most
        if self._lengths.known < ENOUGH:
            return min(most, COLD)
        asked = produced - produced % STRIDE
        key = (request.tenant, request.category, request.max_tokens, asked)
        expected = self._expected.get(key)
        if expected is None:
            if len(self._expected) >= KINDS:  # refused requests may be of ever new ones
                self._expected.clear()
            lengths = self._lengths.draws(request, asked, SHARES)
            expected = self._expected[key] = max(1, round(sum(lengths) / len(lengths)) - asked)
        return min(most, expected)

    def _short(self, request: Request) -> int:
        """Output tokens of its kind's shorter answers; all, where nothing else ends it."""
        if self._lengths.known < ENOUGH and not cannot_end_early(request):
            return 1
        return self._lengths.quantile(request, 0, SHORT)

    def _replayed(self, now: float) -> Replay:
        if self._replay is None:
            scheduler, view = self._scheduler, self._view
            assert scheduler.cost is not None
            terms = scheduler.tenants
            running = [self._job(s.request, known, known - done) for s, known, done in view.running]
            waiting = [self._waiter(s.request, s.index, known) for s, known, _ in view.waiting]
            tenants = {job.tenant for job in (*running, *waiting)}
            most = {t: m for t in tenants if (m := terms.terms(t).max_running) is not None}
            self._replay = Replay(
                scheduler.cost, scheduler.limits, view.memory, running, waiting, most
            )
            for request in self._coming.values():
                self._join(self._replay, request, now)
        return self._replay

    def _opening(
        self, replay: Replay, request: Request, job: Job, now: float
    ) -> tuple[Opening, float]:
        """When it would start by what was seen, and how much later by those that came since."""
        at, opening = self._place(replay, request, now)
        if opening is None:
            return replay.opening(job.room, now - self._view.time), self._beyond(replay)
        return opening, sum(seconds for other, seconds in self._ahead if other <= at)

    def _join(self, replay: Replay, request: Request, now: float) -> None:
        """A newcomer takes its place."""
        at, opening = self._place(replay, request, now)
        for index in range(request.n):
            job = self._newcomer(request, index)
            if opening is not None:
                self._ahead.append((at, replay.prefill(job.left, opening)))
            elif self._view.more or len(replay.starts) >= 2 * HORIZON:
                self._behind += 1
            else:
                replay.opening(0, now - self._view.time)
                replay.start(job)

    def _place(self, replay: Replay, request: Request, now: float) -> tuple[int, Opening | None]:
        """How many seen waiting are before it, and when the next of them starts, if one does."""
        waiting = [seq for seq, _, _ in self._view.waiting]
        at = place(request, waiting, self._scheduler.order, self._scheduler.tenants, now)
        return at, replay.starts[at] if at < len(waiting) else None

    def _beyond(self, replay: Replay) -> float:
        """Seconds that those behind the horizon take to start."""
        beyond = self._view.more + self._behind
        known = [opening.time for opening in replay.starts if opening is not None]
        if not beyond or len(known) < 2:
            return 0.0
        half = len(known) // 2
        return beyond * (known[-1] - known[half]) / max(1, len(known) - 1 - half)

    def _waiting(self) -> int:
        return len(self._scheduler.waiting) + len(self._coming)
