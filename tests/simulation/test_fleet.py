"""A fleet: every request ends once, in order, the same way each time; one engine is one engine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.errors import ConfigError
from headrace.nouns.event import Event, Kind
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.limits import Limits
from headrace.scheduling.linear_cost import LinearCost
from headrace.simulation.arrival import Arrival
from headrace.simulation.fleet import NOBODY, copies, simulate_fleet
from headrace.simulation.fleet_totals import FleetTotals
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.member import Member, Outage, RandomOutages
from headrace.simulation.router import Load
from headrace.simulation.routers import registry
from headrace.simulation.run import simulate
from headrace.simulation.served import Served

COST = LinearCost({"step": 0.01, "rows": 0.0005})
SPEC = InstanceSpec(cost=COST, num_blocks=64, limits=Limits(64, 512, 8), max_queue=30)
NAMES = list(registry.BUILT_IN)


def traffic(count: int, rate: float, seed: int = 0) -> list[Arrival]:
    rng = random.Random(seed)
    now, arrivals = 0.0, []
    for i in range(count):
        prefix = ((f"g{rng.randrange(3)}", 64),) if rng.random() < 0.5 else ()
        arrivals.append(
            Arrival(now, rng.randint(1, 200), rng.randint(1, 60), id=f"r{i}", prefix=prefix)
        )
        now += rng.expovariate(rate) if rng.random() < 0.8 else 0.0  # some at one time
    return arrivals


def run(
    arrivals: list[Arrival], members: list[Member], router: str = "least-tokens"
) -> tuple[FleetTotals, list[Served]]:
    served: list[Served] = []
    totals = simulate_fleet(arrivals, members, registry.create(router, 7), served.append)
    return totals, served


class SlowCost:
    """The longer the index, the slower: for fleets of different engines."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def seconds(self, load: StepLoad) -> float:
        return self.factor * COST.seconds(load)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    rate=st.sampled_from([2.0, 20.0, 200.0]),
    batching=st.sampled_from(["stall-free", "prefill-first", "static"]),
    blocks=st.sampled_from([20, 64]),
)
def test_a_fleet_of_one_is_one_engine(seed: int, rate: float, batching: str, blocks: int) -> None:
    spec = replace(SPEC, batching=batching, num_blocks=blocks)
    arrivals = traffic(60, rate, seed)
    alone: list[Served] = []
    alone_events: list[Event] = []
    totals = simulate(arrivals, spec, alone.append, alone_events.append)
    served: list[Served] = []
    events: list[Event] = []
    fleet = simulate_fleet(
        arrivals, [Member(spec=spec)], registry.create("round-robin"), served.append,
        lambda index: events.append,
    )  # fmt: skip
    assert served == alone
    assert events == alone_events
    for name in ("requests", "refused", "output", "steps", "tokens", "preemptions", "end"):
        assert getattr(fleet, name) == getattr(totals, name), name
    assert fleet.busy == pytest.approx(totals.busy, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    router=st.sampled_from(NAMES),
    count=st.integers(1, 5),
    failing=st.booleans(),
    rate=st.sampled_from([5.0, 50.0]),
)
def test_every_request_ends_exactly_once(
    seed: int, router: str, count: int, failing: bool, rate: float
) -> None:
    arrivals = traffic(120, rate, seed)
    members = [
        Member(
            spec=replace(SPEC, cost=SlowCost(1 + i)),
            speed=1 / (1 + i),
            start_up=0.1 * i,
            outages=RandomOutages(1.5, 0.5, seed + i) if failing else (),
            drains=2.0 if i == 4 else None,
        )
        for i in range(count)
    ]
    totals, served = run(arrivals, members, router)
    assert Counter(s.arrival.id for s in served) == Counter(a.id for a in arrivals)
    refused = sum(s.refused for s in served)
    failed = sum(not s.refused and not s.completed for s in served)
    assert (totals.requests, totals.refused, totals.failed) == (120, refused, failed)
    assert all(s.output == s.arrival.output_tokens for s in served if s.completed)
    assert all(s.end >= s.at for s in served)
    assert failing or failed == totals.retries == 0
    assert [s.end for s in served] == sorted(s.end for s in served)
    again, same = run(arrivals, members, router)
    assert (again, same) == (totals, served)


