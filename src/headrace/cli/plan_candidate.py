"""Candidate: a device and policies that a plan may choose."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from headrace.cli.plan_trial import Trial
from headrace.cli.simulated_engine import SimulatedEngine
from headrace.cli.simulated_fleet import DeviceChoice
from headrace.engine.config import EngineConfig
from headrace.simulation.least_work import LeastWork


@dataclass(slots=True)
class Candidate:
    """A device under a configuration, and what came of trying it.

    ``count`` is the least number of instances that meets the targets, None where none was found;
    ``left_out`` then says why, if it was not tried to the end.
    """

    choice: DeviceChoice
    config: EngineConfig
    engine: SimulatedEngine | None
    policy: str
    least: LeastWork | None = None
    trials: list[Trial] = field(default_factory=list)
    count: int | None = None
    left_out: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def each(self) -> float:
        """Dollars per hour of one instance; infinite where it is not known."""
        price = None if self.engine is None else self.engine.price
        return math.inf if price is None else price

    @property
    def price(self) -> float | None:
        """Dollars per hour of the fleet found."""
        return None if self.count is None or math.isinf(self.each) else self.count * self.each

    @property
    def best(self) -> Trial | None:
        """The trial of the number found, or else the one that came nearest."""
        if self.count is not None:
            return next(t for t in self.trials if t.count == self.count and t.meets)
        return max(self.trials, key=lambda trial: (trial.whole, trial.inside), default=None)

    @property
    def binds(self) -> str:
        """What kept one instance fewer from meeting the targets, or the nearest where none does;
        empty where a single one is enough."""
        failing = [t for t in self.trials if not t.meets]
        if self.count is not None:
            failing = [t for t in failing if t.count < self.count]
        nearest = max(failing, key=lambda trial: (trial.count, trial.inside), default=None)
        return "" if nearest is None else nearest.binds
