"""From ``--device`` to the members of a fleet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.cli.simulated_engine import THIS, SimulatedEngine, simulated_engine
from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ConfigError
from headrace.simulation.member import Member, Outage, RandomOutages

UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LIFE = ("start", "fails", "repair")
MOST_INSTANCES = 4096


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A value of ``--device``: ``count`` instances, each of ``tensor`` devices of this ``name``.

    ``count`` is None where none was given. They take ``start`` seconds to start; ``fails`` and
    ``repair`` are the mean seconds up and down where they fail.
    """

    name: str
    tensor: int = 1
    count: int | None = None
    start: float = 0.0
    fails: float | None = None
    repair: float | None = None

    @classmethod
    def parse(cls, text: str) -> DeviceChoice:
        """ "a100-80g", "a100-80g:4" (four instances), "2xa100-80g:4" (of two devices each), a
        .toml file, or "this"; then ",start=30s,fails=2h,repair=5m". Raises ConfigError."""
        what, *life = text.split(",")
        match = re.fullmatch(r"(?:(\d{1,3})x)?([^:]+)(?::(\d{1,6}))?", what.strip())
        if match is None or not 1 <= int(match[3] or 1) <= MOST_INSTANCES or match[1] == "0":
            raise ConfigError(
                f"--device {text!r} is not understood; write NAME, NAME:4 for four instances,"
                " 2xNAME for instances of two devices each, a .toml file, or this"
            )
        if match[2] == THIS and match[1]:
            raise ConfigError(f"--device {text}: this machine is one device; leave out {match[1]}x")
        times = _life(life, text)
        if ("fails" in times) != ("repair" in times):
            raise ConfigError(f"--device {text}: give both fails and repair, as fails=2h,repair=5m")
        return cls(match[2], int(match[1] or 1), int(match[3]) if match[3] else None, **times)

    def __str__(self) -> str:
        return f"{self.tensor}x{self.name}" if self.tensor > 1 else self.name

    def outages(self, seed: int) -> Iterable[Outage]:
        """Failures by chance, if there are any."""
        if self.fails is None or self.repair is None:
            return ()
        return RandomOutages(self.fails, self.repair, seed)


def _life(parts: list[str], text: str) -> dict[str, float]:
    times: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"\s*([a-z]+)=(\d+\.?\d*|\.\d+)(ms|s|m|h)\s*", part)
        if match is None or match[1] not in LIFE or match[1] in times:
            raise ConfigError(
                f"--device {text!r}: {part!r} is not understood; write start=30s, or fails=2h and"
                " repair=5m, each at most once"
            )
        times[match[1]] = float(match[2]) * UNITS[match[3]]
    return times


@dataclass(frozen=True, slots=True)
class SimulatedFleet:
    """Engines of one or several kinds, and which instances there are of each."""

    choices: tuple[DeviceChoice, ...]
    engines: tuple[SimulatedEngine, ...]
    seed: int = 0

    @classmethod
    def build(
        cls,
        devices: list[str],
        config: EngineConfig,
        report: Callable[[str], None],
        seed: int = 0,
    ) -> SimulatedFleet:
        """Raises ConfigError."""
        choices = tuple(DeviceChoice.parse(text) for text in devices)
        engines = tuple(
            simulated_engine(choice.name, choice.tensor, config, report) for choice in choices
        )
        fleet = cls(choices, engines, seed)
        if len(fleet.kinds) > MOST_INSTANCES:
            raise ConfigError(
                f"--device asks for {len(fleet.kinds)} instances; at most {MOST_INSTANCES} are"
                " simulated"
            )
        return fleet

    @property
    def kinds(self) -> list[int]:
        """For each instance the number of its engine."""
        return [i for i, choice in enumerate(self.choices) for _ in range(choice.count or 1)]

    def members(self) -> list[Member]:
        """In the order of the options."""
        fastest = max(engine.speed for engine in self.engines)
        kinds = self.kinds
        return [
            Member(
                spec=self.engines[kind].spec,
                name=f"{self.choices[kind]} #{index}"
                if len(kinds) > 1
                else str(self.choices[kind]),
                speed=self.engines[kind].speed / fastest,
                start_up=self.choices[kind].start,
                outages=self.choices[kind].outages(self.seed * MOST_INSTANCES + index),
            )
            for index, kind in enumerate(kinds)
        ]

    @property
    def max_context(self) -> int:
        """Tokens of the longest request that every instance can take."""
        return min(engine.max_context for engine in self.engines)

    @property
    def price(self) -> float | None:
        """Dollars per hour; None where that of any instance is not known."""
        prices = [self.engines[kind].price for kind in self.kinds]
        known = [price for price in prices if price is not None]
        return sum(known) if len(known) == len(prices) else None

    def __str__(self) -> str:
        return " + ".join(
            f"{choice.count or 1} x {engine.name}" if (choice.count or 1) > 1 else engine.name
            for choice, engine in zip(self.choices, self.engines, strict=True)
        )
