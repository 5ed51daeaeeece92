"""SimulationRun: simulates loads and makes the report of ``bench`` of them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from headrace.cli import service as services
from headrace.cli.simulated_fleet import SimulatedFleet
from headrace.cli.simulated_load import SimulatedLoad
from headrace.cli.simulated_tally import SimulatedTally
from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ConfigError
from headrace.nouns.event import ignore
from headrace.nouns.step_cost import StepLoad
from headrace.simulation.analytic_cost import AnalyticCost
from headrace.simulation.bottleneck import Bottleneck
from headrace.simulation.fleet import simulate_fleet
from headrace.simulation.fleet_totals import FleetTotals
from headrace.simulation.routers import registry
from headrace.simulation.served import Served
from headrace.simulation.sketch import ERROR
from headrace.simulation.timeline import Timeline
from headrace.workloads.report import point_json, report_json, run_json
from headrace.workloads.slo import Slo

FIRST_SECONDS = 10.0
PATIENCE, LOOK = 10.0, 256  # seconds between lines of progress, requests between looks at the time
OnServed = Callable[[Served], None]


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds of a simulation to be written to ``path`` as a trace."""

    path: Path
    start: float = 0.0
    stop: float = FIRST_SECONDS


def parse_window(text: str) -> Window:
    """ "FILE.json" or "FILE.json:FROM-TO" in seconds. Raises ConfigError."""
    from headrace.execution.perfetto import check_trace_path

    match = re.fullmatch(r"(.+\.json)(?::(\d+\.?\d*)-(\d+\.?\d*))?", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(
            f"--profile-trace {text!r} is not understood; write FILE.json or FILE.json:FROM-TO"
            " in seconds, as steps.json:20-30"
        )
    path = Path(match[1])
    check_trace_path(path)
    if match[2] is None:
        return Window(path)
    window = Window(path, float(match[2]), float(match[3]))
    if window.start >= window.stop:
        raise ConfigError(f"--profile-trace {text}: the seconds are none; write FROM before TO")
    return window


@dataclass(frozen=True, slots=True)
class Simulated:
    """One simulation: its requests, its sums, and what it took in seconds of wall time.

    ``bottlenecks`` are those of the fleet's engines that have one.
    """

    tally: SimulatedTally
    totals: FleetTotals
    wall: float
    bottlenecks: dict[int, Bottleneck]

    @property
    def shares(self) -> dict[str, float]:
        """Of the time of the steps, by what it went into; empty where that is not known."""
        found = [b for b in self.bottlenecks.values() if b.seconds]
        seconds = sum(b.seconds for b in found)
        names = ("compute", "bandwidth", "overhead", "limit")
        return {
            name: sum(b.shares[name] * b.seconds for b in found) / seconds
            for name in names
            if found
        }

    def to_json(self) -> dict[str, Any]:
        """What a report has of a simulation besides what it has of a benchmark."""
        totals, wall = self.totals, max(self.wall, 1e-9)
        up = sum(instance.up for instance in totals.instances)
        return {
            "wall_seconds": self.wall,
            "requests_per_second": totals.requests / wall,
            "steps": totals.steps,
            "steps_per_second": totals.steps / wall,
            "tokens": totals.tokens,
            "tokens_per_second": totals.tokens / wall,
            "busy_share": totals.busy / up if up else 0.0,
            "time_shares": self.shares,
            "preemptions": totals.preemptions,
            "retries": totals.retries,
            "failed": totals.failed,
            "refused": totals.refused,
            "waits": dict(self.tally.waits.most_common()),
            "peak_memory_share": max(i.peak_blocks / i.blocks for i in totals.instances),
            "instances": [asdict(instance) for instance in totals.instances],
        }


@dataclass(frozen=True, slots=True)
class SimulationRun:
    """A fleet, how it is scheduled, and the targets that its requests are held against."""

    fleet: SimulatedFleet
    config: EngineConfig
    router: str
    slo: Slo
    seed: int = 0

    def simulate(
        self,
        load: SimulatedLoad,
        timeline: Timeline | None = None,
        enough: Callable[[SimulatedTally], bool] = lambda tally: False,
    ) -> Simulated:
        """Simulates one load; nothing more arrives once ``enough`` is known. ConfigError."""
        members, kinds = self.fleet.members(), self.fleet.kinds
        tally = SimulatedTally(self.slo)
        costs = [engine.spec.cost for engine in self.fleet.engines]
        found = {i: Bottleneck(c) for i, c in enumerate(costs) if isinstance(c, AnalyticCost)}

        def watch(index: int, step: StepLoad) -> None:
            looking = found.get(kinds[index])
            if looking is not None:
                looking(step)

        started = told = time.perf_counter()

        def on_served(served: Served) -> None:
            nonlocal told
            tally.add(served)
            if tally.requests % LOOK == 0 and time.perf_counter() - told > PATIENCE:
                told = time.perf_counter()
                services.say(f"{tally.requests:,} of {load.count:,} requests")

        totals = simulate_fleet(
            takewhile(lambda arrival: not enough(tally), load),
            members,
            registry.create(self.router, self.seed),
            on_served,
            lambda index: (
                ignore if timeline is None else timeline.listen(index, members[index].name)
            ),
            watch if found else None,
        )
        return Simulated(tally, totals, time.perf_counter() - started, found)

    def report(self, loads: list[SimulatedLoad], window: Window | None = None) -> dict[str, Any]:
        """The report of all loads; ``window`` is of the last. Raises ConfigError."""
        points, notes = [], [note for engine in self.fleet.engines for note in engine.notes]
        for load in loads:
            services.say(load.label)
            timeline = None
            if window is not None and load is loads[-1]:
                timeline = Timeline(window.start, window.stop)
            done = self.simulate(load, timeline)
            points.append(point_json(load.label, load.rate, [self._run(done)]))
            if done.tally.thinned > 1:
                notes.append(
                    f"{load.label}: one of {done.tally.thinned} requests is listed and drawn"
                )
            if timeline is not None and window is not None:
                _write(timeline, window.path)
        notes.append(f"percentiles are within {ERROR:.1%}; gaps between single tokens (ITL) are not"
                     " followed")  # fmt: skip
        return report_json(self._about(), self.slo, points, notes)

    def _run(self, done: Simulated) -> dict[str, Any]:
        limit = done.shares.get("limit")
        work = None
        if limit is not None:  # of one instance, so that shares of the duration are of the fleet
            busy = done.totals.busy / len(done.totals.instances)
            work = {"elapsed": busy, "limit": limit * busy}
        run = run_json(done.tally.summary(), None, done.tally.records, work)
        return run | {"simulated": done.to_json()}

    def _about(self) -> dict[str, Any]:
        import platform

        from headrace import __version__

        config = self.config
        return {
            "command": "simulate",
            "endpoint": f"{config.model} on {self.fleet}, simulated",
            "transport": "simulated",
            "stream": True,
            "devices": [engine.name for engine in self.fleet.engines],
            "instances": len(self.fleet.kinds),
            "dollars_per_hour": self.fleet.price,
            "router": self.router,
            "policies": {
                "order": config.order,
                "admission": config.admission,
                "batching": config.batching,
                "preemption": config.preemption,
            },
            "headrace": __version__,
            "python": platform.python_version(),
            "seed": self.seed,
            "repeat": 1,
        }


def _write(timeline: Timeline, path: Path) -> None:
    try:
        with path.open("w", encoding="utf-8") as file:
            json.dump(timeline.to_json(), file, separators=(",", ":"))
    except OSError as error:
        raise ConfigError(f"the trace {path} cannot be written: {error.strerror}") from error
    full = "" if timeline.full_at is None else " (more did not fit)"
    services.say(
        f"wrote seconds {timeline.start:g} to {timeline.end:g}{full} to {path}; open it in"
        " https://ui.perfetto.dev"
    )
