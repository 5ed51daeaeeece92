"""LanedQueue: a queue made of several sorted ones, the next lane chosen anew for each start."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

from headrace.nouns.sequence import Sequence

Entry = tuple[Any, int, Sequence]  # key within the lane, ticket
Name = TypeVar("Name", bound=Hashable)


def _place(entry: Entry) -> tuple[Any, int]:
    return entry[:2]


class Lane:
    """Sequences sorted by a key that stays as it is while they wait; ties by ticket.

    The first ``shown`` are part of what was last seen of the queue.
    """

    __slots__ = ("entries", "shown")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.shown = 0

    @property
    def hidden(self) -> bool:
        """True if somebody is not shown."""
        return self.shown < len(self.entries)

    @property
    def next(self) -> Sequence:
        """The first that is not shown."""
        return self.entries[self.shown][2]


class LanedQueue(Generic[Name]):
    """Implements ``Queue``. ``choose`` names a lane with somebody to show, or None if none has.

    What was seen of the queue stays as it is until it changes; starts may change the choice, so
    after each the rest is chosen anew. ``lanes`` holds only lanes with somebody in them.
    """

    def __init__(
        self, choose: Callable[[], Name | None], reset: Callable[[], None] = lambda: None
    ) -> None:
        """``reset`` is called when all lanes show nobody any more."""
        self.lanes: dict[Name, Lane] = {}
        self._choose = choose
        self._reset = reset
        self._home: dict[Sequence, tuple[Name, Any]] = {}  # its lane and its key there
        self._view: list[tuple[Name, Sequence]] = []

    def __len__(self) -> int:
        return len(self._home)

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._home

    def __iter__(self) -> Iterator[Sequence]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Sequence:
        while len(self._view) <= position:
            name = self._choose()
            if name is None:
                raise IndexError(f"{len(self)} sequences wait; there is none at {position}")
            lane = self.lanes[name]
            self._view.append((name, lane.next))
            lane.shown += 1
        return self._view[position][1]

    def lane_of(self, seq: Sequence) -> Name:
        """The lane in which it waits."""
        return self._home[seq][0]

    def put(self, seq: Sequence, lane: Name, key: Any) -> None:
        """Adds a sequence to a lane."""
        self.clear_view()
        self._home[seq] = (lane, key)
        insort(self.lanes.setdefault(lane, Lane()).entries, (key, seq.ticket, seq), key=_place)

    def pop(self, position: int) -> Sequence:
        seq = self[position]
        before = self._view[:position] if position else []
        self._take(seq)
        for name, _ in before:  # those passed over stay passed over
            self.lanes[name].shown += 1
        self._view = before
        return seq

    def remove(self, seq: Sequence, now: float) -> None:
        if seq not in self._home:
            raise ValueError(f"sequence {seq.key} is not waiting")
        self._take(seq)

    def refresh(self, now: float) -> None:
        self.clear_view()

    def clear_view(self) -> None:
        """Forgets what was seen; the next look chooses anew."""
        if not self._view:
            return
        for name, _ in self._view:
            self.lanes[name].shown = 0
        self._view = []
        self._reset()

    def check_integrity(self) -> None:
        """Each lane is sorted, and everybody is where it is looked for."""
        for name, lane in self.lanes.items():
            assert lane.entries, "an empty lane is kept"
            places = [_place(entry) for entry in lane.entries]
            assert places == sorted(places), "the queue is out of order"
            for key, _, seq in lane.entries:
                assert self._home[seq] == (name, key), "a sequence is in another lane"
        count = sum(len(lane.entries) for lane in self.lanes.values())
        assert count == len(self._home) == len(list(self)), "a sequence is lost or kept twice"

    def _take(self, seq: Sequence) -> None:
        self.clear_view()
        name, key = self._home.pop(seq)
        entries = self.lanes[name].entries
        at = bisect_left(entries, (key, seq.ticket), key=_place)
        assert entries[at][2] is seq
        del entries[at]
        if not entries:
            del self.lanes[name]
