"""Goodput under overload: the default policies against first come first served, queue unbounded.

Conversations arrive at shares of what the engine completes when all are there at once. A request
is good if its first token came within 1 s and its others 100 ms apart on average. Past saturation
an engine cannot serve everybody; the question is whether it goes on serving as many well.

    python -m benchmarks.goodput [--live] [--plot FILE.svg] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fidelity import TARGETS, Scenario, saturation
from benchmarks.in_process import add_engine_options, config_of
from benchmarks.replay import Replayed, live, say, simulated
from benchmarks.traffic import Lengths, Traffic, conversation, recorded
from headrace.cli.simulated_engine import measured_engine
from headrace.engine.config import EngineConfig
from headrace.engine.service import EngineService
from headrace.nouns.request import Targets
from headrace.simulation.instance import InstanceSpec

LOADS = (0.5, 1.0, 1.5, 2.0)
TTFT, TPOT = 1.0, 0.1
MAX_CONTEXT = 4096
UNBOUNDED = 1_000_000
FCFS: dict[str, Any] = {
    "order": "fcfs",
    "admission": "watermark",
    "batching": "stall-free",
    "preemption": "recompute",
    "max_queue": UNBOUNDED,
}


@dataclass(frozen=True, slots=True)
class Point:
    """One run: good and answered requests a second, and tails in seconds."""

    policy: str
    clock: str
    load: float
    offered: float
    good: float
    answered: float
    refused: int
    inside: float
    ttft_p95: float
    tpot_p95: float


def point(policy: str, clock: str, load: float, traffic: Traffic, run: Replayed) -> Point:
    """The figures of a run. Rates count over the time of arrivals: what was answered later than
    that was not answered well."""
    span = max(run.outcomes[-1].at, 1e-9)
    answered = [o for o in run.outcomes if o.error is None]
    good = [o for o in answered if o.inside(TTFT, TPOT)]
    return Point(
        policy,
        clock,
        load,
        traffic.count / span,
        len(good) / span,
        len(answered) / span,
        len(run.outcomes) - len(answered),
        len(good) / max(len(answered), 1),
        float(np.percentile(run.values("ttft") or [0.0], 95)),
        float(np.percentile(run.values("tpot") or [0.0], 95)),
    )


def sweep(
    run: Callable[[EngineConfig, Traffic], Replayed],
    clock: str,
    base: EngineConfig,
    traffic_at: Callable[[float, Targets], Traffic],
) -> list[Point]:
    """All loads under both policies."""
    points = []
    for load in LOADS:
        for policy, config, targets in (
            ("default", base, TARGETS),
            ("fcfs, unbounded", replace(base, **FCFS), Targets()),
        ):
            traffic = traffic_at(load, targets)
            found = point(policy, clock, load, traffic, run(config, traffic))
            say(f"{clock} {policy} at {load:g}: {found.good:.2f} good of {found.offered:.2f}/s")
            points.append(found)
    return points


def run_live(config: EngineConfig, traffic: Traffic) -> Replayed:
    """On an engine of its own."""
    service = EngineService(config, report=lambda line: None)
    service.start()
    try:
        service.wait_ready()
        live(service, replace(traffic, rate=1e3, count=16, seed=99), 99)
        return live(service, traffic, traffic.seed)
    finally:
        service.close()


def with_policies(spec: InstanceSpec, config: EngineConfig) -> InstanceSpec:
    """The same machine under the policies of ``config``."""
    return replace(
        spec,
        order=config.order,
        admission=config.admission,
        batching=config.batching,
        preemption=config.preemption,
        max_queue=config.max_queue,
    )


def falls(points: Sequence[Point], policy: str, clock: str) -> float:
    """The share of its best goodput that a policy keeps at twice saturation."""
    goods = {p.load: p.good for p in points if (p.policy, p.clock) == (policy, clock)}
    best = max(goods.values())
    return goods[max(goods)] / best if best else 0.0


def table(points: Sequence[Point]) -> str:
    lines = [
        "| clock | policy | load | offered/s | good/s | answered/s | good of answered | refused |"
        " TTFT p95 | TPOT p95 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for p in points:
        lines.append(
            f"| {p.clock} | {p.policy} | {p.load:g} | {p.offered:.2f} | {p.good:.2f} |"
            f" {p.answered:.2f} | {p.inside:.0%} | {p.refused} | {p.ttft_p95:.2f} s |"
            f" {p.tpot_p95 * 1000:.0f} ms |"
        )
    return "\n".join(lines)


def draw(points: Sequence[Point], path: Path) -> None:
    """Goodput against load, a line a policy and clock."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = {"default": "#1b6ca8", "fcfs, unbounded": "#c8553d"}
    for policy, clock in dict.fromkeys((p.policy, p.clock) for p in points):
        chosen = [p for p in points if (p.policy, p.clock) == (policy, clock)]
        axes.plot(
            [p.load for p in chosen],
            [p.good for p in chosen],
            "o-" if clock == "live" else "s--",
            color=colours[policy],
            label=f"{policy}, {clock}",
        )
    axes.set(
        xlabel="offered load, multiple of saturation", ylabel="good requests/s", ylim=(0, None)
    )
    axes.set_title(f"TTFT within {TTFT:g} s and TPOT within {TPOT * 1000:g} ms", fontsize=10)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


def measure(
    base: EngineConfig, talk: Lengths, minutes: float, with_live: bool
) -> tuple[list[Point], float]:
    """The points, and saturation in requests a second."""
    spec = measured_engine(base, say).spec
    full = saturation(spec, Scenario("conversation", 1.0, talk))

    def traffic_at(load: float, targets: Targets) -> Traffic:
        count = max(32, round(load * full * 60 * minutes))
        return Traffic("goodput", talk, load * full, count, seed=3, targets=targets)

    def run_simulated(config: EngineConfig, traffic: Traffic) -> Replayed:
        return simulated(with_policies(spec, config), traffic)

    points = sweep(run_simulated, "simulated", base, traffic_at)
    if with_live:
        points += sweep(run_live, "live", base, traffic_at)
    return points, full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_engine_options(parser)
    parser.add_argument("--trace", type=Path, help="take the lengths of conversations from it")
    parser.add_argument("--minutes", type=float, default=1.0, help="of arrivals a run")
    parser.add_argument("--live", action="store_true", help="run each load live, too")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    talk = recorded(options.trace) if options.trace else conversation
    base = replace(config_of(options), max_context=MAX_CONTEXT)
    points, full = measure(base, talk, options.minutes, options.live)
    print(f"saturation: {full:.2f} requests/s")
    print(table(points))
    for clock in dict.fromkeys(p.clock for p in points):
        for policy in dict.fromkeys(p.policy for p in points):
            kept = falls(points, policy, clock)
            print(f"{clock}, {policy}: keeps {kept:.0%} of its best goodput at {LOADS[-1]:g}x")
    if options.plot:
        draw(points, options.plot)
    if options.json:
        found: dict[str, Any] = {"saturation": full, "points": [asdict(p) for p in points]}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
