"""Margin: by how much first tokens come later than predicted."""

from __future__ import annotations

CONFIDENCE = 0.9
SPEED = 0.05  # of learning
MOST = 3.0


class Margin:
    """A factor, at least 1, by which predictions are lengthened so that ``CONFIDENCE`` of them are
    kept: learnt from what came true.

    It moves up by 9 parts of ``SPEED`` where the truth was longer and down by one where it was not,
    so it settles at that quantile of true over predicted time (stochastic approximation, Robbins
    and Monro, 1951). It makes up for prices of steps that are off, for other programs on the
    machine, and for policies that a prediction does not know.
    """

    def __init__(self) -> None:
        self.factor = 1.0

    def learn(self, predicted: float, actual: float) -> None:
        """A first token was predicted after so many seconds (above 0), and came after so many."""
        late = actual > self.factor * predicted
        factor = self.factor * (1 + SPEED * (CONFIDENCE if late else CONFIDENCE - 1))
        self.factor = min(max(factor, 1.0), MOST)
