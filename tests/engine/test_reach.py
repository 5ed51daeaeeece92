"""Reach: sums over steps whose work is known."""

from __future__ import annotations

import pytest

from headrace.engine.reach import Reach, Reached
from headrace.nouns.event import Event, Kind


def ran(**data: float) -> Event:
    return Event(Kind.RAN, 0.0, data=data)


def test_steps_add_up() -> None:
    reach = Reach()
    assert reach.total.share is None
    reach(ran(elapsed=2.0, limit=0.5, operations=10.0, bytes=3.0))
    first = reach.total
    reach(ran(elapsed=1.0))  # of an executor that does not know the limits
    reach(Event(Kind.PLANNED, 0.0))
    reach(ran(elapsed=1.0, limit=0.75, operations=1.0, bytes=2.0))
    assert reach.total == Reached(2, 11.0, 5.0, 1.25, 3.0)
    assert reach.total.share == pytest.approx(1.25 / 3.0)
    assert reach.total.since(first) == Reached(1, 1.0, 2.0, 0.75, 1.0)
