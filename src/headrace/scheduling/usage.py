"""Usage: how many sequences each tenant has waiting and running, and who may start no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from headrace.nouns.sequence import Sequence, Status
from headrace.nouns.tenant import Tenants


class Usage:
    """Counts by tenant; tenants without any sequence are forgotten.

    ``full`` are the tenants that have as many running as their terms allow, with that limit. One
    thread writes; single counts may be read from any.
    """

    def __init__(self, tenants: Tenants) -> None:
        self.full: dict[str, int] = {}
        self._tenants = tenants
        self._waiting: dict[str, int] = {}
        self._running: dict[str, int] = {}

    def waiting(self, tenant: str) -> int:
        return self._waiting.get(tenant, 0)

    def running(self, tenant: str) -> int:
        return self._running.get(tenant, 0)

    def queued(self, seq: Sequence) -> None:
        """``seq`` waits, for the first time."""
        _add(self._waiting, seq.request.tenant, 1)

    def started(self, seq: Sequence) -> None:
        """``seq`` has left the queue and runs."""
        tenant = seq.request.tenant
        _add(self._waiting, tenant, -1)
        count = _add(self._running, tenant, 1)
        limit = self._tenants.terms(tenant).max_running
        if limit is not None and count >= limit:
            self.full[tenant] = limit

    def yielded(self, seq: Sequence) -> None:
        """``seq`` was preempted and waits again."""
        self._stopped(seq.request.tenant)
        _add(self._waiting, seq.request.tenant, 1)

    def left(self, seq: Sequence) -> None:
        """``seq`` is about to end; its status still says from where."""
        if seq.status is Status.WAITING:
            _add(self._waiting, seq.request.tenant, -1)
        else:
            self._stopped(seq.request.tenant)

    def check_integrity(self, waiting: Iterable[Sequence], running: Iterable[Sequence]) -> None:
        """The counts are those of the sequences, and no tenant runs more than it may."""
        assert self._waiting == Counter(seq.request.tenant for seq in waiting)
        assert self._running == Counter(seq.request.tenant for seq in running)
        limits = {tenant: self._tenants.terms(tenant).max_running for tenant in self._running}
        for tenant, count in self._running.items():
            limit = limits[tenant]
            assert limit is None or count <= limit, f"{tenant} runs {count}, more than {limit}"
            assert (limit == count) == (tenant in self.full), f"{tenant} is full, or not"
        assert self.full.keys() <= self._running.keys(), "a tenant without sequences is full"

    def _stopped(self, tenant: str) -> None:
        _add(self._running, tenant, -1)
        self.full.pop(tenant, None)


def _add(counts: dict[str, int], tenant: str, change: int) -> int:
    count = counts.get(tenant, 0) + change
    if count:
        counts[tenant] = count
    else:
        counts.pop(tenant, None)
    return count