def test_a_fleet_carries_more_than_one_engine() -> None:
    arrivals = traffic(300, 40.0)
    one, _ = run(arrivals, [Member(spec=SPEC)])
    four, served = run(arrivals, copies(Member(spec=SPEC), 4))
    assert one.refused > 0 == four.refused
    assert all(s.completed for s in served)
    assert sum(i.requests for i in four.instances) == 300
    assert max(i.requests for i in four.instances) < 2 * min(i.requests for i in four.instances)
    assert all(0 < i.busy <= i.up for i in four.instances)
    assert all(0 < i.peak_blocks <= i.blocks for i in four.instances)


def test_a_failure_ends_answers_that_have_begun_and_moves_the_others() -> None:
    # At 0.2 s the first has its first token, the second still waits for its prompt to be computed.
    arrivals = [Arrival(0.0, 10, 50, id="streams"), Arrival(0.19, 60, 5, id="waits")]
    members = [
        Member(spec=SPEC, name="a", outages=[Outage(down=0.2)]),
        Member(spec=SPEC, name="b", starts=0.195),
    ]
    totals, served = run(arrivals, members, "round-robin")
    streams, waits = served
    assert (streams.arrival.id, streams.completed, streams.end) == ("streams", False, 0.2)
    assert 0 < streams.output < 50
    assert waits.completed
    assert waits.ttft is not None and waits.ttft > 0.01  # counted from the first arrival
    assert (totals.failed, totals.retries, totals.refused) == (1, 1, 0)
    assert [i.failures for i in totals.instances] == [1, 0]
    assert totals.instances[0].up == pytest.approx(0.2)


def test_where_nobody_is_up_requests_are_refused() -> None:
    member = Member(spec=SPEC, start_up=1.0, outages=[Outage(down=2.0, up=3.0)])
    arrivals = [Arrival(at, 10, 5, id=str(at)) for at in (0.5, 1.0, 2.5, 3.5, 4.0)]
    _, served = run(arrivals, [member])
    assert {s.code for s in served if s.refused} == {"no_instance"}
    refused = {s.arrival.id: s.refusal for s in served if s.refused}
    assert refused == {"0.5": NOBODY, "2.5": NOBODY, "3.5": NOBODY}
    assert {s.arrival.id for s in served if s.completed} == {"1.0", "4.0"}


def test_an_instance_that_fails_while_it_starts_starts_anew() -> None:
    member = Member(spec=SPEC, start_up=1.0, outages=[Outage(down=0.5, up=0.75)])
    arrivals = [Arrival(1.5, 10, 5, id="early"), Arrival(1.75, 10, 5, id="late")]
    _, served = run(arrivals, [member])
    assert {s.arrival.id: s.completed for s in served} == {"early": False, "late": True}


def test_a_failed_instance_has_forgotten_its_prefixes() -> None:
    prefix = (("system", 32),)
    arrivals = [Arrival(at, 40, 2, id=str(at), prefix=prefix) for at in (0.0, 1.0, 3.0, 4.0)]
    _, served = run(arrivals, [Member(spec=SPEC, outages=[Outage(down=2.0, up=2.5)])])
    assert [s.cached for s in served] == [0, 32, 0, 32]


def test_draining_ends_what_there_is_and_takes_no_more() -> None:
    members = [Member(spec=SPEC, drains=0.2), Member(spec=SPEC, starts=0.2)]
    arrivals = [Arrival(0.1, 100, 50, id="a"), Arrival(0.2, 100, 50, id="b")]
    totals, served = run(arrivals, members)
    assert all(s.completed for s in served)
    assert [i.requests for i in totals.instances] == [1, 1]
    first = next(s for s in served if s.arrival.id == "a")
    assert totals.instances[0].up == first.end


def test_a_request_goes_where_it_fits() -> None:
    members = [Member(spec=replace(SPEC, num_blocks=4)), Member(spec=SPEC)]
    arrivals = [Arrival(float(i), 100, 10, id=str(i)) for i in range(4)]
    totals, served = run(arrivals, members, "round-robin")
    assert all(s.completed for s in served)
    assert [i.requests for i in totals.instances] == [0, 4]
    _, served = run([Arrival(0.0, 5000, 10)], members)
    assert "cache blocks" in served[0].refusal
    assert served[0].code == "context_length_exceeded"


