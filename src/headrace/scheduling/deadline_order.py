"""Queue order: whoever has the least time left to meet its target."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Any

from headrace.nouns.sequence import Sequence
from headrace.scheduling.lanes import LanedQueue
from headrace.scheduling.policy import Queue, Surroundings
from headrace.scheduling.prefill_time import PrefillTime


class Lane(IntEnum):
    """Where a sequence stands in the queue."""

    RETURNING = 0  # it had tokens in time and yielded its memory
    IN_TIME = 1  # it can still have its first token in time
    PATIENT = 2  # it has no target for it
    LATE = 3  # it cannot meet it any more


SHARES = {Lane.PATIENT: 1 / 4, Lane.LATE: 1 / 16}
LEAD = {Lane.PATIENT: 30.0, Lane.LATE: 60.0}  # seconds
LEAD_OF_TPOT = 10.0  # seconds for each second per token
NEVER = float("inf")
SPARE = 1024
NEWS = 0.05  # weight of the last output in the mean length of outputs


class EarliestDue:
    """Whose token is due first, of those that can still meet their targets.

    A first token is due at its target; with a deadline a sequence has to start so early that the
    usual number of tokens is out by then; whoever yielded its memory has its next token due
    ``tpot`` after the last. By due times all targets are met if any order meets them (Jackson 1955;
    Liu and Layland, JACM 1973), but past saturation everybody comes out late. So a sequence
    without slack, due sooner than its prefill takes (``PrefillTime``), is *late* and yields to
    those that can still be in time: capacity goes to answers that count (goodput, DistServe,
    arXiv:2401.09670). Sequences without targets are *patient*. If nobody has a target, the order
    is first come, first served. (By slack instead of due time long prompts go first, which
    past saturation costs a quarter of the goodput and more: docs/policies.md.)

    Nobody starves. While others start, the patient are owed a quarter and the late a sixteenth of
    the tokens those have to compute, and the first of them starts as soon as its own are owed. So
    one of the late with w tokens, its own and of the late before it, starts when at most 16 w
    tokens of others have. Among the patient and among the late the earlier arrival is first.

    Running sequences yield memory to earlier arrivals, where one without a target counts as 30
    seconds younger, a late one as 60, and one in time as 10 times its target for each token: those
    whose targets leave them less to lose yield first, but to nobody much younger.
    """

    dynamic = False

    def __init__(self) -> None:
        self._time = PrefillTime()
        self._queue = DeadlineQueue(self.due, self._time)
        self._output = 0.0  # mean length

    def bind(self, surroundings: Surroundings) -> None:
        self._time.bind(surroundings.limits, surroundings.cost)

    def queue(self) -> Queue:
        return self._queue

    def due(self, seq: Sequence) -> float:
        """The time at which it should have its next token; infinite if it has no target."""
        targets = seq.request.targets
        due = NEVER
        if seq.first_token_at is None:
            if targets.ttft is not None:
                due = seq.request.arrival + targets.ttft
        elif targets.tpot is not None:
            due = seq.first_token_at + targets.tpot * seq.output_len
        if targets.deadline is not None:
            left = min(self._output, seq.request.max_tokens) - seq.output_len
            due = min(due, targets.deadline - max(left, 0.0) * self._time.step)
        return due

    def key(self, seq: Sequence, now: float) -> tuple[float, int]:
        arrival = seq.request.arrival
        if seq in self._queue.late:
            return (arrival + LEAD[Lane.LATE], seq.ticket)
        targets = seq.request.targets
        if targets.tpot is not None:
            lead = LEAD_OF_TPOT * targets.tpot
        elif targets.ttft is not None or targets.deadline is not None:
            lead = 0.0
        else:
            lead = LEAD[Lane.PATIENT]
        return (arrival + min(lead, LEAD[Lane.PATIENT]), seq.ticket)

    def admitted(self, seq: Sequence, found: int, now: float) -> None:
        self._queue.started(seq, seq.uncomputed)
        self._time.started(seq, now, self._queue.aimed)

    def preempted(self, seq: Sequence, lost: int, now: float) -> None:
        self._time.stopped(seq)

    def ended(self, seq: Sequence, now: float) -> None:
        self._time.stopped(seq)
        self._queue.late.discard(seq)
        if seq.request.targets.deadline is not None:
            self._output += (NEWS if self._output else 1.0) * (seq.output_len - self._output)


class DeadlineQueue(LanedQueue[Lane]):
    """The four lanes, and what two of them are owed.

    ``due`` gives the time of a sequence's next token. ``late`` are those that could not meet their
    target; ``aimed`` is true once anybody has had one.
    """

    def __init__(self, due: Callable[[Sequence], float], time: PrefillTime) -> None:
        super().__init__(self._choice)
        self.late: set[Sequence] = set()
        self._due, self._time = due, time
        self._latest: list[tuple[float, int, Sequence]] = []  # a heap of latest starts
        self._owed = dict.fromkeys(SHARES, 0.0)  # tokens
        self._start_from: Lane | None = None
        self.aimed = False

    def push(self, seq: Sequence, now: float) -> None:
        due = self._due(seq)
        self.aimed = self.aimed or due != NEVER
        if seq in self.late:
            self.put(seq, Lane.LATE, seq.request.arrival)
        elif due == NEVER:
            self.put(seq, Lane.PATIENT, seq.request.arrival)
        elif seq.first_token_at is not None:
            self.put(seq, Lane.RETURNING, due)
        else:
            self.put(seq, Lane.IN_TIME, due)
            heappush(self._latest, (due - self._time.seconds(seq.uncomputed), seq.ticket, seq))

    def pop(self, position: int) -> Sequence:
        self._start_from = self.lane_of(self[position])
        return super().pop(position)

    def refresh(self, now: float) -> None:
        self.clear_view()
        if not self.aimed:
            return
        self._time.planning(now)
        latest = self._latest
        while latest and latest[0][0] < now:
            seq = heappop(latest)[2]
            if self._is_in_time(seq):
                self.remove(seq, now)
                self.late.add(seq)
                self.put(seq, Lane.LATE, seq.request.arrival)
        if len(latest) > SPARE + 2 * len(self):  # most have started long before they had to
            self._latest = [entry for entry in latest if self._is_in_time(entry[2])]
            heapify(self._latest)

    def started(self, seq: Sequence, tokens: int) -> None:
        """The sequence popped last runs and has so many tokens to compute."""
        if not self.aimed:
            return
        for lane, share in SHARES.items():
            if lane == self._start_from:
                self._owed[lane] = max(0.0, self._owed[lane] - tokens)
            elif lane in self.lanes:
                self._owed[lane] += share * tokens
            else:
                self._owed[lane] = 0.0

    def _is_in_time(self, seq: Sequence) -> bool:
        return seq in self and self.lane_of(seq) is Lane.IN_TIME

    def _choice(self) -> Lane | None:
        lanes = self.lanes
        if len(lanes) < 2:
            return next((name for name, lane in lanes.items() if lane.hidden), None)
        shown = {name for name, lane in lanes.items() if lane.hidden}
        for name in SHARES:
            if name in shown and self._owed[name] >= len(lanes[name].next.tokens):
                return name
        for name in (Lane.RETURNING, Lane.IN_TIME):
            if name in shown:
                return name
        return min(shown, key=self._arrival, default=None)

    def _arrival(self, name: Lane) -> tuple[Any, int]:
        key, ticket, _ = self.lanes[name].entries[self.lanes[name].shown]
        return (key, ticket)
