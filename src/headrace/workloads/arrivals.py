"""Arrival processes: at what times the requests of a load are sent."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from headrace.nouns.errors import ConfigError

DRAWS = 1024  # random numbers drawn at a time
MAX_RATES = 100


class Arrivals(Protocol):
    """``offsets`` yields seconds after the start, never decreasing; each call starts anew.

    ``limit`` is the most requests in flight: the next waits until one has ended. None: no limit.
    """

    @property
    def limit(self) -> int | None: ...

    def offsets(self) -> Iterator[float]: ...


@dataclass(frozen=True, slots=True)
class AllAtOnce:
    """Every request at the start; with a ``limit`` that is a fixed concurrency (closed loop)."""

    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"the concurrency is {self.limit}; it must be at least 1")

    def offsets(self) -> Iterator[float]:
        return itertools.repeat(0.0)


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals at ``rate`` requests a second: gaps are exponential of mean 1/rate."""

    rate: float
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def offsets(self) -> Iterator[float]:
        rng = np.random.default_rng([self.seed, 0xA])
        now = 0.0
        while True:
            for gap in rng.exponential(1.0 / self.rate, DRAWS):
                now += float(gap)
                yield now


@dataclass(frozen=True, slots=True)
class Replayed:
    """The times of a trace, ``scale`` times as fast. ``times`` opens the trace anew."""

    times: Callable[[], Iterable[float]]
    scale: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        _check_rate(self.scale)

    def offsets(self) -> Iterator[float]:
        return (at / self.scale for at in self.times())


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second, or (``relative``) a multiple of a trace's own rate."""

    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.value:g}{'x' if self.relative else ' req/s'}"


def parse_rates(text: str) -> list[Rate]:
    """Rates of "4", "2x", "1,2,4", "0.5x,1x" or "start:stop:step". Raises ConfigError."""
    parts = re.split(r"[,:]", text)
    numbers = [re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)(x?)\s*", part) for part in parts]
    found = [match for match in numbers if match is not None]
    relative = any(match[2] for match in found)
    values = [float(match[1]) for match in found]
    is_range = ":" in text
    if len(found) < len(parts) or (is_range and ("," in text or len(values) != 3)):
        raise ConfigError(
            f"the rate {text!r} is not understood; write 4, 1,2,4 or 1:8:0.5 (start:stop:step),"
            " with x after the numbers for multiples of a trace's own rate"
        )
    if is_range:
        values = _range(*values)
    for value in values:
        _check_rate(value)
    return [Rate(value, relative) for value in values]


def _range(start: float, stop: float, step: float) -> list[float]:
    count = int((stop - start) / step + 1e-9) + 1 if step > 0 else 0
    if not 1 <= count <= MAX_RATES or stop < start:
        raise ConfigError(
            f"the rates {start:g}:{stop:g}:{step:g} (start:stop:step) are {count} in number;"
            f" there must be 1 to {MAX_RATES}"
        )
    return [round(start + i * step, 9) for i in range(count)]


def _check_rate(value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"the rate is {value}; it must be above 0")
