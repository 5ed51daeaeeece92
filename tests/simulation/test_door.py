"""The door in simulations: the same object as live, and what it does past saturation."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from headrace.nouns.event import Event, Kind
from headrace.nouns.request import Targets
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling.limits import Limits
from headrace.scheduling.linear_cost import LinearCost
from headrace.simulation.arrival import Arrival
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.run import simulate
from headrace.simulation.served import Served

COST = LinearCost({"step": 0.012, "prefill": 2e-4, "decodes": 3e-4, "decode_pairs": 4e-8})
SATURATION = 3.9
"""Requests a second that an engine of these tests can serve."""
TTFT = 1.0


def traffic(rate: float, seconds: float, ttft: float | None) -> list[Arrival]:
    drawn, now, found = random.Random(5), 0.0, []
    while now < seconds:
        now += drawn.expovariate(rate)
        prompt = min(3000, max(8, int(drawn.lognormvariate(6.3, 1.0))))
        output = min(800, max(2, int(drawn.lognormvariate(4.9, 0.8))))
        found.append(Arrival(now, prompt, output, 1000, targets=Targets(ttft=ttft)))
    return found


def served_of(arrivals: list[Arrival], order: str, **options: object) -> list[Served]:
    limits = Limits(512, 2048, 64)
    spec = InstanceSpec(cost=COST, num_blocks=6000, limits=limits, order=order, **options)  # type: ignore[arg-type]
    found: list[Served] = []
    simulate(arrivals, spec, found.append)
    return found


def in_time(served: list[Served]) -> int:
    return sum(s.ttft is not None and s.ttft <= TTFT for s in served)


@pytest.mark.parametrize("order", ["fcfs", "deadline"])
def test_goodput_does_not_fall_past_saturation(order: str) -> None:
    seconds = 60.0
    at = {load: served_of(traffic(load * SATURATION, seconds, TTFT), order) for load in (1.0, 2.0)}
    assert in_time(at[2.0]) >= 0.9 * in_time(at[1.0])
    accepted = [s for s in at[2.0] if not s.refused]
    assert in_time(accepted) >= 0.85 * len(accepted)
    assert Counter(s.code for s in at[2.0] if s.refused).keys() == {"target_out_of_reach"}


def test_without_the_door_first_come_first_served_collapses() -> None:
    """What the test above would be without it: the same traffic, its target not told."""
    served = served_of(traffic(2 * SATURATION, 60.0, None), "fcfs")
    assert in_time(served) < 0.2 * len(served)
    assert not any(s.refused for s in served)


def test_two_runs_refuse_the_same() -> None:
    arrivals = traffic(2 * SATURATION, 30.0, TTFT)
    runs = [[(s.at, s.code) for s in served_of(arrivals, "deadline")] for _ in range(2)]
    assert runs[0] == runs[1]
    assert any(code for _, code in runs[0])


def test_a_tenants_bounds_hold_in_simulations() -> None:
    tenants = Tenants({"flood": Terms(max_waiting=3, max_running=2)})
    arrivals = [Arrival(0.0, 20, 40, tenant="flood", id=f"f{i}") for i in range(9)]
    arrivals += [Arrival(0.0, 20, 40, tenant="other", id=f"o{i}") for i in range(9)]
    events: list[Event] = []
    found: list[Served] = []
    spec = InstanceSpec(cost=COST, num_blocks=600, limits=Limits(512, 512, 64), tenants=tenants)
    simulate(arrivals, spec, found.append, events.append)
    refused = {s.arrival.id: s.code for s in found if s.refused}
    assert refused == {f"f{i}": "tenant_queue_full" for i in range(3, 9)}
    running, most = 0, 0
    for event in events:
        if str(event.request_id).startswith("f"):
            running += (event.kind is Kind.ADMITTED) - (event.kind is Kind.FINISHED)
            most = max(most, running)
    assert most == 2
