"""Sinks: everybody who looks at an engine's events."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from headrace.nouns.event import Event, Sink

log = logging.getLogger(__name__)


class Sinks:
    """An event sink that hands each event to others; a fault of one stops nothing.

    An object of its own so that an engine, which tells it everything, does not hold the service
    that owns the engine: the memory of a service is free as soon as nobody uses it any more.
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = tuple(sinks)
        self._faulty: list[Sink] = []

    def add(self, sink: Sink) -> None:
        """Events from now on go to ``sink`` too. May be called on any thread."""
        self._sinks = (*self._sinks, sink)

    def __call__(self, event: Event) -> None:
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:  # what only looks on stops nothing
                if sink not in self._faulty:
                    self._faulty.append(sink)
                    log.exception("event sink %r failed; further faults of it are not logged", sink)
