"""Routers: each keeps to its rule, and to its seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.errors import ConfigError
from headrace.scheduling.limits import Limits
from headrace.scheduling.linear_cost import LinearCost
from headrace.simulation.arrival import Arrival
from headrace.simulation.fleet import copies, simulate_fleet
from headrace.simulation.fleet_totals import FleetTotals
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.member import Member
from headrace.simulation.router import Load, Router
from headrace.simulation.routers import registry
from headrace.simulation.routers.prefix_aware import APART, KEPT, PrefixAware
from headrace.simulation.routers.two_choices import TwoChoices

ARRIVAL = Arrival(0.0, 100, 10)
LOADS = st.lists(
    st.builds(
        Load,
        index=st.just(0),
        speed=st.sampled_from([0.25, 0.5, 1.0]),
        requests=st.integers(0, 50),
        tokens=st.integers(0, 10_000).map(float),
    ),
    min_size=1,
    max_size=8,
).map(lambda loads: [replace(load, index=2 * i) for i, load in enumerate(loads)])


@given(LOADS, st.sampled_from(list(registry.BUILT_IN)), st.integers(0, 3))
def test_a_router_chooses_one_of_those_offered_and_by_its_seed_alone(
    loads: list[Load], name: str, seed: int
) -> None:
    one, other = registry.create(name, seed), registry.create(name, seed)
    for _ in range(5):
        chosen = one.choose(ARRIVAL, loads)
        assert any(chosen is load for load in loads)
        assert other.choose(ARRIVAL, loads) is chosen


@given(LOADS)
def test_least_tokens_takes_the_shortest_backlog(loads: list[Load]) -> None:
    chosen = registry.create("least-tokens").choose(ARRIVAL, loads)
    assert chosen.backlog == min(load.backlog for load in loads)
    assert chosen is next(load for load in loads if load.backlog == chosen.backlog)


def test_round_robin_takes_everybody_in_turn_also_when_some_leave() -> None:
    loads = [Load(i) for i in range(4)]
    router = registry.create("round-robin")
    assert [router.choose(ARRIVAL, loads).index for _ in range(6)] == [0, 1, 2, 3, 0, 1]
    left = [loads[0], loads[3]]
    assert [router.choose(ARRIVAL, left).index for _ in range(3)] == [3, 0, 3]


def test_two_choices_never_takes_the_worst_and_draws_evenly() -> None:
    router = TwoChoices(seed=1)
    loads = [Load(i, tokens=float(i)) for i in range(5)]
    chosen = Counter(router.choose(ARRIVAL, loads).index for _ in range(10_000))
    # Of ten pairs, four have the best of five as their better one, then three, two, one.
    for index, share in enumerate([0.4, 0.3, 0.2, 0.1]):
        assert chosen[index] / 10_000 == pytest.approx(share, abs=0.02)
    assert chosen[4] == 0


def greeting(tokens: int = 90, tenant: str = "default", group: str = "g") -> Arrival:
    return Arrival(0.0, 100, 10, tenant=tenant, prefix=((group, tokens),))


def test_prefix_aware_goes_where_most_of_the_prompt_is_known() -> None:
    router = PrefixAware()
    loads = [Load(0, tokens=500.0), Load(1)]
    assert router.choose(greeting(), loads).index == 1
    loads[1].tokens = 5000.0
    assert router.choose(greeting(), loads).index == 1  # 90 of 100 tokens are worth the wait
    assert router.choose(greeting(group="other"), loads).index == 0
    assert router.choose(greeting(tenant="other"), loads).index == 0  # caches are per tenant


def test_prefix_aware_weighs_a_short_prefix_against_the_backlog() -> None:
    router = PrefixAware()
    loads = [Load(0, tokens=20.0), Load(1)]
    assert router.choose(greeting(40), loads).index == 1
    loads[1].tokens = 50.0  # 20 + 100 against 50 + 60
    assert router.choose(greeting(40), loads).index == 1
    loads[1].tokens = 70.0
    assert router.choose(greeting(40), loads).index == 0


def test_prefix_aware_spreads_a_prefix_that_is_too_popular() -> None:
    router = PrefixAware()
    loads = [Load(0), Load(1, tokens=1.0)]
    chosen = []
    for _ in range(3 * APART):
        load = router.choose(greeting(), loads)
        load.requests += 1
        load.tokens += 110
        chosen.append(load.index)
    assert chosen[: APART + 1] == [0] * (APART + 1)
    assert 1 in chosen
    assert loads[0].requests <= loads[1].requests + APART + 1


def test_prefix_aware_follows_parts_in_their_order() -> None:
    router = PrefixAware()
    loads = [Load(0), Load(1, tokens=1.0)]
    router.choose(Arrival(0.0, 100, 1, prefix=(("a", 30), ("b", 60))), loads)
    loads[0].tokens = 1000.0
    found = {
        (("a", 30), ("b", 60)): {0: 90},
        (("a", 30), ("b", 40)): {0: 70},
        (("a", 30), ("c", 60)): {0: 30},
        (("a", 20), ("b", 60)): {0: 20},  # b begins elsewhere
        (("b", 60),): {},
    }
    for prefix, known in found.items():
        assert router._found(Arrival(0.0, 100, 1, prefix=prefix)) == known


def test_prefix_aware_forgets_lost_instances_and_the_oldest_prefixes() -> None:
    router = PrefixAware()
    loads = [Load(0), Load(1)]
    router.choose(greeting(), loads)
    assert router._found(greeting()) == {0: 90}
    router.lost(0)
    assert router._found(greeting()) == {}
    router._known.clear()
    for i in range(KEPT + 10):
        router._remember(greeting(group=str(i)), 0)
    assert len(router._known) == KEPT
    assert router._found(greeting(group="9")) == {}
    assert router._found(greeting(group="10")) == {0: 90}


def served_by(name: str) -> tuple[FleetTotals, int]:
    """Eight conversations' worth of shared prompts on four engines; prompt tokens found."""
    spec = InstanceSpec(
        cost=LinearCost({"step": 0.005, "rows": 0.0005}), num_blocks=100, limits=Limits(128, 512, 8)
    )
    arrivals = [
        Arrival(0.05 * i, 330, 5, prefix=((f"g{(i * i + i // 8) % 8}", 320),)) for i in range(400)
    ]
    found = 0

    def count(served: object) -> None:
        nonlocal found
        found += served.cached  # type: ignore[attr-defined]

    members = copies(Member(spec=spec), 4)
    return simulate_fleet(arrivals, members, registry.create(name, 1), count), found


def test_prefix_aware_finds_more_in_small_caches_than_the_others() -> None:
    found = {name: served_by(name)[1] for name in registry.BUILT_IN}
    assert found["prefix-aware"] > 1.5 * max(
        tokens for name, tokens in found.items() if name != "prefix-aware"
    )


class Last:
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def choose(self, arrival: Arrival, loads: list[Load]) -> Load:
        return loads[-1]

    def lost(self, index: int) -> None: ...


def entry_points(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("last", "package:Last", registry.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: value)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])


def test_other_packages_register_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(Last, monkeypatch)
    assert registry.names() == [*registry.BUILT_IN, "last"]
    router: Router = registry.create("last", 5)
    assert isinstance(router, Last)
    assert router.seed == 5


@pytest.mark.parametrize(
    ("value", "told"), [(lambda: None, "cannot be loaded"), (lambda seed: object(), "'choose'")]
)
def test_what_is_no_router_is_an_error(
    value: object, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_points(value, monkeypatch)
    with pytest.raises(ConfigError, match=told):
        registry.create("last")


def test_an_unknown_router_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'fastest' is not known; choose one of least-tokens"):
        registry.create("fastest")