def test_arrivals_are_read_as_their_time_comes() -> None:
    ended = 0

    def stream() -> object:
        for i in range(500):
            assert i - ended < 100, "arrivals are read ahead"
            yield Arrival(0.05 * i, 20, 5)

    def count(served: Served) -> None:
        nonlocal ended
        ended += 1

    simulate_fleet(stream(), copies(Member(spec=SPEC), 2), registry.create("two-choices"), count)  # type: ignore[arg-type]
    assert ended == 500


def test_the_same_arrival_may_come_again() -> None:
    arrival = Arrival(0.0, 30, 5)
    totals, served = run([arrival] * 10, copies(Member(spec=SPEC), 2))
    assert (len(served), totals.refused) == (10, 0)
    assert [i.requests for i in totals.instances] == [5, 5]


def test_events_carry_their_instance() -> None:
    heard: dict[int, list[Event]] = {0: [], 1: []}
    simulate_fleet(
        traffic(20, 50.0), copies(Member(spec=SPEC), 2), registry.create("round-robin"),
        lambda served: None, lambda index: heard[index].append,
    )  # fmt: skip
    for events in heard.values():
        assert [e.time for e in events] == sorted(e.time for e in events)
        assert sum(e.kind is Kind.ARRIVED for e in events) == 10


def test_every_step_is_watched_also_after_a_failure() -> None:
    watched: Counter[int] = Counter()

    def watch(index: int, load: StepLoad) -> None:
        watched[index] += load.rows

    members = [Member(spec=SPEC, outages=[Outage(down=1.0, up=1.2)]), Member(spec=SPEC)]
    totals = simulate_fleet(
        traffic(100, 30.0), members, registry.create("round-robin"), lambda served: None,
        watch=watch,
    )  # fmt: skip
    # The step under way at the failure was begun and never ended.
    assert 0 <= watched[0] - totals.instances[0].tokens <= SPEC.limits.token_budget
    assert watched[1] == totals.instances[1].tokens > 0


def test_times_may_not_decrease() -> None:
    with pytest.raises(ConfigError, match=r"arrival at 1.0 s comes after one at 2.0 s"):
        run([Arrival(2.0, 1, 1), Arrival(1.0, 1, 1)], [Member(spec=SPEC)])


class Stubborn:
    """Chooses the first instance it has seen, there or not."""

    def __init__(self) -> None:
        self.first: Load | None = None

    def choose(self, arrival: Arrival, loads: Sequence[Load]) -> Load:
        self.first = self.first or loads[0]
        return self.first

    def lost(self, index: int) -> None: ...


def test_a_router_may_only_choose_from_those_that_are_there() -> None:
    members = [Member(spec=SPEC, name="a", drains=1.0), Member(spec=SPEC, name="b")]
    with pytest.raises(ConfigError, match="the router chose a, which takes no requests"):
        simulate_fleet(
            [Arrival(0.0, 5, 5), Arrival(2.0, 5, 5)], members, Stubborn(), lambda served: None
        )


def test_bad_fleets() -> None:
    with pytest.raises(ConfigError, match="no instances"):
        run([], [])
    with pytest.raises(ConfigError, match="end after it begins"):
        Outage(down=2.0, up=1.0)
    with pytest.raises(ConfigError, match="speed"):
        Member(spec=SPEC, speed=0.0)
    with pytest.raises(ConfigError, match="start_up"):
        Member(spec=SPEC, start_up=-1.0)
    with pytest.raises(ConfigError, match="repair"):
        RandomOutages(1.0, 0.0)
    overlapping = [Outage(down=1.0, up=3.0), Outage(down=2.0, up=4.0)]
    with pytest.raises(ConfigError, match="one after the other"):
        run([Arrival(9.0, 1, 1)], [Member(spec=SPEC, outages=overlapping)])


def test_random_outages_are_seeded_and_have_their_means() -> None:
    outages = list(islice(RandomOutages(10.0, 2.0, seed=3), 4000))
    assert outages == list(islice(RandomOutages(10.0, 2.0, seed=3), 4000))
    assert outages != list(islice(RandomOutages(10.0, 2.0, seed=4), 4000))
    down = sum(o.up - o.down for o in outages) / len(outages)
    up = (outages[-1].down - sum(o.up - o.down for o in outages[:-1])) / len(outages)
    assert (up, down) == (pytest.approx(10.0, rel=0.1), pytest.approx(2.0, rel=0.1))
