"""Uniform: every step of the same size."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence, Wait
from headrace.scheduling.policy import PlanningRound, Surroundings
from headrace.scheduling.target_pace import TargetPace, describe


class Uniform(TargetPace):
    """Each step computes exactly the budget's tokens while there are so many to compute.

    Dynamic SplitFuse (DeepSpeed-FastGen, arXiv:2401.08671, section 4): long prompts are
    decomposed over several steps, short ones composed, and the last one cut, so that steps are
    alike and their time is. Decodes come first, but unlike in ``StallFree`` they count, too: of
    more decodes than the budget those that have waited longest are computed. A step is smaller
    only if nobody else may start, or if a target for the time per output token makes it
    (``TargetPace``).
    """

    only_decodes = False

    def bind(self, surroundings: Surroundings) -> None:
        super().bind(surroundings)
        limits = surroundings.limits
        self.only_decodes = limits.sequences <= limits.token_budget

    def fill(self, round: PlanningRound) -> str:
        everybody = round.max_sequences <= round.budget
        if everybody:
            round.decode_all()
        else:
            everybody = self._decode(round)
        decoding, allowance = round.spent, self.allowance(round, everybody)
        self.prefill(round, allowance)
        return describe(round, decoding, allowance)

    @staticmethod
    def _decode(round: PlanningRound) -> bool:
        """As many decodes as the budget has room for; True if those were all."""

        def served(seq: Sequence) -> float:
            return seq.wait_since if seq.wait is Wait.BUDGET else float("inf")

        ready = [seq for seq in round.running() if seq.uncomputed == 1]
        for seq in sorted(ready, key=served):
            if round.spent == round.budget:
                return False
            round.take(seq, 1)
        return True
