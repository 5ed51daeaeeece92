"""TargetPace: how long a step may take so that those who decode get their tokens in time."""

from __future__ import annotations

from bisect import bisect_right

from headrace.nouns.sequence import Sequence, Wait
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.scheduling.policy import PlanningRound, Surroundings

MARGIN = 0.05
"""Steps are planned for targets shorter by this share, since predictions err."""
CATCH_UP = 0.5
"""One that is late whatever the step does gets steps of this share of its target."""
FLOOR = 0.1
"""Of the time that a prompt has waited for room in a step, the share it may take beyond that."""
LEAST = 16
"""Tokens of a prompt for which it is worth touching it."""


class TargetPace:
    """The part of a batching policy that keeps steps short where requests have TPOT targets.

    A sequence that has f as the time of its first token and has produced o tokens is in time if
    the next one comes by f + o times its target, so that the mean time per output token stays
    inside. The step may take as long as the least time left to any that decodes; prompts get what
    the prediction leaves of it, up to the token budget. So a step that goes by quickly leaves more
    to the ones after it. Sarathi-Serve (arXiv:2403.02310, section 4.3) fixes one token budget for
    a target by profiling; here each step gets the largest that its load allows.

    Prompts do not starve: one that was left out may take ``FLOOR`` of the time that it has waited
    for room beyond what targets allow, and so slows decoding by about a tenth at most, also where
    decoding alone takes longer than targets allow. Without a cost model or without targets nothing
    is limited, and nothing is computed.
    """

    def __init__(self) -> None:
        self._cost: StepCost | None = None
        self._targets: dict[float, int] = {}  # TPOT targets, and of how many sequences
        self._planned = 0.0  # when the step before was
        # Nobody who decoded then, or has joined since, had less time left than this.
        self._least = 0.0
        self._back: set[Sequence] = set()  # that yielded and decode no more as far as is known

    # What the scheduler tells

    def bind(self, surroundings: Surroundings) -> None:
        self._cost = surroundings.cost

    def arrived(self, seq: Sequence, now: float) -> None:
        if (target := seq.request.targets.tpot) is not None:
            self._targets[target] = self._targets.get(target, 0) + 1

    def preempted(self, seq: Sequence, lost: int, now: float) -> None:
        if seq.request.targets.tpot is not None and seq.first_token_at is not None:
            self._back.add(seq)

    def ended(self, seq: Sequence, now: float) -> None:
        if (target := seq.request.targets.tpot) is not None:
            self._back.discard(seq)
            self._targets[target] -= 1
            if not self._targets[target]:
                del self._targets[target]

    # Planning

    def allowance(self, round: PlanningRound, complete: bool = True) -> Allowance | None:
        """What the round has time for beside the decodes in it; None: no target limits it.

        ``complete``: everybody who could has decoded in each step, one step at a time.
        """
        if not self._targets or self._cost is None or not round.spent:
            return None
        elapsed, self._planned = round.now - self._planned, round.now
        # Each of them got a token since, and with it a target's time more; whoever got its first
        # one since has a target's time from then on.
        shortest = min(self._targets) * (1 - MARGIN)
        self._least = min(self._least, 0.0) + shortest - elapsed
        sure = self._least if complete and not self._back else 0.0
        return Allowance(self, round, self._cost, sure)

    def prefill(self, round: PlanningRound, allowance: Allowance | None) -> None:
        """Prompts in the rest of the budget, as far as there is time: started ones, then new."""
        if self._continue(round, allowance):
            self._start(round, allowance)
        if allowance is not None and allowance.limiting is not None:
            round.budget = round.spent

    @staticmethod
    def _continue(round: PlanningRound, allowance: Allowance | None) -> bool:
        """More of those that have started; False once there is no time for one of them."""
        for seq in round.prefilling():
            room = round.budget - round.spent
            if room <= 0:
                return True
            if not _take(round, seq, room, allowance, waited(seq, round.now)):
                return False
        return True

    @staticmethod
    def _start(round: PlanningRound, allowance: Allowance | None) -> None:
        """New ones, as long as there is time."""
        while (room := round.budget - round.spent) > 0:
            patience = 0.0
            if allowance is not None:
                if (head := round.head()) is None:
                    return
                patience = waited(head, round.now)
                if not allowance.length(head, min(head.uncomputed, room), patience):
                    return
            new = round.admit()
            if new is None or not _take(round, new, room, allowance, patience):
                return

    def look(self, round: PlanningRound, alone: float) -> tuple[float, Sequence | None]:
        """Seconds that the step may take, if decoding alone takes ``alone``, and who limits it."""
        now, keep = round.now, 1 - MARGIN
        least, seconds, limiting = float("inf"), float("inf"), None
        for seq in round.decoding():
            target, first = seq.request.targets.tpot, seq.first_token_at
            if target is None or first is None:
                continue
            self._back.discard(seq)
            left = first + seq.output_len * target * keep - now
            least = min(least, left)
            if left < alone:
                left = max(left, target * CATCH_UP)
            if left < seconds:
                seconds, limiting = left, seq
        self._least = least
        return seconds, limiting


