"""Queue order: the shortest prompt first, unless another has waited too long."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence

AGEING = 2000.0


class ShortestFirst:
    """By tokens left to compute, less ``AGEING`` tokens for each second since arrival.

    Shortest remaining processing time first has the least mean wait of all orders (Schrage,
    "A Proof of the Optimality of the Shortest Remaining Processing Time Discipline", 1968); only
    prompts are counted, since output lengths are not known. Ageing is linear, so that two keys
    keep their order as time goes by and the queue stays sorted.

    Bound: a sequence of w tokens is overtaken by none that arrives more than w / ``AGEING``
    seconds after it. So nobody starves. A sequence that yielded counts the tokens to recompute.
    """

    dynamic = False

    def __init__(self, ageing: float = AGEING) -> None:
        """``ageing`` is in tokens per second, above 0."""
        self.ageing = ageing

    def key(self, seq: Sequence, now: float) -> float:
        return len(seq.tokens) + self.ageing * seq.request.arrival
