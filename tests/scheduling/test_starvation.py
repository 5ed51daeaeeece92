"""Whoever waits is served in the end, however many keep coming that an order likes better."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace.nouns.request import Request, Targets
from headrace.nouns.sequence import Sequence
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.policy import OrderPolicy
from headrace.scheduling.registry import BUILT_IN, create
from headrace.scheduling.scheduler import Scheduler
from headrace.scheduling.shortest_order import ShortestFirst
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler
from tests.scheduling.test_any_policy import TIME

PATIENT = 4000  # steps
LIKED = Targets(ttft=3.0, tpot=0.2)  # seconds; a step takes some hundredths
VICTIMS = {
    "patient": make_request("victim", [*range(40)], 30, priority=9),
    "late": make_request("victim", [*range(40)], 30, priority=9, targets=Targets(ttft=0.001)),
    "loose": make_request("victim", [*range(40)], 30, targets=Targets(deadline=15.0, tpot=9.0)),
    "indebted": make_request("victim", [*range(40)], 30, tenant="indebted"),
}
STARVING = {"priority"}
ORDERS: dict[str, Callable[[], OrderPolicy]] = {
    **{name: make for name, make in BUILT_IN["order"].items() if name not in STARVING},
    "shortest, ageing slowly": lambda: ShortestFirst(ageing=5.0),
}


def liked(number: int, now: float) -> Request:
    """Short, due soon, with long outputs for its prompt, of a tenant that has had nothing yet."""
    return make_request(
        f"liked{number}",
        [1000 + number] * 3,
        12,
        arrival=now,
        tenant=f"t{number}",
        targets=LIKED,
    )


class Stream:
    """Keeps more waiting than can start, all of them liked."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler, self.executor = scheduler, MockExecutor(scheduler.memory.block_size)
        self.now, self.number = 0.0, 0

    def step(self) -> None:
        while len(self.scheduler.waiting) < 12:
            self.scheduler.add(liked(self.number, self.now), self.now)
            self.number += 1
        step = self.scheduler.plan(self.now)
        assert step is not None
        self.executor.submit(step)
        self.now += TIME.seconds(StepLoad.of(step))
        self.scheduler.commit(step, self.executor.collect(), self.now)


@pytest.mark.parametrize(
    ("victim", "admission"),
    [
        *((victim, "watermark") for victim in VICTIMS),
        *(("patient", name) for name in BUILT_IN["admission"] if name != "watermark"),
    ],
)
@pytest.mark.parametrize("preemption", BUILT_IN["preemption"])
@pytest.mark.parametrize("order", ORDERS)
def test_nobody_starves_in_a_stream_of_those_the_order_likes(
    order: str, preemption: str, admission: str, victim: str
) -> None:
    scheduler = make_scheduler(
        order=ORDERS[order](), preemption=preemption, admission=admission, blocks=24, cost=TIME
    )
    stream = Stream(scheduler)
    if victim == "indebted":
        scheduler.add(make_request("debt", [2] * 50, 40, tenant="indebted"), 0.0)
        while scheduler.sequences("debt"):
            stream.step()
    request = VICTIMS[victim]
    (seq,) = scheduler.add(replace_arrival(request, stream.now), stream.now)
    for _ in range(PATIENT):
        stream.step()
        if seq.finished:
            break
    assert seq.finished, f"it waits for {seq.wait} ({seq.wait_detail}) after {PATIENT} steps"


def replace_arrival(request: Request, now: float) -> Request:
    return make_request(
        request.id,
        list(request.prompt),
        request.max_tokens,
        arrival=now,
        priority=request.priority,
        tenant=request.tenant,
        targets=request.targets.since(now),
    )


def test_strict_priority_starves_as_it_says_and_serves_once_the_stream_ends() -> None:
    scheduler = make_scheduler(order="priority", blocks=24)
    stream = Stream(scheduler)
    for _ in range(20):
        stream.step()
    (seq,) = scheduler.add(make_request("victim", [5] * 4, 3, priority=1), stream.now)
    for _ in range(500):
        stream.step()
    assert seq.admitted_at is None
    while scheduler.has_work:
        step = scheduler.plan(stream.now)
        assert step is not None
        stream.executor.submit(step)
        scheduler.commit(step, stream.executor.collect(), stream.now)
    assert seq.finished


def test_every_registered_order_is_looked_at() -> None:
    assert {name.split(",")[0] for name in ORDERS} | STARVING == set(BUILT_IN["order"])
    assert isinstance(create("order", "shortest"), ShortestFirst)


def started(order: ShortestFirst, arrivals: list[tuple[int, float]]) -> list[int]:
    """Positions of (tokens, arrival) in the order of their starts."""
    sequences: list[Sequence] = []
    for number, (tokens, at) in enumerate(arrivals):
        seq = Sequence.of(make_request(str(number), [1] * tokens, arrival=at), 0)
        seq.ticket = number
        sequences.append(seq)
    return [seq.ticket for seq in sorted(sequences, key=lambda seq: order.key(seq, 99.0))]


def test_the_shortest_goes_first_but_passes_nobody_by_more_than_its_bound() -> None:
    order = ShortestFirst(ageing=100.0)
    assert started(order, [(50, 0.0), (10, 0.0), (30, 0.1)]) == [1, 2, 0]
    assert started(order, [(50, 0.0), (1, 0.48)]) == [1, 0]
    assert started(order, [(50, 0.0), (1, 0.50)]) == [0, 1]
