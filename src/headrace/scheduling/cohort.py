"""Cohort: sequences that decode steadily, moved on together by one counter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.sequence import Sequence


class Foresight(Protocol):
    """Knows outputs before they are computed: a simulated executor."""

    def tokens_left(self, seq: Sequence) -> int:
        """Tokens that ``seq`` will still win before it ends, the last one included. All but that
        one are like the first."""
        ...


class Cohort:
    """Running sequences that win a token in every step until their known end. Simulation only.

    Between its joining and its end nothing can happen to such a sequence but that it computes a
    row and, now and then, takes a block. So a step moves one counter (``tick``) instead of each of
    them: a member has computed ``tick`` less its offset; a calendar of ``block_size`` days says how
    many need a block in a tick, and another one who ends. Members' own fields are brought up to
    date when somebody has to look at them (``settle``).

    ``running`` and ``loose`` are the scheduler's started sequences with their ranks: all, and
    those that are not members.
    """

    def __init__(
        self,
        memory: SequenceMemory,
        foresight: Foresight,
        running: dict[Sequence, Any],
        loose: dict[Sequence, Any],
    ) -> None:
        self.tick = 0
        self.flying = False  # a step with a row of each member is under way
        self._memory = memory
        self._size = memory.block_size
        self._foresight = foresight
        self._running, self._loose = running, loose
        self._offsets: dict[Sequence, int] = {}
        self._sum = 0  # of the offsets
        self._due = [0] * memory.block_size
        self._ends: dict[int, list[Sequence]] = {}
        self._purse: list[int] = []  # blocks taken for members and not yet given to them

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._offsets

    @property
    def computed(self) -> int:
        """Tokens whose state the members have, together."""
        return len(self._offsets) * self.tick - self._sum

    @property
    def due(self) -> int:
        """Blocks that the members need for their next row."""
        return self._due[self.tick % self._size]

    def join(self, seq: Sequence) -> None:
        """Takes in a sequence that has just won a token, if nobody shares what it writes."""
        request = seq.request
        if request.n > 1 or (request.common is None and self._memory.prefix_cache):
            return
        offset = self.tick - seq.computed
        self._offsets[seq] = offset
        self._sum += offset
        self._due[offset % self._size] += 1
        last = self.tick + self._foresight.tokens_left(seq) - 1
        self._ends.setdefault(last, []).append(seq)
        del self._loose[seq]

    def leave(self, seq: Sequence) -> None:
        """Lets a member go, up to date."""
        self._settle([(seq, self._offsets[seq])])
        last = self.tick + self._foresight.tokens_left(seq) - 1
        self._ends[last].remove(seq)
        if not self._ends[last]:
            del self._ends[last]
        self._drop(seq)

    def part(self) -> None:
        """Lets those go that would end by their next row."""
        ending = self._ends.pop(self.tick, ())
        self._settle([(seq, self._offsets[seq]) for seq in ending])
        for seq in ending:
            self._drop(seq)

    def dissolve(self) -> list[Sequence]:
        """Lets everybody go; who they were, in no order."""
        self.settle()
        members = list(self._offsets)
        for seq in members:
            self._loose[seq] = self._running[seq]
        self._offsets.clear()
        self._ends.clear()
        self._sum = 0
        self._due = [0] * self._size
        self.flying = False
        return members

    def coast(self, run: Callable[[int, int], bool]) -> int:
        """Moves on as long as everybody goes on, blocks suffice and ``run`` says so; how far.

        It is given the rows of a step and the positions that they see together.
        """
        rows, pairs = len(self._offsets), self.computed
        due, size, tick = self._due, self._size, self.tick
        left = self._memory.available
        for at in range(tick, min(self._ends)):
            pairs += rows
            left -= due[at % size]
            if left < 0 or not run(rows, pairs):
                left += due[at % size]
                break
            tick += 1
        self._purse += self._memory.pool.take_many(self._memory.available - left)
        ticks, self.tick = tick - self.tick, tick
        return ticks

    def depart(self) -> int:
        """A row of every member is in the step being planned: takes the blocks that they need."""
        due = self._due[self.tick % self._size]
        if due:
            self._purse += self._memory.pool.take_many(due)
        self.flying = bool(self._offsets)
        return len(self._offsets)

    def arrive(self) -> None:
        """That step is done: each has one token more."""
        self.tick += 1
        self.flying = False

    def settle(self) -> None:
        """Brings every member up to date."""
        self._settle(self._offsets.items())

    def check_integrity(self) -> None:
        """The calendars say what the members need."""
        missing = 0
        for seq, offset in self._offsets.items():
            reached = self.tick - offset
            missing += -(-(reached + self.flying) // self._size) - len(seq.blocks)
        assert missing == len(self._purse), f"{missing} blocks are missing, {len(self._purse)} kept"
        assert self._sum == sum(self._offsets.values())
        assert sum(self._due) == len(self._offsets) == sum(map(len, self._ends.values()))
        assert self._offsets.keys() | self._loose.keys() == self._running.keys()
        assert len(self._offsets) + len(self._loose) == len(self._running)

    def _settle(self, members: Iterable[tuple[Sequence, int]]) -> None:
        tick, size, purse = self.tick, self._size, self._purse
        ahead = size if self.flying else size - 1
        for seq, offset in members:
            computed = tick - offset
            gained = computed - seq.computed
            if gained:
                seq.tokens += seq.tokens[-1:] * gained
                seq.computed = computed
            blocks = (computed + ahead) // size - len(seq.blocks)
            if blocks:
                seq.blocks += purse[-blocks:]
                del purse[-blocks:]

    def _drop(self, seq: Sequence) -> None:
        offset = self._offsets.pop(seq)
        self._sum -= offset
        self._due[offset % self._size] -= 1
        self._loose[seq] = self._running[seq]
