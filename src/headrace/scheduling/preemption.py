"""Preemption: who yields when memory is short."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence
from headrace.scheduling.policy import Rank


class Recompute:
    """The worst-ranked sequence yields and is computed again later (vLLM, arXiv:2309.06180, 4.5).

    The best-ranked running sequence never yields, so each step brings somebody closer to its
    end: no livelock.
    """

    def victim(self, candidates: list[Sequence], needy: Sequence, rank: Rank) -> Sequence:
        return max(candidates, key=rank)
