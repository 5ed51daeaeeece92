"""Queue orders: first come first served, and by priority."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence


class FirstComeFirstServed:
    """By arrival."""

    dynamic = False

    def key(self, seq: Sequence, now: float) -> tuple[float, int]:
        return (seq.request.arrival, seq.ticket)


class ByPriority:
    """By the request's priority number (lower is served first), then by arrival.

    Starves low priorities under constant load; that is what a strict priority means.
    """

    dynamic = False

    def key(self, seq: Sequence, now: float) -> tuple[int, float, int]:
        return (seq.request.priority, seq.request.arrival, seq.ticket)
