"""Drift: how much slower or faster than predicted a machine is at the moment."""

from __future__ import annotations

from headrace.nouns.step_cost import StepCost, StepLoad

MEMORY = 2.0
"""Predicted seconds after which a step counts 1/e as much as the latest."""
MOST = 4.0
"""A scale beyond this, or below its inverse, is no drift: something else is wrong."""


class DriftingCost:
    """A ``StepCost`` times ``scale``, the ratio of measured to predicted seconds of recent steps.

    Of both, sums are kept in which older steps fade exponentially (by their predicted time, so that
    many short steps count as much as a long one). They begin with ``MEMORY`` seconds as predicted.
    A step's measured time counts as ``MOST`` times the predicted one at most, so that one hiccup
    does not change what is thought of the machine. Until a step is observed ``scale`` is 1.
    """

    def __init__(self, cost: StepCost) -> None:
        self.cost = cost
        self.scale = 1.0
        self._predicted = self._measured = MEMORY

    def seconds(self, load: StepLoad) -> float:
        """The predicted time of a step at the machine's present speed."""
        return self.scale * self.cost.seconds(load)

    def observe(self, load: StepLoad, seconds: float) -> None:
        """A step of this load took ``seconds``."""
        predicted = self.cost.seconds(load)
        if predicted <= 0:
            return
        # (1 + x)^-1 is close to e^-x for steps much shorter than the memory, and never negative.
        keep = MEMORY / (MEMORY + predicted)
        self._predicted = keep * self._predicted + predicted
        self._measured = keep * self._measured + min(max(seconds, 0.0), MOST * predicted)
        self.scale = min(max(self._measured / self._predicted, 1 / MOST), MOST)
