"""Timeline: what a trace of a simulated fleet holds, and what it leaves out."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

from headrace.scheduling.limits import Limits
from headrace.scheduling.linear_cost import LinearCost
from headrace.simulation.arrival import Arrival
from headrace.simulation.fleet import copies, simulate_fleet
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.member import Member, Outage
from headrace.simulation.routers import registry
from headrace.simulation.served import Served
from headrace.simulation.timeline import Timeline

SPEC = InstanceSpec(
    cost=LinearCost({"step": 0.01, "rows": 0.001}), num_blocks=12, limits=Limits(32, 64, 4)
)


def traced(
    timeline: Timeline, arrivals: list[Arrival], members: list[Member]
) -> tuple[list[dict[str, Any]], list[Served]]:
    served: list[Served] = []
    simulate_fleet(
        arrivals, members, registry.create("round-robin"), served.append,
        lambda index: timeline.listen(index, f"instance {index}"),
    )  # fmt: skip
    found = json.loads(json.dumps(timeline.to_json()))
    return found["traceEvents"], served


def arrivals(count: int) -> list[Arrival]:
    return [Arrival(0.05 * i, 40, 60, id=f"r{i}") for i in range(count)]


def test_steps_fill_the_time_that_an_instance_is_busy() -> None:
    entries, served = traced(Timeline(0.0, 1e9), arrivals(10), copies(Member(spec=SPEC), 2))
    for pid in (1, 2):
        steps = [e for e in entries if e["ph"] == "X" and e["pid"] == pid]
        assert steps
        for before, after in pairwise(steps):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-6
        assert all({"tokens", "slices", "reason", "free_blocks"} <= e["args"].keys() for e in steps)
        counters = Counter(e["name"] for e in entries if e["ph"] == "C" and e["pid"] == pid)
        assert counters == {"cache blocks": len(steps), "sequences": len(steps)}
    last = max(e["ts"] + e["dur"] for e in entries if e["ph"] == "X")
    assert abs(last - 1e6 * max(s.end for s in served)) < 1e-3


def test_phases_of_a_request_follow_each_other_to_its_end() -> None:
    entries, served = traced(Timeline(0.0, 1e9), arrivals(10), [Member(spec=SPEC)])
    assert sum(s.preemptions for s in served), "the case is meant to have preemptions"
    for one in served:
        mine = [e for e in entries if e.get("id") == f"1 {one.arrival.id} 0"]
        begun, ended = mine[0::2], mine[1::2]
        assert all((b["ph"], e["ph"]) == ("b", "e") for b, e in zip(begun, ended, strict=True))
        assert all(b["name"] == e["name"] for b, e in zip(begun, ended, strict=True))
        assert [e["ts"] for e in ended[:-1]] == [b["ts"] for b in begun[1:]]
        assert begun[0]["name"] == "waiting"
        names = Counter(b["name"] for b in begun)
        assert names["preempted"] == one.preemptions
        assert ended[-1]["ts"] == 1e6 * one.end
        waits = {k[5:]: v for k, v in begun[-1]["args"].items() if k.startswith("wait_")}
        assert waits == dict(one.waits)


def test_only_the_chosen_seconds_are_kept() -> None:
    whole, _ = traced(Timeline(0.0, 1e9), arrivals(20), [Member(spec=SPEC)])
    part, _ = traced(Timeline(0.5, 0.8), arrivals(20), [Member(spec=SPEC)])
    inside = [e for e in whole if e["ph"] == "C" and 0.5e6 <= e["ts"] <= 0.8e6]
    assert [e for e in part if e["ph"] == "C"] == inside
    assert 0 < len(part) < len(whole)
    for entry in part:
        if entry["ph"] == "X":
            assert entry["ts"] + entry["dur"] >= 0.5e6
            assert entry["ts"] + entry["dur"] <= 0.8e6


def test_a_full_timeline_says_until_when() -> None:
    timeline = Timeline(0.0, 1e9, most=50)
    entries, _ = traced(timeline, arrivals(20), [Member(spec=SPEC)])
    assert len(entries) <= 52  # and two names
    assert timeline.full_at is not None
    assert 0 < timeline.full_at == timeline.end
    assert timeline.to_json()["otherData"]["to_seconds"] == timeline.full_at


def test_refusals_failures_and_several_answers_are_told() -> None:
    members = [Member(spec=SPEC, outages=[Outage(down=0.2)])]
    entries, served = traced(
        Timeline(0.0, 1e9), [Arrival(0.0, 20, 30, id="two", n=2), Arrival(0.1, 4000, 1)], members
    )
    assert len(served) == 2
    assert sum(e["name"] == "refused" for e in entries) == 1
    last = [e for e in entries if e["ph"] == "b" and e["args"]["until"] == "aborted"]
    assert {e["id"] for e in last} == {"1 two 0", "1 two 1"}
