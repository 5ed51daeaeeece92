"""StepTimes: how long an engine's steps take, from one step's tokens to the next one's."""

from __future__ import annotations

from collections.abc import Callable

from headrace.nouns.step import Step, StepResult
from headrace.nouns.step_cost import StepLoad

Listener = Callable[[StepLoad, float], None]


class StepTimes:
    """Tells listeners the load of every step and the seconds that it took.

    A step's time runs from the moment when the one before was booked to that when it is: with the
    delivery of the tokens before, the reading of new requests and the planning. After a pause it
    runs from its own planning on. This is the time that a ``StepCost`` predicts.
    """

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._last: float | None = None

    def add(self, listener: Listener) -> None:
        """``listener`` is called on the engine's thread. May be called on any thread."""
        self._listeners = (*self._listeners, listener)

    def remove(self, listener: Listener) -> None:
        """May be called on any thread; an unknown listener is nobody's fault."""
        self._listeners = tuple(known for known in self._listeners if known != listener)

    def ran(self, step: Step, result: StepResult, now: float, more: bool) -> None:
        """``step`` was booked at ``now``; ``more`` says that there is work left."""
        since = step.planned_at if self._last is None else self._last
        self._last = now if more else None
        if result.error is None and self._listeners:
            load = StepLoad.of(step)
            for listener in self._listeners:
                listener(load, now - since)

    def pause(self) -> None:
        """Nothing could be planned."""
        self._last = None
