"""CountSearch: the least number of instances that meets targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Trial(Protocol):
    """What came of trying a number of instances."""

    @property
    def meets(self) -> bool: ...


Found = TypeVar("Found", bound=Trial)


@dataclass(slots=True)
class CountSearch(Generic[Found]):
    """``attempt(count)`` says what becomes of so many instances; no number is tried twice.

    More instances are taken to do no worse, which makes halving possible; ``check`` tests that
    around the number found. ``trials`` are all that were made, by number.
    """

    attempt: Callable[[int], Found]
    trials: dict[int, Found] = field(default_factory=dict)

    def least(self, low: int, high: int) -> int | None:
        """The least number from ``low`` to ``high`` that meets the targets; None if none does.

        Doubles from ``low`` until a number meets them, then halves the gap below.
        """
        failing, count = low - 1, low
        while not self._meets(count):
            if count >= high:
                return None
            failing, count = count, min(2 * count, high)
        while count - failing > 1:
            middle = (count + failing) // 2
            if self._meets(middle):
                count = middle
            else:
                failing = middle
        return count

    def check(self, count: int, low: int, high: int) -> list[str]:
        """Where more instances do worse around ``count``, or fewer than ``low`` do, in words.

        Tries the next number, and the one below where that was only ruled out by a bound.
        """
        found = []
        if count < high and not self._meets(count + 1):
            found.append(f"{count} meet the targets and {count + 1} do not")
        if count == low > 1 and self._meets(count - 1):
            found.append(f"{count - 1} meet the targets, fewer than the bound of {low}")
        return found

    def _meets(self, count: int) -> bool:
        if count not in self.trials:
            self.trials[count] = self.attempt(count)
        return self.trials[count].meets
