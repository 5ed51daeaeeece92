"""Event: a frozen record of something that happened, with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """What happened. SWAPPED is kept for the tiers to come."""

    ARRIVED = "arrived"
    ADMITTED = "admitted"
    REFUSED = "refused"
    PLANNED = "planned"
    RAN = "ran"
    FIRST_TOKEN = "first_token"
    PREEMPTED = "preempted"
    THRASHING = "thrashing"
    SWAPPED = "swapped"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Event:
    """``time`` is on the engine's clock in seconds; ``data`` holds plain numbers and strings.

    Metrics, the log, traces and tests all read this one stream.
    """

    kind: Kind
    time: float
    request_id: str | None = None
    index: int | None = None
    step_id: int | None = None
    reason: str = ""
    data: Mapping[str, float | int | str] = field(default_factory=dict)


Sink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The sink where nobody listens: who has it need not make events at all."""
