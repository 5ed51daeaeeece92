"""Admission: may a waiting sequence start, given the memory it may come to need?"""

from __future__ import annotations

from headrace.nouns.sequence import Sequence
from headrace.scheduling.policy import MemoryView


class Reserve:
    """Admits only what can grow to its full length with everybody else at theirs.

    Never preempts, and leaves memory idle that short answers do not use. The request-level
    reservation of early serving systems (FasterTransformer; see vLLM, arXiv:2309.06180,
    section 3.1), though in blocks.
    """

    def refusal(self, seq: Sequence, running: list[Sequence], memory: MemoryView) -> str | None:
        if not running:
            return None
        promised = sum(memory.missing(other, other.max_len - 1) for other in running)
        need = memory.cost(seq, seq.max_len - 1)
        left = memory.available - promised
        if need <= left:
            return None
        return f"its full length needs {need} blocks and {left} are not promised to others"


class Watermark:
    """Admits while the known tokens fit and a small share of memory stays free for growth.

    Fills memory and relies on preemption when outputs outgrow it (vLLM, arXiv:2309.06180,
    section 4.5).
    """

    looks_at_running = False

    def __init__(self, share: float = 0.01) -> None:
        self.share = share

    def refusal(self, seq: Sequence, running: list[Sequence], memory: MemoryView) -> str | None:
        if not running:
            return None
        spare = max(1, int(self.share * memory.total))
        need = memory.cost(seq, len(seq.tokens))
        if need + spare <= memory.available:
            return None
        return f"it needs {need} blocks, {memory.available} are free, {spare} are kept for growth"
