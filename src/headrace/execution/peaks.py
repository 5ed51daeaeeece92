"""Peaks: the rates that bound every step on this machine, measured once and remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from headrace.execution.ceilings import KINDS, Ceiling, multiply_add, product, read_bandwidth
from headrace.execution.machine import Machine

SECONDS = 0.03  # for each rate
SETTLED = 3  # measurements in a row that found nothing better end the measuring at every start
BETTER = 1.03  # times the rate known

Load = Callable[[], object]
Save = Callable[[dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes read from memory per second, and operations per second by the kind of product.

    A kind without a rate of its own (0) is computed in float32. These are the best of some
    measurements; ``measured`` counts them from the last that found one of the rates much better.
    """

    bandwidth: float
    float32: float
    bfloat16: float = 0.0
    int8: float = 0.0
    measured: int = 1

    def rate(self, kind: str) -> float:
        """Operations per second of products of ``kind``: float32, bfloat16 or int8."""
        return max(float(getattr(self, kind)), self.float32)

    def best(self, other: Peaks) -> Peaks:
        """The higher of each rate: whatever else runs can only make a measurement lower."""
        names = ("bandwidth", *KINDS)
        rates = {name: max(getattr(self, name), getattr(other, name)) for name in names}
        better = any(rates[name] > BETTER * getattr(self, name) for name in names)
        measured = other.measured if better else self.measured + other.measured
        return Peaks(**rates, measured=measured)

    def describe(self, kind: str) -> str:
        """Bandwidth and the rate of products of ``kind``."""
        rate = self.rate(kind) / 1e9
        return f"memory reads {self.bandwidth / 1e9:.1f} GB/s, {kind} products {rate:,.0f} GOP/s"

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: object) -> Peaks | None:
        """What ``to_json`` gave; None for anything else, such as a damaged file's content."""
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or set(found) != names:
            return None
        values: dict[str, Any] = found
        if not all(type(v) in (int, float) and 0 <= v < float("inf") for v in values.values()):
            return None
        peaks = cls(**values)
        return peaks if peaks.bandwidth > 0 and peaks.float32 > 0 else None


def peaks_of(ceilings: Iterable[Ceiling]) -> Peaks | None:
    """The peaks that ceilings tell; None unless memory and float32 are among them.

    A kind's rate is the higher of its multiply-adds in registers and of torch's product, which
    may run on units (AMX) that the probes do not know.
    """
    found: dict[str, float] = {}
    for ceiling in ceilings:
        kind = "bandwidth" if ceiling.name == "memory read" else ceiling.name.partition(" ")[0]
        found[kind] = max(found.get(kind, 0.0), (ceiling.value or 0.0) * 1e9)
    if not found.get("bandwidth") or not found.get("float32"):
        return None
    rates = {name: found.get(name, 0.0) for name in ("bandwidth", *KINDS)}
    return Peaks(**rates, measured=1)


def measure_peaks(machine: Machine, threads: int, seconds: float = SECONDS) -> Peaks | None:
    """Measure with ``threads`` threads in well under a second; None where it cannot be done."""
    ceilings = [read_bandwidth(machine, seconds, threads)]
    ceilings += [multiply_add(kind, threads, seconds) for kind in KINDS]
    if ceilings[1].value is None:  # without the extension
        ceilings.append(product("float32", threads, seconds, 512, 1024))
    if any(feature.startswith("amx") for feature in machine.features):
        ceilings += [product(kind, threads, seconds) for kind in ("bfloat16", "int8")]
    return peaks_of(ceilings)


def known_peaks(machine: Machine, threads: int, load: Load, save: Save) -> Peaks | None:
    """The peaks remembered, measured (again) while they have not settled.

    ``load`` gives what ``save`` was given last on this machine with as many threads, or anything
    else when there is nothing.
    """
    known = Peaks.from_json(load())
    if known is not None and known.measured >= SETTLED:
        return known
    return remember(measure_peaks(machine, threads), known, save)


def remember(new: Peaks | None, known: Peaks | None, save: Save) -> Peaks | None:
    """The best of both, saved; ``known`` may be None, and ``new`` where nothing was measured."""
    if new is None:
        return known
    best = new if known is None else known.best(new)
    save(best.to_json())
    return best
