"""Post: an instance at its place in a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from headrace.nouns.errors import ConfigError
from headrace.nouns.event import Sink
from headrace.nouns.step_cost import StepLoad
from headrace.simulation.fleet_totals import InstanceTotals
from headrace.simulation.instance import Instance
from headrace.simulation.member import Member, Outage
from headrace.simulation.router import Load

Watch = Callable[[int, StepLoad], None]
"""Is told of each step that begins: on which instance, and what it computes."""


class Post:
    """An instance at its place in the fleet."""

    def __init__(self, index: int, member: Member, emit: Sink) -> None:
        self.index = index
        self.member = member
        self.instance = Instance(member.spec, emit)
        self.capacity = member.spec.num_blocks * member.spec.block_size  # tokens
        self.slots = member.spec.limits.sequences
        self.load = Load(index, member.speed)
        self.totals = InstanceTotals(member.name or f"instance {index}", member.spec.num_blocks)
        self.outages: Iterator[Outage] = iter(member.outages)
        self.outage: Outage | None = None
        self.open = False  # takes requests
        self.draining = False
        self.since: float | None = None  # up since then
        self.turn = 0  # entries of the calendar for earlier turns are void
        self.began = 0.0
        self.waiting = False  # for its turn to begin a step

    def watch(self, watch: Watch | None) -> None:
        """Lets ``watch`` see its steps; each start of an instance makes a new executor."""
        if watch is not None:
            self.instance.executor.watch = partial(watch, self.index)

    def begin(self, now: float, until: float) -> float | None:
        """Begins a step as ``Instance.begin`` does, and books it."""
        instance, totals = self.instance, self.totals
        end = instance.begin(now, until)
        if end is None:
            return None
        self.began = now
        if len(instance.scheduler.waiting):
            totals.crowded += end - now
            if instance.executor.load.slices >= self.slots:
                totals.full += end - now
        totals.peak_blocks = max(
            totals.peak_blocks, instance.memory.total - instance.memory.available
        )
        return end

    def next_outage(self) -> Outage | None:
        """The outage after the last one. Raises ConfigError where they overlap."""
        before, self.outage = self.outage, next(self.outages, None)
        if before is not None and self.outage is not None and self.outage.down < before.up:
            raise ConfigError(
                f"{self.totals.name} fails at {self.outage.down} s, and is down until"
                f" {before.up} s; outages come one after the other"
            )
        return self.outage

    def close_books(self, now: float) -> None:
        """Adds the time since it came up."""
        if self.since is not None:
            self.totals.up += max(0.0, now - self.since)
            self.since = None
