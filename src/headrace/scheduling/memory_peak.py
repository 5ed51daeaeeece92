"""The most memory that sequences will use at once, from how long each of them goes on."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, count
from operator import add, mul


class Peak:
    """The course of memory use if the t-th step from now needs (base + t) // size blocks for each
    (steps left, base) with t <= steps left.

    Use grows until somebody ends, so that only last steps are looked at: with n sequences sorted
    by what is left, n moments (Past-Future, arXiv:2507.10150, section 4.2). ``tokens`` bounds
    size times the most blocks from above, as if blocks could be split. O(n log n).
    """

    __slots__ = ("_from", "_ordered", "_size", "_use", "tokens")

    def __init__(self, sequences: Iterable[tuple[int, int]], size: int, until: int) -> None:
        """``until`` is how many steps one of them has left; see ``excess``."""
        ordered = sorted(sequences, reverse=True)  # who ends last comes first
        lefts = [left for left, _ in ordered]
        held = accumulate([base for _, base in ordered])
        self._use = list(map(add, held, map(mul, count(1), lefts)))
        self.tokens = max(self._use)
        self._from = lefts.index(until)
        self._ordered, self._size = ordered, size

    def excess(self, room: int) -> tuple[int, int] | None:
        """How many blocks are in use, and in how many steps, at a moment within ``until`` at which
        it is more than ``room``; None if there is none. The moment is not always the worst one."""
        size, start = self._size, self._from
        use = self._use[start:]
        most = max(use)
        if most < (room + 1) * size:
            return None
        when = self._ordered[start + use.index(most)][0]
        if (used := self._at(when)) > room:
            return used, when
        # Sums do not tell: blocks are whole, and how full the last ones are differs by moment.
        blocks, rests = 0, [0] * size  # of those not ended: how many have which remainder
        for alive, (left, base) in enumerate(self._ordered, 1):
            blocks += base // size
            rests[base % size] += 1
            if alive > start:
                more, rest = divmod(left, size)
                if blocks + alive * more + sum(rests[size - rest :]) > room:
                    return self._at(left), left
        return None

    def _at(self, when: int) -> int:
        """Blocks in use in a step."""
        size = self._size
        return sum([(base + when) // size for left, base in self._ordered if left >= when])
