"""OutputLengths: how long answers get, learnt from those that have ended."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Listing
from typing import Any

from headrace.nouns.request import Request
from headrace.nouns.sequence import FinishReason, Sequence

WINDOW = 1000
"""Lengths kept for each class, the last ones seen (as in Past-Future, section 4)."""
CLASSES = 128
"""Classes kept; the one that nobody ended in for longest makes room."""
ENOUGH = 16
"""A class is asked if so many of its sequences came further than the one in question."""
REFRESH = 16
"""A class's distribution is computed anew once a 16th of its window has changed."""
LONGEST = 1 << 30

Key = tuple[str | None, str | None]
EVERYBODY: Key = (None, None)


class LengthTable:
    """Product-limit estimate of a distribution of lengths (Kaplan and Meier, JASA 53, 1958).

    Made from whole numbers: ``l`` is a sequence that ended of its own accord with its l-th token,
    ``-l`` one that was cut off after l tokens and would have become longer. Counting the latter
    as if they had ended would make every prediction too short where clients differ in what they
    allow. Without any cut off this is the distribution of the lengths seen.
    """

    __slots__ = ("_ended", "_ends", "_reached")

    def __init__(self, seen: Iterable[int]) -> None:
        signed = sorted(seen, key=lambda length: (abs(length), length < 0))
        self._reached = [abs(length) for length in signed]  # ascending
        self._ends: list[int] = []  # lengths at which somebody ended, ascending
        self._ended: list[float] = []  # the share that is no longer than each of them
        left, at_risk = 1.0, len(signed)
        for length in signed:
            if length > 0:
                left *= 1 - 1 / at_risk
                if self._ends and self._ends[-1] == length:
                    self._ended[-1] = 1 - left
                else:
                    self._ends.append(length)
                    self._ended.append(1 - left)
            at_risk -= 1

    @property
    def longest(self) -> int:
        """The most tokens that any of them had, cut off or not."""
        return self._reached[-1] if self._reached else 0

    def beyond(self, produced: int) -> int:
        """How many of those seen had more than ``produced`` tokens."""
        return len(self._reached) - bisect_right(self._reached, produced)

    def ended_by(self, length: int) -> float:
        """The share that is at most ``length`` long."""
        at = bisect_right(self._ends, length)
        return self._ended[at - 1] if at else 0.0

    def draws(self, produced: int, us: Listing[float]) -> list[int | None]:
        """Quantiles of the length of one that has ``produced`` tokens and goes on: for each u in
        [0, 1) the least length with more than u of the probability at or below it. None if that
        is longer than any that ended."""
        ends, ended = self._ends, self._ended
        first = bisect_right(ends, produced)
        gone = ended[first - 1] if first else 0.0
        last = len(ends) - 1
        found: list[int | None] = []
        for u in us:
            at = bisect_right(ended, gone + u * (1 - gone), first)
            if at > last and ended and ended[-1] == 1.0:
                at = last
            found.append(ends[at] if at <= last else None)
        return found


class _Class:
    """The last lengths of one class, and their distribution as of a while ago."""

    __slots__ = ("_changed", "_table", "seen")

    def __init__(self, seen: Iterable[int], window: int) -> None:
        self.seen = deque(seen, maxlen=window)
        self._table = LengthTable(self.seen)
        self._changed = 0

    def add(self, length: int) -> None:
        self.seen.append(length)
        self._changed += 1

    def table(self) -> LengthTable:
        if self._changed and self._changed * REFRESH >= len(self.seen):
            self._table, self._changed = LengthTable(self.seen), 0
        return self._table


