"""Queue order: each tenant gets its share of the computed tokens."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace

from headrace.nouns.sequence import Sequence
from headrace.nouns.tenant import Tenants
from headrace.scheduling.lanes import LanedQueue
from headrace.scheduling.policy import Queue, Surroundings

INPUT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
MOST_IDLE = 4096


class FairShares:
    """Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI '24,
    arXiv:2401.00588, algorithms 2 and 4).

    Every tenant has a counter of the service it got, divided by its weight: prompt tokens when a
    sequence starts, output tokens as they are won, an output token for ``OUTPUT_WEIGHT`` prompt
    tokens. The tenant with the smallest counter starts next, its own sequences by arrival. One
    that comes back from idleness is lifted to the smallest counter of those that wait, so that
    nobody saves up. What the prefix cache gives for nothing and what is computed again after a
    preemption are not charged. Work-conserving: whoever waits alone gets everything.

    Bound (their theorem 4.4): while two tenants both have sequences waiting, what they were served
    differs, divided by their weights, by at most ``2 * max(INPUT_WEIGHT * L, OUTPUT_WEIGHT * M)``
    over the smaller weight; L is the longest prompt, M the tokens that memory holds. For tenants
    at their ``max_running``, or behind a prefix that another is computing, it does not hold. No
    stream of ever new tenants keeps one waiting either: should the smallest counter stay behind
    what everybody could have been served by more than counters can be apart, newcomers are lifted
    beyond it.

    Running sequences keep the rank of their first start, the counter before it: whoever starts
    later comes to rank behind them. Idle tenants are forgotten once everybody waiting has been
    served as much as they, and beyond ``MOST_IDLE`` of them those least ahead.
    """

    dynamic = False

    def __init__(self) -> None:
        self._tenants = Tenants()
        self._counters: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._sequences: dict[str, int] = {}  # of each tenant, waiting or running
        self._starts: dict[Sequence, float] = {}  # counters before the first starts
        self._idle: list[tuple[float, str]] = []  # a heap of tenants without sequences
        self._last_waited: tuple[str, float] = ("", 0.0)  # of all tenants the last, its counter
        self._queue = FairQueue(self.served, self._nobody_waits)
        self._virtual = 0.0  # what each tenant would have been served if all counters were level
        self._active = 0.0  # weights of the tenants with sequences
        self._apart = float("inf")  # most that counters of waiting tenants can be apart

    def bind(self, surroundings: Surroundings) -> None:
        self._tenants = surroundings.tenants
        memory = surroundings.memory
        lightest = min(
            terms.weight for terms in (*self._tenants.named.values(), self._tenants.others)
        )
        # A prompt fits into memory, so outputs bound it.
        self._apart = OUTPUT_WEIGHT * memory.total * memory.block_size / lightest

    def queue(self) -> Queue:
        return self._queue

    def served(self, tenant: str) -> float:
        """The tenant's counter: service by weight, and what it was lifted by."""
        return self._counters.get(tenant, 0.0)

    def key(self, seq: Sequence, now: float) -> tuple[float, float, int]:
        start = self._starts.get(seq)
        counter = self._counters[seq.request.tenant] if start is None else start
        return (counter, seq.request.arrival, seq.ticket)

    def arrived(self, seq: Sequence, now: float) -> None:
        tenant = seq.request.tenant
        if tenant not in self._sequences:
            self._sequences[tenant] = 0
            self._weights[tenant] = weight = self._tenants.terms(tenant).weight
            self._active += weight
        self._sequences[tenant] += 1
        counter = self._counters.get(tenant, 0.0)
        if tenant not in self._queue.lanes:
            least = self._least()
            self._virtual = min(max(self._virtual, least), least + 2 * self._apart)
            counter = max(counter, least, self._virtual - self._apart)
        self._counters[tenant] = counter

    def admitted(self, seq: Sequence, found: int, now: float) -> None:
        tenant = seq.request.tenant
        if seq not in self._starts:
            self._starts[seq] = self._counters[tenant]
            self._charge(tenant, INPUT_WEIGHT * (seq.prompt_len - min(found, seq.prompt_len)))

    def computed(self, seq: Sequence, tokens: int, won: int, now: float) -> None:
        if won:
            self._charge(seq.request.tenant, OUTPUT_WEIGHT * won)

    def ended(self, seq: Sequence, now: float) -> None:
        self._starts.pop(seq, None)
        tenant = seq.request.tenant
        self._sequences[tenant] -= 1
        if not self._sequences[tenant]:
            del self._sequences[tenant]
            self._active -= self._weights.pop(tenant)
            heappush(self._idle, (self._counters[tenant], tenant))
            self._forget()

    def _nobody_waits(self, last: str) -> None:
        self._last_waited = (last, self._counters[last])

    def _charge(self, tenant: str, service: float) -> None:
        counter = self._counters[tenant] + service / self._weights[tenant]
        self._counters[tenant] = counter
        self._virtual += service / self._active
        if tenant == self._last_waited[0]:
            self._last_waited = (tenant, counter)

    def _least(self) -> float:
        """The smallest counter of those who wait; if nobody does, of the last who did."""
        first = self._queue.first_tenant()
        return self._last_waited[1] if first is None else self._counters[first]

    def _forget(self) -> None:
        """Drops idle tenants whose counters would be lifted anyway, and those too many."""
        least = self._least() if self._sequences else float("inf")
        while self._idle and (self._idle[0][0] <= least or len(self._idle) > MOST_IDLE):
            counter, tenant = heappop(self._idle)
            if tenant not in self._sequences and self._counters.get(tenant) == counter:
                del self._counters[tenant]
        if not self._sequences:
            self._last_waited = ("", 0.0)
            self._virtual = self._active = 0.0
            self._queue.counters_fell()


