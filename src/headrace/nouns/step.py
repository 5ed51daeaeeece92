"""Slice, Step and StepResult: the unit of everything scheduled, run, simulated and explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from headrace.nouns.sequence import Sequence


class Slice(NamedTuple):
    """Tokens ``[start, start + length)`` of a sequence, to be computed in one step.

    ``samples`` is true when the slice ends at the sequence's last known token, so that its
    logits choose the next one. An executor reads the sequence during ``submit`` only.
    """

    sequence: Sequence
    start: int
    length: int
    samples: bool

    @property
    def end(self) -> int:
        return self.start + self.length


class Step(NamedTuple):
    """A frozen set of slices plus memory moves.

    ``copies`` are (source, destination) block ids, done before anything is computed; all sources
    are read before any destination is written.
    ``padding`` rows are computed and thrown away (request-level batching pads; nothing else does).
    ``budget`` is the token budget it was planned under, ``reason`` why it looks as it does.
    ``steady`` sequences have a row each beside the slices and see ``steady_pairs`` positions
    together; only simulated steps have any (see ``scheduling.cohort``).
    """

    id: int
    slices: tuple[Slice, ...]
    copies: tuple[tuple[int, int], ...] = ()
    padding: int = 0
    budget: int = 0
    planned_at: float = 0.0
    reason: str = ""
    steady: int = 0
    steady_pairs: int = 0

    @property
    def tokens(self) -> int:
        """Rows computed for somebody (padding excluded)."""
        return sum([s.length for s in self.slices]) + self.steady


@dataclass(frozen=True, slots=True)
class Work:
    """What a step has to do at least: ``operations`` (a multiplication and an addition are two),
    ``bytes`` to and from memory, and the ``seconds`` that the machine needs for both."""

    operations: float
    bytes: float
    seconds: float


class Sampled(NamedTuple):
    """The token that a sampling slice chose, or the error that ends its sequence.

    ``logprob`` and ``top`` (token id, log-probability; most likely first) are set when asked for.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: str | None = None


class StepResult(NamedTuple):
    """What an executor made of a step: one entry per slice, None where nothing was sampled.

    ``elapsed`` is the step's own time in seconds. ``error`` is set when the step as a whole
    failed; then every sequence in it ends with that error and nothing was computed. ``work`` is
    what it had to do, where the executor knows the machine's limits.
    """

    step_id: int
    sampled: tuple[Sampled | None, ...]
    elapsed: float = 0.0
    error: str | None = None
    work: Work | None = None