class OutputLengths:
    """Distributions of output lengths by (tenant, category), by tenant, and of everybody.

    The finest class is asked in which ``ENOUGH`` sequences came further than the one in question;
    failing that, the one in which most did. Where none did, any length up to the request's bound
    is held equally likely. Sequences that end in an error or by an abort, or at their bound, count
    as cut off; those that could never end before their bound teach nothing and are left out.

    Bounded: ``window`` lengths in each of ``classes`` classes. After the history of the
    Past-Future scheduler (arXiv:2507.10150, section 4), by class.
    """

    def __init__(self, window: int = WINDOW, classes: int = CLASSES) -> None:
        self._window, self._limit = window, classes
        self._everybody = _Class((), window)
        self._classes: dict[Key, _Class] = {}  # the one used longest ago first
        self.observed = 0  # since it was made

    def __len__(self) -> int:
        """How many classes it keeps beside everybody's."""
        return len(self._classes)

    @property
    def known(self) -> int:
        """How many lengths of everybody's it keeps."""
        return len(self._everybody.seen)

    def observe(self, seq: Sequence) -> None:
        """A sequence has ended."""
        produced = seq.output_len
        if not produced or cannot_end_early(seq.request):
            return
        length = produced if seq.finish_reason is FinishReason.STOP else -produced
        self.observed += 1
        self._everybody.add(length)
        for key in _keys(seq.request):
            known = self._classes.pop(key, None) or _Class((), self._window)
            known.add(length)
            self._classes[key] = known
        while len(self._classes) > self._limit:
            del self._classes[next(iter(self._classes))]

    def draws(self, request: Request, produced: int, us: Listing[float]) -> list[int]:
        """Whole output lengths that ``request`` may come to, having ``produced`` tokens and going
        on: one for each u in [0, 1), the quantile of that share. In (produced, max_tokens]."""
        bound = request.max_tokens
        if produced >= bound or cannot_end_early(request):
            return [bound] * len(us)
        table = self._table(request, produced)
        if table is None:
            return [produced + 1 + int(u * (bound - produced)) for u in us]
        return [
            min(self._beyond(table, produced, bound, u) if length is None else length, bound)
            for u, length in zip(us, table.draws(produced, us), strict=True)
        ]

    def quantile(self, request: Request, produced: int, share: float) -> int:
        """The output length that ``request`` keeps within with probability ``share``, below 1."""
        return self.draws(request, produced, (share,))[0]

    def _table(self, request: Request, produced: int) -> LengthTable | None:
        """The finest class that knows enough of sequences longer than ``produced``."""
        best, most = None, 0
        for key in (*_keys(request), EVERYBODY):
            known = self._everybody if key == EVERYBODY else self._classes.get(key)
            if known is None:
                continue
            table = known.table()
            beyond = table.beyond(produced)
            if beyond >= ENOUGH:
                return table
            if beyond > most:
                best, most = table, beyond
        return best

    @staticmethod
    def _beyond(table: LengthTable, produced: int, bound: int, u: float) -> int:
        """Longer than all that ended: anything from the longest one seen to the bound."""
        gone, known = table.ended_by(produced), table.ended_by(table.longest)
        start = max(produced, min(table.longest, bound - 1))
        within = (known - gone) / (1 - gone)  # u is at least this
        share = (u - within) / (1 - within)
        return start + 1 + int(max(0.0, share) * (bound - start))

    def to_json(self) -> dict[str, Any]:
        """Plain data with all that it has learnt; ``restore`` takes it back."""
        return {
            "classes": [
                {"tenant": tenant, "category": category, "lengths": list(known.seen)}
                for (tenant, category), known in [
                    (EVERYBODY, self._everybody),
                    *self._classes.items(),
                ]
                if known.seen
            ]
        }

    def restore(self, data: object) -> None:
        """Takes over what ``to_json`` gave, in place of what it knows. Raises ValueError."""
        classes = data.get("classes") if isinstance(data, dict) else None
        if not isinstance(classes, list):
            raise ValueError("it has no list of classes")
        found = dict(_parsed(entry) for entry in classes)
        everybody = found.pop(EVERYBODY, [])
        self._everybody = _Class(everybody, self._window)
        newest = list(found.items())[-self._limit :] if self._limit else []
        self._classes = {key: _Class(lengths, self._window) for key, lengths in newest}


def cannot_end_early(request: Request) -> bool:
    """True if nothing but its bound ends it: no end token, no stop token, no stop string."""
    return not (request.eos_ids or request.params.stop_token_ids or request.params.stop)


def _keys(request: Request) -> tuple[Key, ...]:
    tenant, category = request.tenant, request.category
    return ((tenant, category), (tenant, None)) if category else ((tenant, None),)


def _parsed(entry: object) -> tuple[Key, list[int]]:
    """One class as ``to_json`` writes it. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("a class is no object")
    tenant, category, lengths = (entry.get(k) for k in ("tenant", "category", "lengths"))
    if not all(name is None or isinstance(name, str) for name in (tenant, category)):
        raise ValueError("the name of a tenant or category is no string")
    if tenant is None and category is not None:
        raise ValueError("a category has no tenant")
    if not isinstance(lengths, list) or not all(
        type(length) is int and 0 < abs(length) <= LONGEST for length in lengths
    ):
        raise ValueError(f"lengths are not whole numbers from 1 to {LONGEST}")
    return (tenant, category), lengths
