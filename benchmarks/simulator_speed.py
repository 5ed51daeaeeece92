"""How fast the simulator is: requests, steps and tokens simulated in a second of one core.

``python -m benchmarks.simulator_speed [TRACE]`` serves the trace's lengths (or generated ones with
the quantiles of the Azure conversation trace of 2023) by one simulated engine on a described
device, with Poisson arrivals. Per number of sequence slots it first measures the rate of the
device's saturation, then simulates loads relative to it: plainly (every sequence touched in every
step) and fast, in turn, and prints the best of the repetitions. Both give the same results, and it
checks that they do. Fleets have a benchmark of their own, ``fleet_speed``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from headrace.scheduling.limits import Limits
from headrace.simulation.analytic_cost import AnalyticCost, cache_blocks
from headrace.simulation.arrival import Arrival
from headrace.simulation.device import load_device
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.model_shape import load_shape
from headrace.simulation.run import Totals, simulate
from headrace.simulation.served import Served
from headrace.workloads.trace import Trace

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
PROMPTS = (2, 207, 396, 1020, 1189, 2734, 4142, 14050)
OUTPUTS = (7, 54, 85, 129, 395, 424, 601, 1000)
"""Tokens at those shares of the Azure conversation trace's requests."""

Lengths = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Speed:
    """What one core simulates in a second of its time. ``running`` is the mean batch."""

    slots: int
    load: float
    how: str
    requests: float
    steps: float
    tokens: float
    running: float
    steps_per_request: float


def lengths(trace: Path | None, count: int) -> Lengths:
    """(prompt, output) tokens of so many requests."""
    if trace is None:
        shares = np.random.default_rng(0).random((2, count))
        prompts = np.interp(shares[0], SHARES, PROMPTS).astype(int)
        outputs = np.interp(shares[1], SHARES, OUTPUTS).astype(int)
        return list(zip(prompts.tolist(), outputs.tolist(), strict=True))
    return [
        (max(1, entry.shape.prompt_tokens), max(1, entry.shape.output_tokens))
        for entry in islice(Trace(trace), count)
    ]


def arrivals(shapes: Lengths, rate: float) -> Iterator[Arrival]:
    """Poisson arrivals at ``rate`` a second; all at once if it is infinite."""
    gaps = np.random.default_rng(1).exponential(1.0 / rate, len(shapes)).tolist()
    now = 0.0
    for (prompt, output), gap in zip(shapes, gaps, strict=True):
        now += gap
        yield Arrival(now, prompt, output)


def make_spec(device: str, model: str, slots: int, budget: int) -> InstanceSpec:
    described, shape = load_device(device), load_shape(model)
    assert shape is not None, f"the shape of {model} is not known"
    return InstanceSpec(
        cost=AnalyticCost(described, shape),
        num_blocks=cache_blocks(described, shape),
        limits=Limits(budget, max(budget, slots), slots),
        max_queue=1 << 40,
    )


def timed(shapes: Lengths, rate: float, spec: InstanceSpec) -> tuple[float, Totals, float]:
    """Processor seconds, totals, and a sum over the results to compare them by."""
    check = 0.0

    def tell(served: Served) -> None:
        nonlocal check
        check += (served.ttft or 0.0) + served.end

    began = time.process_time()
    totals = simulate(arrivals(shapes, rate), spec, tell)
    return time.process_time() - began, totals, check


def compare(
    shapes: Lengths, spec: InstanceSpec, load: float, rate: float, repetitions: int
) -> list[Speed]:
    """Plain and fast, in turn."""
    best: dict[str, float] = {}
    found: dict[str, tuple[Totals, float]] = {}
    for _ in range(repetitions):
        for how in ("plain", "fast"):
            seconds, *found[how] = timed(shapes, rate, replace(spec, plain=how == "plain"))
            best[how] = min(seconds, best.get(how, seconds))
    assert found["plain"] == found["fast"], "the results differ"
    totals = found["fast"][0]
    return [
        Speed(
            spec.limits.sequences, load, how, totals.requests / seconds, totals.steps / seconds,
            totals.tokens / seconds, totals.output / totals.steps, totals.steps / totals.requests,
        )
        for how, seconds in best.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("trace", nargs="?", type=Path)
    parser.add_argument("--device", default="a100-80g")
    parser.add_argument("--model", default="llama-3-8b")
    parser.add_argument("--slots", default="16,64,128,256", help="sequences that run at most")
    parser.add_argument("--loads", default="0.5,0.95,1.2", help="relative to saturation")
    parser.add_argument("--budget", type=int, default=1024, help="tokens a step")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--order", default="fcfs")
    parser.add_argument("--admission", default="watermark")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    options = parser.parse_args()
    shapes = lengths(options.trace, options.requests)
    loads = [float(load) for load in options.loads.split(",")]
    speeds: list[Speed] = []
    for slots in map(int, options.slots.split(",")):
        spec = make_spec(options.device, options.model, slots, options.budget)
        spec = replace(spec, order=options.order, admission=options.admission)
        _, totals, _ = timed(shapes, 1e9, spec)
        rate = totals.requests / totals.end
        for load in loads:
            speeds += compare(shapes, spec, load, load * rate, options.repetitions)
    if options.json:
        print(json.dumps([asdict(speed) for speed in speeds], indent=1))
        return
    print(f"{'slots':>5} {'load':>5} {'':>6} {'requests/s':>11} {'steps/s':>9} {'tokens/s':>11}"
          f" {'decodes a step':>15} {'steps a request':>16}")  # fmt: skip
    for s in speeds:
        print(f"{s.slots:>5} {s.load:>5g} {s.how:>6} {s.requests:>11,.0f} {s.steps:>9,.0f}"
              f" {s.tokens:>11,.0f} {s.running:>15.1f} {s.steps_per_request:>16.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
