"""Simulating one engine: arrivals stream in, what became of them streams out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.nouns.errors import ConfigError
from headrace.nouns.event import Sink, ignore
from headrace.simulation.arrival import Arrival
from headrace.simulation.collector import rare_collections
from headrace.simulation.instance import Instance, InstanceSpec
from headrace.simulation.served import Served

HELD_BACK = 0.001
"""Seconds after which an engine that has work but may not run any looks again, as live."""


@dataclass(slots=True)
class Totals:
    """Sums over a simulation. ``tokens`` are rows computed, ``end`` is in seconds.

    ``busy`` are the seconds in which a step ran.
    """

    requests: int = 0
    refused: int = 0
    output: int = 0
    steps: int = 0
    tokens: int = 0
    preemptions: int = 0
    busy: float = 0.0
    end: float = 0.0


@rare_collections()
def simulate(
    arrivals: Iterable[Arrival],
    spec: InstanceSpec,
    on_served: Callable[[Served], None],
    emit: Sink = ignore,
) -> Totals:
    """Serves ``arrivals`` (in the order of their times) to the end by one engine.

    Memory does not grow with their number. An arrival at the very time at which a step ends comes
    before that end. Raises ConfigError where times decrease.
    """
    instance = Instance(spec, emit)
    totals = Totals()

    def tell(served: Served) -> None:
        totals.requests += 1
        totals.refused += served.refused
        totals.output += served.output
        totals.preemptions += served.preemptions
        totals.end = max(totals.end, served.end)
        on_served(served)

    stream = iter(arrivals)
    coming = next(stream, None)
    now = 0.0
    while True:
        until = math.inf if coming is None else coming.at
        end = instance.begin(now, until)
        if end is None:
            if coming is None and not instance.has_work:
                break
            held = now + HELD_BACK if instance.has_work else math.inf
            now = held if coming is None else min(held, max(now, coming.at))
        else:
            now = end
        while coming is not None and coming.at <= now:
            refused = instance.offer(coming, coming.at)
            if refused is not None:
                tell(refused)
            before, coming = coming.at, next(stream, None)
            if coming is not None and coming.at < before:
                raise ConfigError(f"an arrival at {coming.at} s comes after one at {before} s")
        if end is not None:
            for served in instance.finish():
                tell(served)
    totals.steps, totals.tokens, totals.busy = instance.steps, instance.tokens, instance.seconds
    return totals
