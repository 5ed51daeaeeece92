"""Fast and plain simulations give the same events, to the last bit of every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.event import Event, Kind, ignore
from headrace.nouns.request import Targets
from headrace.scheduling.cohort import Cohort
from headrace.scheduling.limits import Limits
from headrace.scheduling.registry import BUILT_IN
from headrace.scheduling.round import Round
from headrace.simulation.arrival import NO_TARGETS, Arrival
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.run import Totals, simulate
from headrace.simulation.served import Served
from tests.simulation.costs import AffineCost

Outcome = tuple[list[Event], list[Served], Totals]
reached: Counter[str] = Counter()

PREFIXES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 20)), max_size=2
).map(tuple)


TARGETS = st.sampled_from(
    [
        NO_TARGETS,
        NO_TARGETS,
        Targets(ttft=0.05),
        Targets(ttft=0.5, tpot=0.02),
        Targets(deadline=0.8),
    ]
)


TPOT_TARGETS = st.sampled_from([NO_TARGETS, Targets(tpot=0.01), Targets(tpot=0.05)])


@st.composite
def traces(draw: st.DrawFn, longest: int) -> list[Arrival]:
    """Arrivals, many of them close together, of up to ``longest`` tokens of prompt and output."""
    now = 0.0
    arrivals = []
    targets = draw(st.sampled_from([st.just(NO_TARGETS), TPOT_TARGETS, TARGETS]))
    for _ in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0.0, 0.0, 0.003, 0.05, 0.4]))
        output = draw(st.integers(1, longest))
        asked = draw(st.sampled_from([None, None, output + 1, output + 30, max(1, output // 2)]))
        arrival = Arrival(
            now,
            prompt_tokens=draw(st.integers(1, longest)),
            output_tokens=output,
            max_tokens=asked,
            tenant=draw(st.sampled_from(["x", "x", "y"])),
            priority=draw(st.integers(0, 2)),
            n=draw(st.sampled_from([1, 1, 1, 1, 1, 3])),
            prefix=draw(PREFIXES),
            targets=draw(targets),
        )
        arrivals.append(arrival)
    return arrivals


@st.composite
def specs(draw: st.DrawFn, longest: int) -> InstanceSpec:
    """Engines with little memory and few slots, of any built-in policies."""
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    room = draw(st.sampled_from([1.5, 1.8, 1.8, 2.2, 3.0, 8.0]))
    budget, sequences = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    return InstanceSpec(
        cost=AffineCost(),
        num_blocks=max(1, int(longest * room) // block_size),
        block_size=block_size,
        limits=Limits(budget, max(budget, sequences) + 5, sequences),
        order=draw(st.sampled_from(["fcfs", "fcfs", *BUILT_IN["order"]])),
        admission=draw(st.sampled_from(["watermark", "watermark", *BUILT_IN["admission"]])),
        batching=draw(st.sampled_from(["stall-free", "stall-free", *BUILT_IN["batching"]])),
        preemption=draw(st.sampled_from(list(BUILT_IN["preemption"]))),
        prefix_cache=draw(st.booleans()),
        max_queue=draw(st.sampled_from([3, 1000])),
    )


def outcome(
    arrivals: list[Arrival], spec: InstanceSpec, plain: bool, listen: bool = True
) -> Outcome:
    events: list[Event] = []
    served: list[Served] = []
    emit = events.append if listen else ignore
    totals = simulate(arrivals, replace(spec, plain=plain), served.append, emit)
    return events, served, totals


def check(arrivals: list[Arrival], spec: InstanceSpec) -> None:
    plain, fast = outcome(arrivals, spec, plain=True), outcome(arrivals, spec, plain=False)
    for one, other in zip(plain[0], fast[0], strict=False):
        assert one == other
    assert plain == fast
    assert outcome(arrivals, spec, plain=False, listen=False)[1:] == plain[1:]
    reached.update(event.kind.value for event in plain[0])
    reached["cached"] += any(served.cached for served in plain[1])
    reached["twice"] += any(served.preemptions > 1 for served in plain[1])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), longest=st.integers(4, 60))
def check_any(data: st.DataObject, longest: int) -> None:
    check(data.draw(traces(longest)), data.draw(specs(longest)))


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.lists(st.integers(8, 20), min_size=2, max_size=4),
    prompts=st.lists(st.integers(20, 40), min_size=1, max_size=3),
    budget=st.integers(5, 8),
    slack=st.integers(2, 15),
)
def check_long_prompts(outputs: list[int], prompts: list[int], budget: int, slack: int) -> None:
    """Prompts that take many steps beside decodes that take the memory for them."""
    arrivals = [Arrival(0.0, 2, output) for output in outputs]
    arrivals += [Arrival(0.01 * i, length, 5) for i, length in enumerate(prompts, 1)]
    blocks = 3 * len(outputs) + max(prompts) + slack
    limits = Limits(budget, budget, budget)
    check(arrivals, InstanceSpec(cost=AffineCost(), num_blocks=blocks, block_size=1, limits=limits))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Counts in ``reached`` what nobody sees from outside."""
    reached.clear()
    depart, coast, scatter = Cohort.depart, Cohort.coast, Round._scatter

    def count_members(cohort: Cohort) -> int:
        reached["steady"] += depart(cohort)
        return len(cohort)

    def count_coasted(cohort: Cohort, run: Callable[[int, int], bool]) -> int:
        ticks = coast(cohort, run)
        reached["coasted"] += ticks
        return ticks

    def count_scattered(round: Round) -> None:
        reached["scattered"] += round.steady > 0
        scatter(round)

    monkeypatch.setattr(Cohort, "depart", count_members)
    monkeypatch.setattr(Cohort, "coast", count_coasted)
    monkeypatch.setattr(Round, "_scatter", count_scattered)
    yield
    reached.clear()


@pytest.mark.usefixtures("counted")
def test_any_trace_gives_the_same_events() -> None:
    check_any()
    check_long_prompts()
    kinds = [kind.value for kind in Kind if kind not in (Kind.SWAPPED, Kind.ABORTED)]
    for what in (*kinds, "cached", "twice", "steady", "coasted", "scattered"):
        assert reached[what] > 2, f"{what} was hardly reached: {reached}"


def test_who_limits_a_step_is_the_same_where_several_do() -> None:
    """Siblings, who are in no cohort, beside a member that has as little time left."""
    shapes = [(1, 8, 1), (13, 20, 1), (1, 1, 1), (1, 21, 1), (1, 6, 3), *[(1, 1, 1)] * 3]
    target = Targets(tpot=0.01)
    check(
        [Arrival(0.0, prompt, output, n=n, targets=target) for prompt, output, n in shapes],
        InstanceSpec(
            cost=AffineCost(),
            num_blocks=34,
            block_size=1,
            limits=Limits(10, 15, 3),
            order="fcfs",
            admission="watermark",
            prefix_cache=False,
        ),
    )
