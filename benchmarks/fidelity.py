"""Fidelity: how near a simulation comes to the live engine.

Each scenario is replayed on a live engine in this process and simulated with the measured cost
model; calibration has seen neither its traffic nor its lengths. Rates are set by the simulation's
own saturation: a scenario at load 0.9 sends nine tenths of the requests a second that the
simulated engine completes when all are there at once.

A rented machine's speed wanders by the minute. So each scenario is simulated twice: with the cost
as calibrated (these figures are judged), and with all step times multiplied by one number, the
run's own slowness: the seconds of its steps over what the cost predicts for these very steps. The
second tells what the simulation itself gets wrong.

    python -m benchmarks.fidelity [--only NAME ...] [--minutes M] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.in_process import add_engine_options, config_of
from benchmarks.replay import Replayed, live, say, simulated
from benchmarks.traffic import Lengths, Traffic, code, conversation, recorded
from headrace.cli.simulated_engine import measured_engine
from headrace.engine.config import EngineConfig
from headrace.engine.service import EngineService
from headrace.nouns.errors import HeadraceError
from headrace.nouns.request import Targets
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.simulation.instance import InstanceSpec

WITHIN, TAIL_WITHIN, JUDGED_LOAD = 0.05, 0.10, 0.9
PARTS = ("mean", "p50", "p90", "p99")
TARGETS = Targets(ttft=1.0, tpot=0.1)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Traffic at a share of saturation on an engine with these options."""

    name: str
    load: float
    lengths: Lengths = conversation
    traffic: dict[str, Any] | None = None
    options: dict[str, Any] | None = None

    def traffic_at(self, rate: float, count: int, seed: int) -> Traffic:
        return Traffic(self.name, self.lengths, rate, count, seed, **(self.traffic or {}))


