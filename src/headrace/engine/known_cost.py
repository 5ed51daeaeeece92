"""What a step costs on this machine, as far as an engine knows when it starts."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.nouns.errors import ConfigError
from headrace.scheduling.linear_cost import CONSTANT, LinearCost

if TYPE_CHECKING:
    from headrace.execution.roofline import Roofline
    from headrace.execution.token_budget import Points
    from headrace.execution.tuning import Tuning

SHARE = 0.75
"""Of the machine's limit that steps are taken to reach where nothing was measured."""
MANY = 1 << 20  # enough of anything to be bound by it
BATCH = 64
WANDER = 0.5
"""A machine whose speed changes by more than this while it is measured is not one's own."""
KEYS = {"cost", "date", "steps", "wander"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptCost:
    """A calibration's result: prices, the date on which they were measured, over how many steps.

    ``wander`` is by how much the machine's speed changed meanwhile, see ``simulation/fit.py``.
    """

    cost: LinearCost
    date: str
    steps: int
    wander: float = 0.0

    @property
    def disturbed(self) -> bool:
        """Other programs ran meanwhile; it had better be repeated some day."""
        return self.wander > WANDER

    def to_json(self) -> dict[str, Any]:
        return {
            "cost": self.cost.to_json(),
            "date": self.date,
            "steps": self.steps,
            "wander": self.wander,
        }

    @classmethod
    def from_json(cls, found: object) -> KeptCost:
        """What ``to_json`` gave. Raises ConfigError for anything else."""
        if not isinstance(found, dict) or set(found) | {"wander"} != KEYS:
            raise ConfigError(f"a kept calibration has to have {', '.join(sorted(KEYS))}")
        date, steps, wander = found["date"], found["steps"], found.get("wander", 0.0)
        if not isinstance(date, str) or type(steps) is not int or steps < 1:
            raise ConfigError(f"a kept calibration of {steps!r} steps on {date!r} cannot be")
        if type(wander) not in (int, float) or not 0 <= wander < math.inf:
            raise ConfigError(f"a kept calibration's wander is {wander!r}; it cannot be")
        return cls(LinearCost.from_json(found["cost"]), date, steps, wander)

    def describe(self) -> str:
        """One line: when, and how good."""
        errors = "; ".join(f"{phase} {error}" for phase, error in self.cost.errors.items())
        text = f"measured on {self.date} over {self.steps} steps; error of {errors}"
        if not self.disturbed:
            return text
        changed = f"the machine's speed changed by {self.wander:.0%}"
        return f"{text}; other programs ran meanwhile, {changed}"


@dataclass(frozen=True, slots=True)
class CostKeeper:
    """Where the calibration for one model with its settings on this machine is kept."""

    tuning: Tuning
    name: str

    @classmethod
    def of(cls, tuning: Tuning, settings: str, max_sequences: int) -> CostKeeper:
        """``settings`` names the formats of weights and cache and the size of blocks."""
        return cls(tuning, f"prices of a step: {settings}, up to {max_sequences} sequences")

    def load(self) -> KeptCost | None:
        """The calibration kept; None where there is none, or only a damaged one."""
        found = self.tuning.get(self.name)
        if found is None:
            return None
        try:
            return KeptCost.from_json(found)
        except ConfigError as error:
            log.warning("the kept calibration is not used: %s", error)
            return None

    def save(self, kept: KeptCost) -> None:
        self.tuning.put(self.name, kept.to_json())


def first_cost(points: Points, roofline: Roofline | None) -> LinearCost | None:
    """Prices from measured prefill steps, (rows, seconds) each in slices of up to 256 rows, and
    from the machine's limit for what those do not show; None where neither is known.

    Without points all prices are those of the limit, of which ``SHARE`` is taken to be reached.
    """
    prices: dict[str, float] = {}
    pair = 0.0
    if roofline is not None:
        base = roofline.bound(1, 0, 0, 0.0, 0).seconds
        pair = (roofline.bound(1, 0, MANY, 0.0, 0).seconds - base) / MANY / SHARE
        read = (roofline.bound(1, 0, 0, 0.0, MANY).seconds - base) / MANY / SHARE
        one = roofline.bound(1, 1, 0, 0.0, 0).seconds - base
        more = (roofline.bound(1, BATCH, 0, 0.0, 0).seconds - base - one) / (BATCH - 1)
        prices |= {"prefill_pairs": pair, "read": read}
        prices |= {"samples[0:1]": one / SHARE, "samples[1:]": max(0.0, more) / SHARE}
        prices[CONSTANT] = base / SHARE
        if not points:
            points = tuple(
                (rows, roofline.bound(rows, 0, 0, 0.0, 0).seconds / SHARE)
                for rows in (1, BATCH, 4 * BATCH, 16 * BATCH)
            )
            pair = 0.0
    if not points:
        return None
    return LinearCost(prices | _row_prices(points, prices.get(CONSTANT, 0.0), pair))


def _row_prices(points: Points, base: float, pair: float) -> dict[str, float]:
    """A price per row between each two of the points, without attention; never falling times."""
    from headrace.execution.token_budget import SLICE

    prices: dict[str, float] = {}
    before, reached = 0, base
    for i, (rows, seconds) in enumerate(points):
        full, rest = divmod(rows, SLICE)
        pairs = full * SLICE * (SLICE + 1) // 2 + rest * (rest + 1) // 2
        seconds = max(reached, min(s for _, s in points[i:]) - pair * pairs)
        last = i == len(points) - 1
        prices[f"rows[{before}:{'' if last else rows}]"] = (seconds - reached) / (rows - before)
        before, reached = rows, seconds
    return prices