class Allowance:
    """What one step has time for. ``limiting`` is who set the limit, once it was felt."""

    __slots__ = (
        "_alone",
        "_cost",
        "_decodes",
        "_load",
        "_pace",
        "_round",
        "_seconds",
        "_strictest",
        "limiting",
    )

    def __init__(self, pace: TargetPace, round: PlanningRound, cost: StepCost, sure: float) -> None:
        """``sure`` are seconds that everybody has left, whoever they are."""
        self.limiting: Sequence | None = None
        self._strictest: Sequence | None = None
        self._pace, self._round, self._cost = pace, round, cost
        self._decodes = self._load = round.load()
        self._alone: float | None = None  # what decoding takes without prompts, once asked for
        self._seconds = sure

    def length(self, seq: Sequence, most: int, waited: float) -> int:
        """How many of the next ``most`` tokens of ``seq`` the step has time for, if it has waited
        so long for room."""
        if self._time(seq, most) <= self._seconds:
            return most
        if self._alone is None:
            self._alone = self._cost.seconds(self._decodes)
            self._seconds, self._strictest = self._pace.look(self._round, self._alone)
        seconds = max(self._seconds, self._alone + FLOOR * waited)
        if self._time(seq, most) <= seconds:
            return most
        self.limiting = self._strictest
        found = bisect_right(range(1, most), seconds, key=lambda length: self._time(seq, length))
        return found if found >= LEAST else 0

    def book(self, load: StepLoad) -> None:
        """That is in the step, too."""
        self._load += load

    def _time(self, seq: Sequence, length: int) -> float:
        return self._cost.seconds(self._load + prefill_load(seq, length))


def describe(round: PlanningRound, decoding: int, allowance: Allowance | None) -> str:
    """The reason for a step's shape."""
    prefill = round.spent - decoding
    limiting = None if allowance is None else allowance.limiting
    if limiting is None:
        return f"{decoding} decodes, {prefill} prefill tokens of {round.budget - decoding} left"
    target = limiting.request.targets.tpot or 0.0
    return (
        f"{decoding} decodes, {prefill} prefill tokens:"
        f" {target * 1e3:g} ms TPOT of request {limiting.request.id}"
    )


def _take(
    round: PlanningRound, seq: Sequence, room: int, allowance: Allowance | None, patience: float
) -> bool:
    """Computes as much of ``seq`` as there is room and time for; False if that is less than
    would have had room."""
    most = min(seq.uncomputed, room)
    if allowance is None:
        round.take(seq, most)
        return True
    length = allowance.length(seq, most, patience)
    load = prefill_load(seq, length)
    if length and round.take(seq, length):
        allowance.book(load)
    return length == most


def prefill_load(seq: Sequence, length: int) -> StepLoad:
    """The counts of the next ``length`` tokens of a sequence."""
    start = seq.computed
    end = start + length
    pairs = length * (start + end + 1) // 2
    single = length == 1
    samples = end == len(seq.tokens)
    return StepLoad(
        rows=length,
        slices=1,
        decodes=int(single),
        samples=int(samples),
        pairs=pairs,
        decode_pairs=pairs if single else 0,
        sample_pairs=end if samples else 0,
        read=start,
    )


def waited(seq: Sequence, now: float) -> float:
    """Seconds for which it has waited for room in a step, or to be computed again."""
    return now - seq.wait_since if seq.wait in (Wait.BUDGET, Wait.PREEMPTED) else 0.0
