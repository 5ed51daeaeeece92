"""WaitingQueue: sequences that wait, in the order of a policy."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any

from headrace.nouns.sequence import Sequence
from headrace.scheduling.policy import OrderPolicy, Queue


def queue_for(order: OrderPolicy) -> Queue:
    """The order's own queue if it keeps one, otherwise one sorted by its keys."""
    make = getattr(order, "queue", None)
    queue: Queue = WaitingQueue(order) if make is None else make()
    return queue


class WaitingQueue:
    """Kept sorted by (key, ticket); sorted anew for each plan if the order is dynamic."""

    def __init__(self, order: OrderPolicy) -> None:
        self._order = order
        self._items: list[tuple[Any, int, Sequence]] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Sequence]:
        return (seq for _, _, seq in self._items)

    def __getitem__(self, position: int) -> Sequence:
        return self._items[position][2]

    def push(self, seq: Sequence, now: float) -> None:
        insort(self._items, self._entry(seq, now), key=lambda item: item[:2])

    def pop(self, position: int) -> Sequence:
        return self._items.pop(position)[2]

    def remove(self, seq: Sequence, now: float) -> None:
        """Takes out a sequence wherever it is. Raises ValueError if it is not waiting."""
        if not self._order.dynamic:
            at = bisect_left(self._items, self._entry(seq, now)[:2], key=lambda item: item[:2])
            if at < len(self._items) and self._items[at][2] is seq:
                del self._items[at]
                return
        for at, (_, _, other) in enumerate(self._items):
            if other is seq:
                del self._items[at]
                return
        raise ValueError(f"sequence {seq.key} is not waiting")

    def refresh(self, now: float) -> None:
        """Brings a dynamic order up to date."""
        if self._order.dynamic:
            self._items = [self._entry(seq, now) for _, _, seq in self._items]
            self._items.sort(key=lambda item: item[:2])

    def check_integrity(self) -> None:
        """It is sorted by keys that are still right."""
        entries = [item[:2] for item in self._items]
        assert entries == sorted(entries), "the queue is out of order"
        if not self._order.dynamic:
            keys = [(self._order.key(seq, 0.0), seq.ticket) for seq in self]
            assert keys == entries, "the queue is sorted by keys of the past"

    def _entry(self, seq: Sequence, now: float) -> tuple[Any, int, Sequence]:
        return (self._order.key(seq, now), seq.ticket, seq)
