"""Order 'lookahead': sharers of a prefix together, prompts and decodes in step."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.sequence import Sequence
from headrace.scheduling.lookahead_order import Lookahead
from headrace.scheduling.prompt_tree import UNIT, PromptTree
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler, run_step


def sequence(number: int, prompt: list[int], output: int = 4, tenant: str = "") -> Sequence:
    seq = Sequence.of(make_request(f"r{number}", prompt, output, tenant=tenant), 0)
    seq.ticket = number
    return seq


def laid_out(sequences: list[Sequence]) -> list[int]:
    tree = PromptTree()
    for seq in sequences:
        tree.add(seq)
    return [
        seq.ticket
        for seq in tree.lay_out(lambda seq: float(seq.request.max_tokens), lambda seq: True)
    ]


def units(*values: int) -> list[int]:
    """A prompt of so many whole units."""
    return [value for value in values for _ in range(UNIT)]


UNITS = st.lists(st.integers(0, 2), max_size=5)


@settings(max_examples=200, deadline=None)
@given(prompts=st.lists(st.tuples(UNITS, st.integers(1, UNIT)), min_size=1, max_size=25))
def test_whoever_shares_a_prefix_starts_one_after_the_other(
    prompts: list[tuple[list[int], int]],
) -> None:
    sequences = [
        sequence(i, units(*shared) + [9] * tail, 1 + i % 7)
        for i, (shared, tail) in enumerate(prompts)
    ]
    order = laid_out(sequences)
    assert sorted(order) == list(range(len(sequences)))
    prefixes = {
        seq.request.prompt[: UNIT * k]
        for seq in sequences
        for k in range(1, seq.prompt_len // UNIT + 1)
    }
    for prefix in prefixes:
        places = [
            place
            for place, ticket in enumerate(order)
            if sequences[ticket].request.prompt[: len(prefix)] == prefix
        ]
        assert places == list(range(places[0], places[0] + len(places))), "others are in between"


def test_decodes_come_first_and_prefill_keeps_in_step() -> None:
    alone = [
        sequence(0, units(1, 2), 10),
        sequence(1, units(3), 40),
        sequence(2, units(4, 5, 6), 100),
    ]
    assert laid_out(alone) == [1, 0, 2]
    # Three that share 64 tokens have 90 to decode for 67 to prefill; alone each would be last.
    group = [sequence(10 + i, [*units(7, 7, 7, 7), i], 30) for i in range(3)]
    middling = [sequence(5, units(8, 8), 34)]
    assert laid_out([*middling, *group]) == [10, 11, 12, 5]


@settings(max_examples=100, deadline=None)
@given(shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 90)), min_size=2, max_size=30))
def test_every_part_of_the_batch_has_both(shapes: list[tuple[int, int]]) -> None:
    """At any time decodes are off the overall proportion by no more than one sequence is."""
    sequences = [sequence(i, units(*[100 + i] * k), out) for i, (k, out) in enumerate(shapes)]
    total = sum(out for _, out in shapes) / sum(k * UNIT + 1 for k, _ in shapes)
    most = max(max(out, total * (k * UNIT + 1)) for k, out in shapes)
    off = 0.0
    for ticket in laid_out(sequences):
        k, out = shapes[ticket]
        off += out - total * (k * UNIT + 1)
        assert abs(off) <= most + 1e-6


def test_tenants_share_nothing() -> None:
    sequences = [sequence(i, units(1, 1), 4, tenant=f"t{i % 2}") for i in range(6)]
    assert laid_out(sequences) == [0, 2, 4, 1, 3, 5]


def test_prompts_may_nest_as_deeply_as_they_like() -> None:
    depth = 500
    whole = [i for i in range(depth) for _ in range(UNIT)]
    tree = PromptTree()
    for i in range(depth):
        tree.add(sequence(i, whole[: (i + 1) * UNIT]))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth - 50)
    try:
        assert sum(1 for _ in tree.lay_out(lambda seq: 1.0, lambda seq: True)) == depth
    finally:
        sys.setrecursionlimit(limit)


def test_a_shared_prefix_is_computed_once_where_arrival_order_computes_it_again() -> None:
    """Memory holds one prefix at a time; requests come with them in turn."""
    computed: dict[str, int] = {}
    for order in ("fcfs", "lookahead"):
        scheduler = make_scheduler(
            order=order, blocks=40, block_size=UNIT, budget=256, limit=512, sequences=2
        )
        executor = MockExecutor(UNIT)
        for i in range(24):
            prompt = [*units(*[i % 4] * 16), 100 + i]
            scheduler.add(make_request(f"r{i}", prompt, 3), 0.0)
        now = 0.0
        while scheduler.has_work:
            run_step(scheduler, executor, now)
            scheduler.check_integrity()
            now += 1.0
        computed[order] = executor.computed
    prefixes, tails = 4 * 16 * UNIT, 24 * (1 + 2)
    assert computed["lookahead"] == prefixes + tails
    assert computed["fcfs"] > 3 * computed["lookahead"]


def test_what_arrives_later_waits_for_the_next_plan() -> None:
    scheduler = make_scheduler(order="lookahead", sequences=1, budget=64, blocks=64)
    for i in range(3):
        scheduler.add(make_request(f"first{i}", [i] * 40, 2), 0.0)
    executor = MockExecutor(4)
    run_step(scheduler, executor, 0.0)
    for i in range(3):  # better by their ratio
        scheduler.add(make_request(f"later{i}", [10 + i], 40), 1.0)
    started: list[str] = []
    while scheduler.has_work:
        step = run_step(scheduler, executor, 1.0)
        assert step is not None
        started += [p.sequence.request.id[:5] for p in step.slices if p.start == 0]
    assert started == ["first", "first", "later", "later", "later"]


def test_who_yielded_goes_back_to_its_place() -> None:
    scheduler = make_scheduler(order="lookahead", blocks=8, sequences=4, prefix_cache=False)
    executor = MockExecutor(4)
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [i] * 7, 16 - i), 0.0)
    run_step(scheduler, executor, 0.0)
    now = 1.0
    while not any(seq.preemptions for seq in scheduler.waiting):
        run_step(scheduler, executor, now)
        now += 1.0
    order = [int(seq.request.id[1]) for seq in scheduler.waiting]
    assert order == sorted(order)
    scheduler.abort("r3", now, "test")
    scheduler.check_integrity()
    while scheduler.has_work:
        run_step(scheduler, executor, now)
        scheduler.check_integrity()


def test_who_leaves_before_the_plan_is_in_no_plan_and_kept_by_nobody() -> None:
    order = Lookahead()
    queue = order.queue()
    first, second, third = (sequence(i, units(1, 2)) for i in range(3))
    for seq in (first, second):
        queue.push(seq, 0.0)
    queue.remove(first, 0.0)
    assert [*queue] == [second]
    assert queue[0] is second
    with pytest.raises(ValueError, match="is not waiting"):
        queue.remove(first, 0.0)
    queue.remove(second, 0.0)
    queue.push(third, 0.0)
    queue.remove(third, 0.0)
    assert not order._queue._tree._roots
    assert len(queue) == 0


def test_it_learns_how_long_the_outputs_of_a_category_are() -> None:
    order = Lookahead()
    short = sequence(0, [1], 100)
    assert order.expected_output(short) == 100
    for i in range(100):
        ended = sequence(1 + i, [1], 100)
        ended.tokens += [7] * 20
        order.ended(ended, 0.0)
    assert 19 < order.expected_output(short) <= 20.5
    short.tokens += [7] * 50
    assert order.expected_output(short) == 1.0


def test_a_large_batch_is_planned_in_time_linear_in_it() -> None:
    """Counted, not timed: how often tuples of tokens are compared."""
    source = random.Random(3)
    shared = [units(*[source.randrange(1000) for _ in range(30)]) for _ in range(50)]

    def steps(count: int) -> int:
        tree, calls = PromptTree(), 0

        def output(seq: Sequence) -> float:
            nonlocal calls
            calls += 1
            return 5.0

        for i in range(count):
            tree.add(sequence(i, [*shared[i % 50], *units(5000 + i)]))
        assert sum(1 for _ in tree.lay_out(output, lambda seq: True)) == count
        return calls

    assert steps(4000) <= 4 * steps(1000)
