"""Who may start, given the memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import Wait
from headrace.scheduling.admission import Watermark
from tests.scheduling.mock_executor import (
    MockExecutor,
    cause,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)


def running_ids(scheduler: object) -> set[str]:
    return {seq.request.id for seq in scheduler.running}  # type: ignore[attr-defined]


def test_reserve_admits_what_fits_at_full_length_to_the_block() -> None:
    scheduler, executor = make_scheduler(admission="reserve", blocks=9), MockExecutor(4)
    for i in range(3):  # 3 + 9 tokens, the last of which needs no state: 3 blocks each
        scheduler.add(make_request(f"r{i}", [i] * 3, 10), 0.0)
    scheduler.add(make_request("r3", [7], 1), 0.0)
    run_step(scheduler, executor, 0.0)
    assert running_ids(scheduler) == {"r0", "r1", "r2"}
    (waiting,) = scheduler.waiting
    assert cause(waiting) is Wait.MEMORY
    assert "needs 1 blocks and 0 are not promised" in waiting.wait_detail


def test_watermark_admits_on_known_tokens_and_keeps_a_share_free() -> None:
    scheduler, executor = make_scheduler(blocks=4), MockExecutor(4)
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [i] * 3, 4), 0.0)
    run_step(scheduler, executor, 0.0)
    assert running_ids(scheduler) == {"r0", "r1", "r2"}
    (waiting,) = scheduler.waiting
    assert cause(waiting) is Wait.MEMORY
    assert waiting.wait_detail == "it needs 1 blocks, 1 are free, 1 are kept for growth"


def test_watermark_share_grows_with_the_cache() -> None:
    scheduler = make_scheduler(blocks=100, admission=Watermark(share=0.5), budget=60, limit=400)
    executor = MockExecutor(4)
    scheduler.add(make_request("a", [1] * 4, 4), 0.0)
    scheduler.add(make_request("b", list(range(200)), 4), 0.0)
    run_step(scheduler, executor, 0.0)
    assert running_ids(scheduler) == {"a"}
    assert "50 are kept for growth" in scheduler.sequences("b")[0].wait_detail


def test_shared_blocks_are_not_paid_for_twice() -> None:
    """Alone it needs 3 blocks; 2 of them are held by the other already."""
    scheduler, executor = make_scheduler(admission="reserve", blocks=6), MockExecutor(4)
    prefix = list(range(8))
    scheduler.add(make_request("a", [*prefix, 1], 4), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.add(make_request("b", [*prefix, 2], 4), 1.0)
    scheduler.add(make_request("c", [*prefix, 3], 4), 1.0)
    scheduler.add(make_request("d", [*prefix, 4], 4), 1.0)
    scheduler.add(make_request("e", [*prefix, 5], 4), 1.0)
    run_step(scheduler, executor, 1.0)
    assert running_ids(scheduler) == {"a", "b", "c", "d"}
    run_all(scheduler, executor)


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3)),
        min_size=2,
        max_size=8,
    ),
    blocks=st.integers(10, 16),
    prefix_cache=st.booleans(),
)
def test_reserve_never_preempts_and_everybody_ends(
    jobs: list[tuple[int, int, int]], blocks: int, prefix_cache: bool
) -> None:
    events: list[Event] = []
    scheduler = make_scheduler(
        admission="reserve", blocks=blocks, prefix_cache=prefix_cache, events=events
    )
    for i, (prompt, output, n) in enumerate(jobs):
        scheduler.add(make_request(f"r{i}", [1] * prompt, output, n=n), 0.0)
    run_all(scheduler, MockExecutor(4))
    kinds = [event.kind for event in events]
    assert Kind.PREEMPTED not in kinds
    assert kinds.count(Kind.FINISHED) == sum(n for _, _, n in jobs)


def test_one_that_needs_all_memory_runs_alone() -> None:
    for admission in ("reserve", "watermark"):
        scheduler, executor = make_scheduler(admission=admission, blocks=5), MockExecutor(4)
        scheduler.add(make_request("small", [1], 3), 0.0)
        scheduler.add(make_request("whole", [2] * 17, 4), 0.0)
        scheduler.add(make_request("after", [3], 3), 0.0)
        run_all(scheduler, executor)
        assert scheduler.memory.available == 5
