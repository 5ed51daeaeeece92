"""FleetTotals: what the simulation of a fleet adds up to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class InstanceTotals:
    """Sums over one instance's life. ``tokens`` are rows computed, ``up`` and ``busy`` seconds;
    in ``crowded`` seconds of those somebody waited, and in ``full`` of these because as many
    sequences were computed as may run at once.

    ``peak_blocks`` of ``blocks`` were held at once at most.
    """

    name: str
    blocks: int
    requests: int = 0
    failures: int = 0
    steps: int = 0
    tokens: int = 0
    busy: float = 0.0
    crowded: float = 0.0
    full: float = 0.0
    up: float = 0.0
    peak_blocks: int = 0


@dataclass(slots=True)
class FleetTotals:
    """Sums over a simulation. Each request is one of served, ``refused`` and ``failed``.

    ``retries`` count requests that were sent to another instance since theirs had failed. ``end``
    is when the last request ended, in seconds.
    """

    instances: list[InstanceTotals]
    requests: int = 0
    refused: int = 0
    failed: int = 0
    retries: int = 0
    output: int = 0
    preemptions: int = 0
    end: float = 0.0

    @property
    def steps(self) -> int:
        return sum(instance.steps for instance in self.instances)

    @property
    def tokens(self) -> int:
        return sum(instance.tokens for instance in self.instances)

    @property
    def busy(self) -> float:
        return sum(instance.busy for instance in self.instances)
