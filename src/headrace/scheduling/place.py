"""Place: how many of those that wait would start before a newcomer."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence as Listing
from math import ceil, inf
from typing import Any

from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.nouns.tenant import Tenants


def place(
    request: Request, waiting: Listing[Sequence], order: Any, tenants: Tenants, now: float
) -> int:
    """A number in [0, len(waiting)]; ``waiting`` is in the queue's order.

    An order that shares out by tenant (``served``) or goes by latest starts (``latest_start``) is
    asked so; of others that keep their queue themselves the newcomer comes last; else keys decide.
    Changes nothing, so that any thread may ask.
    """
    newcomer = Sequence.of(request, 0)
    if hasattr(order, "latest_start"):
        return _by_latest_start(newcomer, waiting, order, now)
    if hasattr(order, "served"):
        return _by_share(request, waiting, tenants)
    if hasattr(order, "queue"):
        return len(waiting)
    newcomer.ticket = max((seq.ticket for seq in waiting), default=0) + 1
    key = order.key(newcomer, now)
    return bisect_right(waiting, key, key=lambda seq: order.key(seq, now))


def _by_latest_start(newcomer: Sequence, waiting: Listing[Sequence], order: Any, now: float) -> int:
    """Who has no target follows those who have; who is late follows all that are not."""
    latest = order.latest_start(newcomer)
    if latest < now:
        return len(waiting)
    count = 0
    for seq in waiting:
        start = order.latest_start(seq)
        in_time = start >= now or seq.first_token_at is not None
        if in_time and (start <= latest or latest == inf):
            count += 1
    return count


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
