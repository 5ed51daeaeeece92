"""The four policies a scheduler is composed of, as protocols, and what they may look at.

Each policy answers one question. All of them are deterministic functions of what they are given;
none reads a clock. Third parties register their own through entry points (see ``registry``).

Any policy may also have the methods of ``Bound`` and ``Observer``, each of them or none: the
scheduler calls those that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.nouns.event import Sink
from headrace.nouns.sequence import Sequence, Wait
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.nouns.tenant import Tenants
from headrace.scheduling.limits import Limits

Rank = Callable[[Sequence], Any]


class OrderPolicy(Protocol):
    """Who is next in the queue?"""

    dynamic: bool
    """True if keys change while sequences wait, so that the queue is sorted for every plan."""

    def key(self, seq: Sequence, now: float) -> Any:
        """Sort key; the smallest is served first. Ties go to the lower ticket.

        Also ranks running sequences: when memory is short, larger keys yield first.
        """
        ...


class Queue(Protocol):
    """Sequences that wait, in the order in which they are to start."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence]: ...

    def __getitem__(self, position: int) -> Sequence: ...

    def push(self, seq: Sequence, now: float) -> None: ...

    def pop(self, position: int) -> Sequence: ...

    def remove(self, seq: Sequence, now: float) -> None:
        """Takes out a sequence wherever it is. Raises ValueError if it is not waiting."""
        ...

    def refresh(self, now: float) -> None:
        """A step is about to be planned."""
        ...

    def check_integrity(self) -> None: ...


class Queueing(Protocol):
    """An order that keeps its queue itself, where keys that stay as they are cannot say it.

    Its ``key`` ranks running sequences; a rank is fixed when a sequence starts unless ``dynamic``.
    """

    def queue(self) -> Queue:
        """A new, empty queue; called once."""
        ...


class MemoryView(Protocol):
    """What an admission policy may ask of the memory, in blocks of ``block_size`` tokens."""

    block_size: int

    @property
    def total(self) -> int: ...

    @property
    def available(self) -> int: ...

    def blocks_for(self, tokens: int) -> int: ...

    def missing(self, seq: Sequence, upto: int) -> int: ...

    def cost(self, seq: Sequence, upto: int) -> int: ...

    def shared(self, seq: Sequence) -> int: ...

    def held_prefix(self, seq: Sequence) -> list[int]: ...


class AdmissionPolicy(Protocol):
    """May this sequence start now?

    One that does not look into ``running`` (but perhaps at its length) may say so by an attribute
    ``looks_at_running`` that is false; simulations are the faster for it.
    """

    def refusal(self, seq: Sequence, running: list[Sequence], memory: MemoryView) -> str | None:
        """None to admit, otherwise the reason to wait (a short clause for people to read).

        Must admit when nothing is running: the scheduler accepts only sequences that fit alone.
        """
        ...


class PlanningRound(Protocol):
    """What a batching policy may do while a step is planned."""

    now: float
    """Seconds on the engine's clock."""
    budget: int
    """Tokens that a step should compute at most."""
    limit: int
    """Tokens that a step can compute at most (the executor's workspace)."""
    spent: int
    """Tokens scheduled in this round so far."""
    max_sequences: int

    def running(self) -> list[Sequence]:
        """Started sequences that may be scheduled, best rank first."""
        ...

    def decode_all(self) -> None:
        """Takes one row of every started sequence that has just one left, best rank first.

        ``spent`` says how many. Those without room yield, as with ``take``. It is the same as
        taking them one by one, and what policies should prefer: a simulation need not touch each.
        """
        ...

    def prefilling(self) -> list[Sequence]:
        """Those of ``running`` that have more than one token uncomputed."""
        ...

    def load(self) -> StepLoad:
        """The counts of what is in the step so far."""
        ...

    def decoding(self) -> list[Sequence]:
        """The sequences that decode a token in the step so far."""
        ...

    def head(self) -> Sequence | None:
        """Who comes first in the queue of those that ``admit`` has not passed over."""
        ...

    def take(self, seq: Sequence, length: int) -> bool:
        """Computes the next ``length`` tokens of a running sequence in this step.

        Makes room by preempting worse-ranked sequences if it must. False if the sequence itself
        had to yield or has yielded before in this round.
        """
        ...

    def admit(self, wait_for_prefix: bool = True) -> Sequence | None:
        """Starts the next sequence of the queue, or None when none may start now.

        With ``wait_for_prefix`` a sequence whose next blocks another one is computing is passed
        over until they are ready.
        """
        ...

    def pad(self, rows: int) -> None:
        """Adds rows that are computed and thrown away."""
        ...

    def hold(self, cause: Wait, detail: str) -> None:
        """States why the queue's head waits, when the policy itself is the reason."""
        ...


class BatchingPolicy(Protocol):
    """How is this step's token budget spent?

    One whose ``fill``, when nobody can start and nobody has more than one token uncomputed, does
    just ``decode_all`` may say so by a true attribute ``only_decodes``; simulations are the faster.
    """

    def fill(self, round: PlanningRound) -> str:
        """Schedules slices through ``round``; returns the reason for the step's shape."""
        ...


class PreemptionPolicy(Protocol):
    """Memory is short: who yields?

    The victim's blocks are released; it returns to the queue and is computed again later.
    """

    def victim(self, candidates: list[Sequence], needy: Sequence, rank: Rank) -> Sequence:
        """One of ``candidates`` (never empty; ``needy`` is among them)."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a policy may know of the scheduler it is part of.

    ``cost`` predicts step times; None where nothing was measured.
    """

    memory: MemoryView
    limits: Limits
    tenants: Tenants
    cost: StepCost | None
    emit: Sink


class Bound(Protocol):
    """A policy that wants to know its surroundings."""

    def bind(self, surroundings: Surroundings) -> None:
        """Called once, before anything else."""
        ...


class Observer(Protocol):
    """A policy that keeps account of what happens."""

    def arrived(self, seq: Sequence, now: float) -> None:
        """``seq`` is about to be queued for the first time."""
        ...

    def admitted(self, seq: Sequence, found: int, now: float) -> None:
        """``seq`` has left the queue and runs; the state of ``found`` tokens was there already."""
        ...

    def computed(self, seq: Sequence, tokens: int, won: int, now: float) -> None:
        """A step has computed ``tokens`` tokens of ``seq``, which is about to get ``won`` more."""
        ...

    def preempted(self, seq: Sequence, lost: int, now: float) -> None:
        """``seq`` gave up its blocks, with the state of ``lost`` tokens; it waits again."""
        ...

    def ended(self, seq: Sequence, now: float) -> None:
        """``seq`` has finished, for whatever reason."""
        ...
