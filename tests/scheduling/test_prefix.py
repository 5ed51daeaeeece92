"""What is shared is computed once: prefixes in flight, cached prefixes, siblings' prompts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nouns.sequence import FinishReason, Wait
from tests.scheduling.mock_executor import (
    MockExecutor,
    alone,
    cause,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)

PREFIX = list(range(100, 612))


@pytest.mark.parametrize("batching", ["stall-free", "prefill-first"])
def test_64_requests_with_one_new_prefix_compute_it_once(batching: str) -> None:
    scheduler = make_scheduler(
        blocks=1000, block_size=16, budget=128, limit=1024, sequences=64, batching=batching
    )
    executor = MockExecutor(16)
    for i in range(64):
        scheduler.add(make_request(f"r{i}", [*PREFIX, i], 4), 0.0)
    run_all(scheduler, executor)
    assert executor.computed == 512 + 64 * (1 + 3)


def test_those_who_arrive_while_it_is_computed_share_it_too() -> None:
    scheduler = make_scheduler(blocks=200, block_size=16, budget=64, limit=1024, sequences=16)
    executor = MockExecutor(16)
    scheduler.add(make_request("first", [*PREFIX, 0], 2), 0.0)
    for i in range(1, 8):
        run_step(scheduler, executor, float(i))
        scheduler.add(make_request(f"r{i}", [*PREFIX, i], 2, arrival=float(i)), float(i))
    groups = [scheduler.sequences(f"r{i}")[0] for i in range(1, 8)]
    run_all(scheduler, executor)
    assert executor.computed == 512 + 8 * (1 + 1)
    assert {seq.cached for seq in groups} == {512}


def test_others_pass_those_who_wait_for_a_prefix() -> None:
    scheduler = make_scheduler(blocks=100, budget=24, sequences=8)
    executor = MockExecutor(4)
    for name in ("a", "b"):
        scheduler.add(make_request(name, [*PREFIX[:40], ord(name)], 2), 0.0)
    scheduler.add(make_request("other", [1, 2], 2), 0.0)
    run_step(scheduler, executor, 0.0)
    step = run_step(scheduler, executor, 1.0)
    assert step is not None
    assert [p.sequence.request.id for p in step.slices] == ["a", "other"]
    (waiting,) = scheduler.sequences("b")
    assert cause(waiting) is Wait.PREFIX
    assert waiting.wait_detail == "request a is computing a prefix it shares"
    run_all(scheduler, executor)


def test_if_the_computing_one_is_aborted_the_next_one_computes_on() -> None:
    scheduler = make_scheduler(blocks=200, block_size=16, budget=64, limit=1024)
    executor = MockExecutor(16)
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [*PREFIX, i], 2), 0.0)
    for now in range(3):
        run_step(scheduler, executor, float(now))
    scheduler.abort("r0", 3.0, "test")
    rest = [scheduler.sequences(f"r{i}")[0] for i in range(1, 4)]
    run_all(scheduler, executor)
    assert executor.computed == 512 + 3 * (1 + 1)
    assert [seq.cached for seq in rest] == [3 * 64, 512, 512]
    assert all(seq.tokens == alone(seq) for seq in rest)


def test_tenants_compute_the_same_prefix_each_for_itself() -> None:
    scheduler = make_scheduler(blocks=200, block_size=16, budget=64, limit=1024)
    executor = MockExecutor(16)
    for tenant in ("a", "b"):
        for i in range(2):
            request = make_request(f"{tenant}{i}", [*PREFIX, i], 1, tenant=tenant)
            scheduler.add(request, 0.0)
    run_all(scheduler, executor)
    assert executor.computed == 2 * 512 + 4


def test_any_tenant_name_is_served() -> None:
    scheduler, executor = make_scheduler(), MockExecutor(4)
    scheduler.add(make_request("r", [1, 2], 2, tenant="\ud800"), 0.0)
    run_all(scheduler, executor)


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("prompt", [1, 3, 4, 5, 8])
def test_siblings_compute_their_prompt_once_and_one_token_each(
    prompt: int, prefix_cache: bool
) -> None:
    scheduler, executor = make_scheduler(prefix_cache=prefix_cache), MockExecutor(4)
    group = scheduler.add(make_request("r", list(range(prompt)), 2, n=5), 0.0)
    run_all(scheduler, executor)
    assert executor.computed == prompt + 1 + 4 * 2
    assert [seq.cached for seq in group] == [0] + [prompt - 1] * 4
    assert len({seq.tokens[-1] for seq in group}) == 5


def test_siblings_wait_for_their_leader() -> None:
    scheduler, executor = make_scheduler(budget=8, prefix_cache=False), MockExecutor(4)
    _, sibling = scheduler.add(make_request("r", list(range(10)), 3, n=2), 0.0)
    run_step(scheduler, executor, 0.0)
    assert cause(sibling) is Wait.BUDGET
    run_step(scheduler, executor, 1.0)
    assert executor.computed == 10
    assert cause(sibling) is Wait.PREFIX
    run_all(scheduler, executor)
    assert executor.computed == 10 + 2 + 1 + 2


def test_a_sibling_shares_with_whoever_of_the_others_still_runs() -> None:
    scheduler, executor = make_scheduler(prefix_cache=False, sequences=2), MockExecutor(4)
    group = scheduler.add(make_request("r", list(range(10)), 6, n=3), 0.0)
    run_step(scheduler, executor, 0.0)
    run_step(scheduler, executor, 1.0)
    scheduler.finish(group[0], FinishReason.ABORT, 2.0)
    before = executor.computed
    run_step(scheduler, executor, 2.0)
    assert executor.computed == before + 2
    assert group[2].cached == 9
    run_all(scheduler, executor)


def test_a_sibling_whose_leader_has_ended_computes_for_itself() -> None:
    scheduler, executor = make_scheduler(prefix_cache=False, sequences=1), MockExecutor(4)
    group = scheduler.add(make_request("r", list(range(6)), 2, n=2), 0.0)
    run_all(scheduler, executor)
    assert executor.computed == 2 * (6 + 1)
    assert all(seq.tokens == alone(seq) for seq in group)


def test_static_batches_do_not_wait_for_prefixes() -> None:
    scheduler = make_scheduler(batching="static", sequences=4, limit=64)
    executor = MockExecutor(4)
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [1] * 8, 2), 0.0)
    step = run_step(scheduler, executor, 0.0)
    assert step is not None
    assert step.tokens == 32
    run_all(scheduler, executor)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    budget=st.integers(1, 32),
    block_size=st.sampled_from([1, 2, 4, 8]),
)
def test_one_text_cut_at_many_places_is_computed_once(
    lengths: list[int], budget: int, block_size: int
) -> None:
    """Each full block is computed once; beyond it, each request computes its own tail."""
    scheduler = make_scheduler(blocks=200, block_size=block_size, budget=budget)
    executor = MockExecutor(block_size)
    for i, length in enumerate(lengths):
        scheduler.add(make_request(f"r{i}", PREFIX[:length], 1), 0.0)
    run_all(scheduler, executor)
    tails = sum((length - 1) % block_size + 1 for length in lengths)
    assert executor.computed <= max(lengths) + tails
