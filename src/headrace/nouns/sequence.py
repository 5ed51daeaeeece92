"""Sequence: one stream of tokens being grown for a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from headrace.nouns.request import Request


class Status(Enum):
    """Where a sequence stands. There is no prefill or decode status; see Sequence."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(Enum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class Wait(Enum):
    """What a sequence that is not being computed waits for."""

    QUEUE = "queue"  # others are ahead of it in the queue's order
    BUDGET = "budget"  # the step's tokens or sequence slots are spent
    MEMORY = "memory"  # admission foresees too little cache
    PREFIX = "prefix"  # another sequence is computing blocks it shares
    PREEMPTED = "preempted"  # it gave up its blocks to another
    BATCH = "batch"  # a request-level batch has to end first
    TENANT = "tenant"  # its tenant has as many running as it may


@dataclass(slots=True, eq=False)
class Sequence:
    """``tokens`` are known; the state of the first ``computed`` of them is in memory.

    A sequence wants to compute ``len(tokens) - computed`` tokens; when none is left uncomputed
    the next one is sampled. Prefill, decode and recomputation after a preemption differ in that
    number only. ``blocks`` are the ids of the cache blocks that hold its state, in order.
    ``ticket`` numbers sequences in the order the scheduler met them, to break ties.
    ``cached`` counts prompt tokens whose state was found in the cache at the first admission.
    """

    request: Request
    index: int
    tokens: list[int]
    ticket: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    status: Status = Status.WAITING
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    cached: int | None = None
    preemptions: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    wait: Wait | None = Wait.QUEUE
    wait_detail: str = ""
    wait_since: float = 0.0
    waits: dict[Wait, float] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, index: int) -> Sequence:
        """A new, waiting sequence of ``request``."""
        return cls(request, index, list(request.prompt), wait_since=request.arrival)

    @property
    def prompt_len(self) -> int:
        return len(self.request.prompt)

    @property
    def output_len(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def uncomputed(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def max_len(self) -> int:
        """Most tokens it can ever have; the last one's state is never needed."""
        return len(self.request.prompt) + self.request.max_tokens

    @property
    def key(self) -> tuple[str, int]:
        return (self.request.id, self.index)

    @property
    def finished(self) -> bool:
        return self.status is Status.FINISHED

    def set_wait(self, cause: Wait | None, now: float, detail: str = "") -> None:
        """Note what it waits for from ``now`` on, and book the time under the cause before."""
        if self.wait is not None:
            self.waits[self.wait] = self.waits.get(self.wait, 0.0) + (now - self.wait_since)
        self.wait, self.wait_detail, self.wait_since = cause, detail, now
