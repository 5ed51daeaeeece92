"""Preemption: whoever loses least yields."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence
from headrace.scheduling.policy import MemoryView, Rank, Surroundings


class LeastLost:
    """The sequence with the fewest tokens in blocks of its own yields, but never the best-ranked.

    Blocks that others hold too stay where they are and are found again on return; so what is lost
    are the blocks a sequence holds alone. Among those that lose as little the worst rank yields.
    One that would free nothing yields only if nobody else can. The cost of a victim as what has
    to be computed again: vLLM (arXiv:2309.06180, section 4.5), FastServe (arXiv:2305.05920).

    No livelock: ranks stay while a sequence runs, and the best-ranked of those running never
    yields, so it comes to its end; then the same holds for those that are left. Who may rank
    before whom, and for how long, is up to the order.
    """

    def __init__(self) -> None:
        self._memory: MemoryView | None = None

    def bind(self, surroundings: Surroundings) -> None:
        self._memory = surroundings.memory

    def victim(self, candidates: list[Sequence], needy: Sequence, rank: Rank) -> Sequence:
        if len(candidates) == 1:
            return candidates[0]
        best = min(candidates, key=rank)
        others = sorted((seq for seq in candidates if seq is not best), key=rank, reverse=True)
        return min(others, key=self._loss)

    def _loss(self, seq: Sequence) -> tuple[bool, int]:
        """Whether it would free nothing, and the blocks that only it holds."""
        assert self._memory is not None, "bound before anything else"
        own = len(seq.blocks) - self._memory.shared(seq)
        return (own == 0, own)
