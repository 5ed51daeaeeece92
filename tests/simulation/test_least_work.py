"""LeastWork: no simulation does better than its bounds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.request import Targets
from headrace.scheduling.limits import Limits
from headrace.scheduling.linear_cost import LinearCost
from headrace.simulation.analytic_cost import AnalyticCost
from headrace.simulation.arrival import Arrival
from headrace.simulation.device import load_device
from headrace.simulation.fleet import copies, simulate_fleet
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.least_work import least_work
from headrace.simulation.member import Member
from headrace.simulation.model_shape import load_shape
from headrace.simulation.routers import registry
from headrace.simulation.served import Served


def cost(device: str, model: str = "llama-2-7b") -> AnalyticCost:
    shape = load_shape(model)
    assert shape is not None
    return AnalyticCost(load_device(device), shape)


def arrivals(count: int, rate: float, seed: int = 0) -> list[Arrival]:
    rng = random.Random(seed)
    now, found = 0.0, []
    for _ in range(count):
        found.append(Arrival(now, rng.randint(10, 2000), rng.randint(1, 200)))
        now += rng.expovariate(rate)
    return found


def inside(served: Served, targets: Targets) -> bool:
    if not served.completed or served.ttft is None:
        return False
    late = targets.ttft is not None and served.ttft > targets.ttft
    slow = targets.tpot is not None and (served.tpot or 0.0) > targets.tpot
    return not (late or slow or served.e2e > (targets.deadline or float("inf")))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 50),
    device=st.sampled_from(["l4", "a100-80g", "epyc-9654"]),
    rate=st.sampled_from([2.0, 20.0]),
    targets=st.sampled_from(
        [Targets(ttft=1.0, tpot=0.1), Targets(ttft=0.3), Targets(deadline=20.0), Targets(tpot=0.05)]
    ),
)
def test_fewer_than_the_bound_never_do(
    seed: int, device: str, rate: float, targets: Targets
) -> None:
    load, steps = arrivals(60, rate, seed), cost(device)
    bound = least_work(load, steps, 32, targets, 0.9)
    spec = InstanceSpec(cost=steps, num_blocks=5000, limits=Limits(512, 2048, 32))
    served: list[Served] = []
    members = copies(Member(spec=spec), max(1, bound.count - 1))
    simulate_fleet(load, members, registry.create("least-tokens"), served.append)
    share = sum(inside(one, targets) for one in served) / len(served)
    assert share <= bound.alone + 1e-9
    if bound.count > 1:
        assert share < 0.9


def test_a_heavy_load_needs_several_devices() -> None:
    load = arrivals(3000, 50.0)
    found = least_work(load, cost("l4"), 64, Targets(ttft=1.0, tpot=0.1), 0.95)
    assert found.count >= 9
    faster = least_work(load, cost("h100-sxm"), 64, Targets(ttft=1.0, tpot=0.1), 0.95)
    assert 1 < faster.count < found.count / 3


def test_what_no_device_does_alone_is_told() -> None:
    found = least_work(arrivals(50, 1.0), cost("l4", "llama-3-8b"), 64, Targets(tpot=0.01), 0.95)
    assert found.alone < 0.2  # answers of one token have no TPOT
    assert found.best_tpot == pytest.approx(16e9 / 3e11 / 0.745, rel=0.3)
    assert least_work([], cost("l4"), 64, Targets(), 0.95).alone == 1.0


def test_other_cost_models_bound_nothing() -> None:
    prices = LinearCost({"step": 0.01, "rows": 0.001})
    found = least_work(arrivals(500, 500.0), prices, 64, Targets(ttft=0.5), 0.95)
    assert found.count == 1
    assert 0 < found.alone < 1