class FairQueue(LanedQueue[str]):
    """A lane for each tenant; ``served`` gives a tenant's counter, which only grows.

    ``emptied`` is told the tenant whose last sequence left when nobody else waits.
    """

    def __init__(self, served: Callable[[str], float], emptied: Callable[[str], None]) -> None:
        super().__init__(self.first_shown, self._show_again)
        self._emptied = emptied
        self._served = served
        # Tenants with somebody to show, by counters that are at most too small.
        self._heads: list[tuple[float, str]] = []
        self._all_shown: list[str] = []
        self._known: set[str] = set()  # those in either

    def push(self, seq: Sequence, now: float) -> None:
        tenant = seq.request.tenant
        self.put(seq, tenant, seq.request.arrival)
        if tenant not in self._known:
            self._known.add(tenant)
            heappush(self._heads, (self._served(tenant), tenant))

    def first_tenant(self) -> str | None:
        """The tenant whose turn it is."""
        self.clear_view()
        return self.first_shown()

    def first_shown(self) -> str | None:
        """The tenant with the smallest counter of those with somebody to show."""
        heads = self._heads
        while heads:
            counter, tenant = heads[0]
            lane = self.lanes.get(tenant)
            if lane is None:
                heappop(heads)
                self._known.remove(tenant)
            elif lane.shown == len(lane.entries):
                heappop(heads)
                self._all_shown.append(tenant)
            elif counter != self._served(tenant):
                heapreplace(heads, (self._served(tenant), tenant))
            else:
                return tenant
        return None

    def counters_fell(self) -> None:
        """All counters start anew; nobody waits."""
        assert not self.lanes, "sequences wait whose tenants have none"
        self._heads.clear()
        self._all_shown.clear()
        self._known.clear()

    def _take(self, seq: Sequence) -> None:
        super()._take(seq)
        if not self.lanes:
            self._emptied(seq.request.tenant)

    def _show_again(self) -> None:
        for tenant in self._all_shown:
            heappush(self._heads, (self._served(tenant), tenant))
        self._all_shown.clear()