def scenarios(talk: Lengths) -> list[Scenario]:
    """What is judged. ``talk`` are the lengths of conversations."""
    old = {"order": "fcfs", "admission": "watermark", "preemption": "recompute"}
    return [
        Scenario("conversation", 0.6, talk),
        Scenario("code", 0.7, code, {"max_context": 4096}),
        Scenario("bursty", 0.6, talk, {"burstiness": 3.0}),
        Scenario("near saturation", 0.9, talk),
        Scenario("past saturation", 1.3, talk),
        Scenario("past, with targets", 1.3, talk, {"targets": TARGETS}),
        Scenario("shared prefixes", 0.7, talk, {"shared": 0.7}),
        Scenario("fair, 3 tenants", 0.8, talk, {"tenants": ("a", "b", "c")}, {"order": "fair"}),
        Scenario("shortest", 0.8, talk, None, {"order": "shortest"}),
        Scenario("prefill-first", 0.7, talk, None, {**old, "batching": "prefill-first"}),
        Scenario(
            "little memory", 0.8, talk, None, {**old, "cache_bytes": 192 * 2**20}
        ),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slowed:
    """A cost times a number."""

    cost: StepCost
    times: float

    def seconds(self, load: StepLoad) -> float:
        return self.times * self.cost.seconds(load)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of a scenario: live, simulated, and simulated at the run's own speed (``paced``).

    Times are in seconds.
    """

    scenario: str
    load: float
    figure: str
    live: float
    simulated: float
    paced: float

    @property
    def error(self) -> float:
        """Relative to the live figure; counts near zero have none."""
        return self.simulated / self.live - 1 if self.live else 0.0

    @property
    def paced_error(self) -> float:
        """The error that is left at the run's own speed."""
        return self.paced / self.live - 1 if self.live else 0.0

    @property
    def bound(self) -> float | None:
        """The error asked for; None where the issue asks for none."""
        if self.load > JUDGED_LOAD:
            return None
        if self.figure == "throughput" or self.figure.endswith("p50"):
            return WITHIN
        return TAIL_WITHIN if self.figure.endswith("p99") else None

    @property
    def verdict(self) -> str:
        return self._judged(self.error)

    @property
    def paced_verdict(self) -> str:
        return self._judged(self.paced_error)

    def _judged(self, error: float) -> str:
        if self.bound is None:
            return ""
        return "ok" if abs(error) <= self.bound else "MISSED"


def compare(scenario: Scenario, real: Replayed, model: Replayed, paced: Replayed) -> list[Row]:
    """All figures of a scenario."""
    runs = (real, model, paced)
    figures = {"throughput": [run.throughput for run in runs]}
    for name in ("ttft", "tpot", "e2e"):
        parts = [_parts(run.values(name)) for run in runs]
        for part, *values in zip(PARTS, *parts, strict=True):
            figures[f"{name} {part}"] = values
    figures["preemptions"] = [float(run.preemptions) for run in runs]
    figures["cache hits"] = [run.hits for run in runs]
    figures["refused"] = [_refused(run) for run in runs]
    return [Row(scenario.name, scenario.load, name, *found) for name, found in figures.items()]


def saturation(spec: InstanceSpec, scenario: Scenario, count: int = 256) -> float:
    """Requests a second when all are there at once."""
    flood = scenario.traffic_at(1e6, count, seed=7)
    model = simulated(replace(spec, max_queue=10**6), replace(flood, targets=Targets()))
    return count / model.seconds


def measure(
    scenario: Scenario, base: EngineConfig, minutes: float, seed: int
) -> tuple[list[Row], dict[str, Any]]:
    """Replays and simulates one scenario."""
    config = replace(base, max_context=4096, **(scenario.options or {}))
    spec = measured_engine(config, say).spec
    full = saturation(spec, scenario)
    rate = scenario.load * full
    count = max(32, round(rate * 60 * minutes))
    traffic = scenario.traffic_at(rate, count, seed)
    say(f"{scenario.name}: {count} requests at {rate:.2f}/s ({scenario.load:g} of {full:.2f}/s)")
    service = EngineService(config, report=lambda line: None)
    service.start()
    try:
        service.wait_ready()
        # Its first steps touch memory for the first time.
        live(service, scenario.traffic_at(1e3, 16, seed + 1), seed + 1)
        real = live(service, traffic, seed)
    except HeadraceError as error:
        raise SystemExit(str(error)) from error
    finally:
        service.close()
    slowness = real.slowness(spec.cost)
    model = simulated(spec, traffic)
    paced = simulated(replace(spec, cost=Slowed(spec.cost, slowness)), traffic)
    about = {"rate": rate, "requests": count, "slowness": slowness}
    return compare(scenario, real, model, paced), about


def table(rows: Sequence[Row], slowness: Mapping[str, float]) -> str:
    """Markdown: a line per figure."""
    lines = [
        "| scenario | load | figure | live | simulated | error | | at its speed | error | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = [_shown(row.figure, value) for value in (row.live, row.simulated, row.paced)]
        errors = [f"{e:+.1%}" if row.live else "" for e in (row.error, row.paced_error)]
        name = f"{row.scenario} ({slowness[row.scenario]:.2f})"
        lines.append(
            f"| {name} | {row.load:g} | {row.figure} | {shown[0]} | {shown[1]} | {errors[0]} |"
            f" {row.verdict} | {shown[2]} | {errors[1]} | {row.paced_verdict} |"
        )
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """How many of the judged figures are inside their bounds."""
    judged = [row for row in rows if row.bound is not None]
    inside = sum(row.verdict == "ok" for row in judged)
    paced = sum(row.paced_verdict == "ok" for row in judged)
    text = f"{inside} of {len(judged)} judged figures are inside their bounds; {paced} at the"
    text += " run's own speed"
    worst = max(judged, key=lambda row: abs(row.paced_error) / (row.bound or 1), default=None)
    if worst is not None:
        text += f"; the farthest there: {worst.scenario}, {worst.figure} ({worst.paced_error:+.1%})"
    return text


def _parts(values: list[float]) -> tuple[float, ...]:
    if not values:
        return (0.0,) * len(PARTS)
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return (float(np.mean(values)), float(p50), float(p90), float(p99))


def _refused(replayed: Replayed) -> float:
    return float(sum(o.error is not None for o in replayed.outcomes))


def _shown(figure: str, value: float) -> str:
    if figure == "cache hits":
        return f"{value:.1%}"
    if figure in ("throughput", "preemptions", "refused"):
        return f"{value:.0f}" + (" tok/s" if figure == "throughput" else "")
    return f"{value * 1000:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_engine_options(parser)
    parser.add_argument("--only", nargs="*", help="names of scenarios")
    parser.add_argument("--trace", type=Path, help="take the lengths of conversations from it")
    parser.add_argument("--minutes", type=float, default=1.0, help="of arrivals a scenario")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    talk = recorded(options.trace) if options.trace else conversation
    chosen = [s for s in scenarios(talk) if not options.only or s.name in options.only]
    if not chosen:
        raise SystemExit(f"no such scenario; there are {[s.name for s in scenarios(talk)]}")
    rows: list[Row] = []
    about: dict[str, Any] = {}
    for scenario in chosen:
        found, about[scenario.name] = measure(
            scenario, config_of(options), options.minutes, options.seed
        )
        rows += found
        say(summary(rows))
    print(table(rows, {name: found["slowness"] for name, found in about.items()}))
    print("\n" + summary(rows))
    if options.json:
        figures = [
            {**asdict(row), "error": row.error, "paced_error": row.paced_error} for row in rows
        ]
        options.json.write_text(json.dumps({"about": about, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
