"""Place: how many of those that wait would start before a newcomer."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence as Listing
from math import ceil
from typing import Any

from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.nouns.tenant import Tenants


def place(
    request: Request, waiting: Listing[Sequence], order: Any, tenants: Tenants, now: float
) -> int:
    """A number in [0, len(waiting)]; ``waiting`` is in the queue's order.

    Of orders that keep their queue themselves, one that goes by due times (``due``) is asked for
    them, one that shares out by tenant (``served``) is taken to give each its share, and in others
    the newcomer comes last; else keys decide. Changes nothing, so that any thread may ask.
    """
    newcomer = Sequence.of(request, 0)
    if hasattr(order, "due"):
        return _by_due_time(newcomer, waiting, order, now)
    if hasattr(order, "served"):
        return _by_share(request, waiting, tenants)
    if hasattr(order, "queue"):
        return len(waiting)
    newcomer.ticket = max((seq.ticket for seq in waiting), default=0) + 1
    key = order.key(newcomer, now)
    return bisect_right(waiting, key, key=lambda seq: order.key(seq, now))


def _by_due_time(newcomer: Sequence, waiting: Listing[Sequence], order: Any, now: float) -> int:
    """Who has no target follows those who have; who is late follows all that are not."""
    due, late = order.due(newcomer), order.queue().late
    if due < now:
        return len(waiting)
    return sum(seq not in late and order.due(seq) <= due for seq in waiting)


def _by_share(request: Request, waiting: Listing[Sequence], tenants: Tenants) -> int:
    """By the time that its tenant has been served all it has waiting, and this one, others have
    been served as many by weight, or all of theirs."""
    counts = Counter(seq.request.tenant for seq in waiting)
    own = counts.pop(request.tenant, 0)
    rounds = own / tenants.terms(request.tenant).weight
    others = (
        min(count, ceil(rounds * tenants.terms(tenant).weight)) for tenant, count in counts.items()
    )
    return own + sum(others)
