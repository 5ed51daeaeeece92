"""Policies for tests: orders of work that the built-in ones do not produce."""

from __future__ import annotations

from collections.abc import Callable

from headrace.nouns.sequence import Sequence, Status
from headrace.scheduling.policy import PlanningRound, Rank

Script = Callable[[PlanningRound], object]


class Scripted:
    """Does what ``script`` says; tests set it before each plan."""

    def __init__(self) -> None:
        self.script: Script = lambda round: None

    def fill(self, round: PlanningRound) -> str:
        self.script(round)
        return "as scripted"


class WorstFirst:
    """Schedules the worst rank first, so that those who yield have slices and copies already.

    Every third plan it only admits, so that forked siblings share a block for longer.
    ``undone`` counts sequences that had a place in a step and lost it.
    """

    def __init__(self) -> None:
        self.undone = 0
        self._plans = 0

    def fill(self, round: PlanningRound) -> str:
        self._plans += 1
        taken = [seq for seq in reversed(round.running()) if round.take(seq, 3)]
        while (new := round.admit()) is not None:
            if (self._plans % 3 or not taken) and round.take(new, 3):
                taken.append(new)
        self.undone += sum(seq.status is not Status.RUNNING for seq in taken)
        return "worst first"


class Victim:
    """Chooses the one that ``pick`` names, the needy one if that cannot yield."""

    def __init__(self, pick: Sequence) -> None:
        self.pick = pick

    def victim(self, candidates: list[Sequence], needy: Sequence, rank: Rank) -> Sequence:
        return self.pick if self.pick in candidates else needy
