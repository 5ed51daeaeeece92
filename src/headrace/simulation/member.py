"""Member: one instance of a fleet, and when it is there."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headrace.nouns.errors import ConfigError
from headrace.simulation.instance import InstanceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The instance fails at ``down`` and is back at ``up`` seconds, if at all, to start anew."""

    down: float
    up: float = float("inf")

    def __post_init__(self) -> None:
        if not 0 <= self.down < self.up:
            raise ConfigError(
                f"an outage from {self.down} s to {self.up} s; it has to end after it begins"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What an instance is, and its life, in seconds of the simulation.

    It begins to start at ``starts`` and takes requests ``start_up`` seconds later, and so again
    after each of ``outages``, which come in the order of time and may have no end. From ``drains``
    on it takes no more, and ends what it has. ``speed`` is relative to the fleet's fastest.
    """

    spec: InstanceSpec
    name: str = ""
    speed: float = 1.0
    starts: float = 0.0
    start_up: float = 0.0
    outages: Iterable[Outage] = ()
    drains: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.speed < float("inf"):
            raise ConfigError(f"the speed of an instance is {self.speed}; it must be above 0")
        for name in ("starts", "start_up", "drains"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} of an instance is {value} s; it must be 0 or more")


@dataclass(frozen=True, slots=True)
class RandomOutages:
    """Failures by chance: times up and down are exponential, with the means given in seconds.

    Without end, and the same in each iteration.
    """

    between: float
    repair: float
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("between", "repair"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"{name} is {getattr(self, name)} s; the mean time has to be above 0 seconds"
                )

    def __iter__(self) -> Iterator[Outage]:
        chance = random.Random(f"outages {self.seed}")
        now = 0.0
        while True:
            down = now + chance.expovariate(1 / self.between)
            now = down + chance.expovariate(1 / self.repair)
            yield Outage(down=down, up=now)
