"""How fast fleets are simulated, against their size: requests, steps and tokens per second.

Each instance gets the same load, near its saturation, so a fleet's work grows with its size.
Seconds are of one core's time, which an idle machine makes equal to those of a clock. Run:
``python -m benchmarks.fleet_speed`` (docs/simulation.md has the figures).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from benchmarks.traffic import Traffic, conversation
from headrace.scheduling.limits import Limits
from headrace.simulation.analytic_cost import AnalyticCost, cache_blocks
from headrace.simulation.device import load_device
from headrace.simulation.fleet import copies, simulate_fleet
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.member import Member
from headrace.simulation.model_shape import load_shape
from headrace.simulation.routers import registry

SIZES = (1, 4, 16, 64)
OTHERS = 16  # instances behind routers other than the default one
LEAST = 2000  # requests of a simulation


@dataclass(frozen=True, slots=True)
class Speed:
    """One simulation: rates per second of a core; ``busy`` is the share of time that steps ran."""

    instances: int
    requests: float
    steps: float
    tokens: float
    busy: float
    batch: float


def measure(spec: InstanceSpec, size: int, rate: float, count: int, router: str) -> Speed:
    """Simulates ``count`` requests on ``size`` instances, at ``rate`` for each."""
    load = Traffic("conversation", conversation, rate * size, count, max_context=4096)
    members = copies(Member(spec=spec, name="instance"), size)
    served = 0

    def tell(one: object) -> None:
        nonlocal served
        served += 1

    started = time.process_time()
    totals = simulate_fleet(load, members, registry.create(router), tell)
    seconds = time.process_time() - started
    assert served == count
    up = sum(instance.up for instance in totals.instances)
    return Speed(
        size, count / seconds, totals.steps / seconds, totals.tokens / seconds, totals.busy / up,
        totals.output / totals.steps,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="a100-80g")
    parser.add_argument("--model", default="llama-2-7b")
    parser.add_argument("--rate", type=float, default=6.0, help="requests a second an instance")
    parser.add_argument("--requests", type=int, default=300, help="of each instance")
    parser.add_argument("--repeat", type=int, default=2, help="the best of so many is shown")
    options = parser.parse_args()
    device, shape = load_device(options.device), load_shape(options.model)
    if shape is None:
        raise SystemExit(f"there is no shape {options.model!r}; see headrace simulate --help")
    spec = InstanceSpec(
        cost=AnalyticCost(device, shape),
        num_blocks=cache_blocks(device, shape),
        limits=Limits(512, 2048, 256),
        max_queue=10_000,
    )
    print(f"{options.model} on {options.device}, {options.rate:g} req/s an instance")
    print("| router | instances | busy | outputs a step | requests/s | steps/s | tokens/s |")
    print("|---|---|---|---|---|---|---|")
    sizes = [(registry.DEFAULT, size) for size in SIZES]
    others = [(name, OTHERS) for name in registry.BUILT_IN if name != registry.DEFAULT]
    for router, size in sizes + others:
        count = max(LEAST, options.requests * size)
        runs = [measure(spec, size, options.rate, count, router) for _ in range(options.repeat)]
        best = max(runs, key=lambda run: run.requests)
        print(
            f"| {router} | {size} | {best.busy:.0%} | {best.batch:.1f} | {best.requests:,.0f} |"
            f" {best.steps:,.0f} | {best.tokens:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
