"""Delta: what one sequence gained in a step, as its client sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.nouns.sequence import FinishReason


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one output token and of the most likely ones at its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one sequence; ``cached`` prompt tokens were not computed again."""

    prompt: int
    completion: int
    cached: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens and new text of sequence ``index`` of a request.

    ``text`` only ever appends: it never holds a broken character nor the start of a stop string
    that might still complete, so it can lag behind ``tokens``. The last delta of a sequence has
    a ``finish_reason`` and a ``usage``; ``waits`` are the seconds it waited, by cause.
    """

    request_id: str
    index: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    usage: Usage | None = None
    waits: Mapping[str, float] = field(default_factory=dict)
