"""Phases of a start: measured one after the other, told in a line."""

from __future__ import annotations

from headrace.engine.phases import Phases


def test_phases_add_up() -> None:
    times = iter([10.0, 10.5, 12.0, 12.25])
    phases = Phases(lambda: next(times))
    phases.end("file")
    phases.end("weights")
    phases.end("file")
    assert phases.seconds == {"file": 0.75, "weights": 1.5}
    assert phases.describe() == "2.25 s (file 0.75, weights 1.50)"
