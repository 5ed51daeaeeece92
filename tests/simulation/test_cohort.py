"""The cohort beside the plain path: requests that are cancelled, and what its books say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.errors import InvalidRequest
from headrace.nouns.event import Event, Kind
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.scheduling.cohort import Cohort
from headrace.scheduling.limits import Limits
from headrace.scheduling.registry import create
from headrace.scheduling.scheduler import Policies, Scheduler
from headrace.simulation.arrival import Arrival
from headrace.simulation.clock import VirtualClock
from headrace.simulation.executor import SimulatedExecutor
from headrace.simulation.instance import Instance, InstanceSpec
from headrace.simulation.served import Served
from tests.simulation.costs import AffineCost

Cancel = tuple[int, int, bool]
"""Before step number ..., or while it runs, request number ... is cancelled."""


def run(
    arrivals: list[Arrival], cancels: list[Cancel], blocks: int, plain: bool
) -> tuple[list[Event], list[Served]]:
    events: list[Event] = []
    served: list[Served] = []
    spec = InstanceSpec(
        cost=AffineCost(), num_blocks=blocks, block_size=4, limits=Limits(12, 24, 8), plain=plain
    )
    instance = Instance(spec, events.append)

    def cancel(step: int, flying: bool) -> None:
        for at, number, during in cancels:
            if (at, during) == (step, flying):
                instance.engine.abort(f"#{number}", "the client went away")

    for arrival in arrivals:
        instance.offer(arrival, arrival.at)
    now: float = 0.0
    step = 0
    while instance.has_work:
        end = instance.begin(now)
        cancel(step, True)
        instance.scheduler.check_integrity()
        if end is not None:
            served += instance.finish()
            now = end
        cancel(step, False)
        instance.scheduler.check_integrity()
        step += 1
        assert step < 2000
    assert instance.outstanding == 0
    assert instance.memory.available == blocks
    return events, served


@settings(max_examples=80, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 1, 1, 2])),
        min_size=1,
        max_size=9,
    ),
    cancels=st.lists(
        st.tuples(st.integers(0, 25), st.integers(0, 8), st.booleans()), min_size=1, max_size=8
    ),
    blocks=st.integers(16, 60),
)
def test_cancelled_requests_give_the_same_events(
    shapes: list[tuple[int, int, int]], cancels: list[Cancel], blocks: int
) -> None:
    arrivals = [Arrival(0.0, prompt, output, n=n) for prompt, output, n in shapes]
    plain = run(arrivals, cancels, blocks, plain=True)
    assert run(arrivals, cancels, blocks, plain=False) == plain


def test_a_member_that_is_cancelled_in_a_step_wins_nothing_in_it() -> None:
    arrivals = [Arrival(0.0, 3, 9), Arrival(0.0, 3, 9)]
    events, _ = run(arrivals, [(3, 1, True)], 60, plain=False)
    gains = [event.data["gains"] for event in events if event.kind is Kind.RAN]
    assert gains == [2, 2, 2, 1, 1, 1, 1, 1, 1]
    aborted = next(event for event in events if event.kind is Kind.ABORTED)
    assert aborted.data["output"] == 3


class Foresight:
    """Every sequence has 100 tokens of output."""

    def tokens_left(self, seq: Sequence) -> int:
        return 100 - seq.output_len


def started(
    memory: SequenceMemory, running: dict[Sequence, int], prompt: int, **more: int
) -> Sequence:
    """A sequence that has computed its prompt and won a token."""
    request = Request(id=f"r{len(running)}", prompt=(1,) * prompt, max_tokens=200, **more)  # type: ignore[arg-type]
    seq = Sequence.of(request, 0)
    memory.adopt(seq)
    memory.grow(seq, prompt)
    seq.computed = prompt
    seq.tokens.append(7)
    running[seq] = len(running)
    return seq


def test_members_are_moved_by_a_counter_and_settled_when_asked() -> None:
    memory = SequenceMemory(40, 4)
    running: dict[Sequence, int] = {}
    loose: dict[Sequence, int] = {}
    cohort = Cohort(memory, Foresight(), running, loose)
    seqs = [started(memory, running, length, common=0) for length in (3, 4, 9)]
    for seq in seqs:
        loose[seq] = running[seq]
        cohort.join(seq)
    assert (len(cohort), len(loose), cohort.computed) == (3, 0, 16)
    for _ in range(5):
        assert cohort.depart() == 3
        cohort.arrive()
    assert cohort.computed == 16 + 15
    assert seqs[0].computed == 3  # nobody has looked
    cohort.settle()
    cohort.check_integrity()
    assert [seq.computed for seq in seqs] == [8, 9, 14]
    assert [len(seq.tokens) for seq in seqs] == [9, 10, 15]
    assert [len(seq.blocks) for seq in seqs] == [2, 3, 4]
    assert memory.pool.held == 9
    assert not cohort.dissolve()[3:]
    assert list(loose) == seqs


def test_who_shares_what_it_writes_does_not_join() -> None:
    memory = SequenceMemory(40, 4)
    running: dict[Sequence, int] = {}
    loose: dict[Sequence, int] = {}
    cohort = Cohort(memory, Foresight(), running, loose)
    for more in ({"n": 2}, {}):
        seq = started(memory, running, 5, **more)
        loose[seq] = running[seq]
        cohort.join(seq)
        assert len(cohort) == 0
        assert seq in loose


class Watching:
    """An order that is told of every token."""

    dynamic = False

    def __init__(self) -> None:
        self.computed_tokens = 0

    def key(self, seq: Sequence, now: float) -> int:
        return seq.ticket

    def computed(self, seq: Sequence, tokens: int, won: int, now: float) -> None:
        self.computed_tokens += tokens


def test_a_policy_that_hears_of_every_token_hears_of_every_token() -> None:
    order, clock = Watching(), VirtualClock()
    memory, executor = SequenceMemory(40, 4), SimulatedExecutor(AffineCost(), clock)
    policies = Policies(
        order,
        create("admission", "watermark"),
        create("batching", "stall-free"),
        create("preemption", "recompute"),
    )
    scheduler = Scheduler(memory, policies, Limits(8, 8, 8), lambda event: None, foresight=executor)
    request = Arrival(0.0, 10, 20).request(0)
    executor.expect(request.id, 20)
    scheduler.add(request, 0.0)
    while scheduler.has_work:
        step = scheduler.plan(0.0)
        assert step is not None
        assert step.steady == 0
        executor.submit(step)
        scheduler.commit(step, executor.collect(), 0.0)
    assert order.computed_tokens == 29


def test_siblings_share_all_so_nothing_can_be_said_of_what_is_common() -> None:
    with pytest.raises(InvalidRequest, match="common is 0 and n is 2"):
        Request(id="a", prompt=(1,), max_tokens=1, n=2, common=0)
