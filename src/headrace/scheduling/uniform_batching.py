"""Uniform: every step of the same size."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence
from headrace.scheduling.policy import PlanningRound, Surroundings
from headrace.scheduling.target_pace import TargetPace, describe


class Uniform(TargetPace):
    """Each step computes exactly the budget's tokens while there are so many to compute.

    Dynamic SplitFuse (DeepSpeed-FastGen, arXiv:2401.08671, section 4): long prompts are
    decomposed over several steps, short ones composed, and the last one cut, so that steps are
    alike and their time is. Decodes come first, but unlike in ``StallFree`` they count, too: more
    decodes than the budget take turns. A step is smaller
    only if nobody else may start, or if a target for the time per output token makes it
    (``TargetPace``).
    """

    only_decodes = False

    def __init__(self) -> None:
        super().__init__()
        self._served: dict[Sequence, int] = {}  # decodes by turn, where not all have room
        self._turn = 0

    def bind(self, surroundings: Surroundings) -> None:
        super().bind(surroundings)
        limits = surroundings.limits
        self.only_decodes = limits.sequences <= limits.token_budget

    def ended(self, seq: Sequence, now: float) -> None:
        super().ended(seq, now)
        self._served.pop(seq, None)

    def fill(self, round: PlanningRound) -> str:
        everybody = round.max_sequences <= round.budget
        if everybody:
            round.decode_all()
        else:
            everybody = self._decode(round)
        decoding, allowance = round.spent, self.allowance(round, everybody)
        self.prefill(round, allowance)
        return describe(round, decoding, allowance)

    def _decode(self, round: PlanningRound) -> bool:
        """As many decodes as the budget has room for, by turns; True if those were all."""
        served = self._served
        ready = [seq for seq in round.running() if seq.uncomputed == 1]
        for seq in sorted(ready, key=lambda seq: served.get(seq, 0)):
            if round.spent == round.budget:
                return False
            if round.take(seq, 1):
                self._turn += 1
                served[seq] = self._turn
        return True
