"""What holds whatever the policies: ends, errors, aborts, pipelines, limits."""

from __future__ import annotations

import pytest

from headrace.nouns.errors import ConfigError, InvalidRequest
from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import FinishReason, Sequence
from headrace.nouns.step import Sampled, Step, StepResult
from headrace.scheduling.limits import Limits
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import (
    MockExecutor,
    alone,
    make_request,
    make_scheduler,
    next_token,
    run_all,
    run_step,
)


def assert_empty(scheduler: Scheduler) -> None:
    scheduler.check_integrity()
    assert not scheduler.has_work
    assert scheduler.memory.available == scheduler.memory.total
    assert not scheduler.memory._chains
    assert not scheduler.memory.tree.pending()


def test_an_end_token_ends_a_sequence_and_is_its_stop_reason() -> None:
    scheduler, executor = make_scheduler(), MockExecutor(4)
    tokens = [1, 2]
    for _ in range(3):
        tokens.append(next_token(tokens))
    (seq,) = scheduler.add(make_request("r", [1, 2], 9, eos=frozenset([tokens[-1]])), 0.0)
    run_all(scheduler, executor)
    assert seq.tokens == tokens
    assert (seq.finish_reason, seq.stop_reason) == (FinishReason.STOP, tokens[-1])


def test_a_stop_found_outside_ends_a_sequence() -> None:
    scheduler, executor = make_scheduler(), MockExecutor(4)
    (seq,) = scheduler.add(make_request("r", [1, 2], 9), 0.0)
    for now in range(2):
        step = scheduler.plan(float(now))
        assert step is not None
        executor.submit(step)
        scheduler.commit(
            step, executor.collect(), 1.0, lambda s, _: "END" if s.output_len == 2 else None
        )
    assert (seq.finish_reason, seq.stop_reason, seq.output_len) == (FinishReason.STOP, "END", 2)
    assert_empty(scheduler)


def test_an_error_in_one_row_ends_that_sequence_only() -> None:
    class OneBadRow(MockExecutor):
        def sample(self, seq: Sequence, token: int) -> Sampled:
            bad = seq.request.id == "bad" and seq.output_len == 2
            return Sampled(-1, error="logits are not finite") if bad else Sampled(token)

    events: list[Event] = []
    scheduler = make_scheduler(events=events)
    groups = [scheduler.add(make_request(name, [ord(name[0])], 5), 0.0) for name in ("a", "bad")]
    run_all(scheduler, OneBadRow(4))
    good, bad = groups[0][0], groups[1][0]
    assert (good.finish_reason, good.tokens) == (FinishReason.LENGTH, alone(good))
    assert (bad.finish_reason, bad.error) == (FinishReason.ERROR, "logits are not finite")
    assert bad.tokens == alone(bad)
    assert bad.output_len == 2
    assert [e.reason for e in events if e.kind is Kind.FINISHED] == [bad.error, "length"]
    assert_empty(scheduler)


def test_a_failed_step_ends_all_its_sequences_and_nobody_else() -> None:
    scheduler, executor = make_scheduler(budget=6, sequences=8), MockExecutor(4)
    executor.poisoned.add("poisoned")
    decoding = scheduler.add(make_request("decoding", [1], 9), 0.0)[0]
    run_step(scheduler, executor, 0.0)
    prefill = scheduler.add(make_request("poisoned", [2] * 9, 9, n=2), 1.0)
    waiting = scheduler.add(make_request("waiting", [2] * 9, 2), 1.0)[0]
    run_step(scheduler, executor, 1.0)
    for seq in (decoding, prefill[0]):
        assert (seq.finish_reason, seq.error) == (
            FinishReason.ERROR,
            "poisoned by ['poisoned']",
        )
    assert not prefill[1].finished
    executor.poisoned.clear()
    run_all(scheduler, executor)
    assert waiting.finish_reason is prefill[1].finish_reason is FinishReason.LENGTH
    assert prefill[1].tokens == alone(prefill[1])
    assert waiting.cached == 0 or waiting.tokens == alone(waiting)
    assert_empty(scheduler)


def test_a_failed_step_shares_no_content() -> None:
    scheduler, executor = make_scheduler(), MockExecutor(4)
    executor.poisoned.add("bad")
    scheduler.add(make_request("bad", [1] * 9), 0.0)
    run_step(scheduler, executor, 0.0)
    assert len(scheduler.memory.tree) == 0
    assert_empty(scheduler)


def test_results_have_to_come_in_the_order_of_steps() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("r", [1]), 0.0)
    step = scheduler.plan(0.0)
    assert step is not None
    with pytest.raises(AssertionError, match="order of their steps"):
        scheduler.commit(step, StepResult(step.id + 1, (None,)), 1.0)


def test_aborting_ends_all_siblings_wherever_they_are() -> None:
    scheduler, executor = make_scheduler(sequences=2), MockExecutor(4)
    group = scheduler.add(make_request("r", [1] * 3, 9, n=4), 0.0)
    run_step(scheduler, executor, 0.0)
    run_step(scheduler, executor, 1.0)
    assert scheduler.abort("r", 2.0, "gone") == group
    assert all((s.finish_reason, s.error) == (FinishReason.ABORT, "gone") for s in group)
    assert scheduler.abort("r", 3.0, "again") == []
    assert scheduler.abort("never seen", 3.0, "again") == []
    assert_empty(scheduler)


def test_memory_of_a_sequence_aborted_in_flight_is_kept_until_its_step_is_back() -> None:
    scheduler, executor = make_scheduler(), MockExecutor(4)
    seq, waiting = scheduler.add(make_request("r", [1] * 9, 9, n=2), 0.0)
    step = scheduler.plan(0.0)
    assert step is not None
    executor.submit(step)
    scheduler.abort("r", 1.0, "gone")
    assert waiting.finished
    assert seq.finished
    assert len(seq.blocks) == 3
    assert scheduler.has_work
    scheduler.check_integrity()
    with pytest.raises(InvalidRequest, match="'r' is in use"):
        scheduler.add(make_request("r", [1]), 1.0)
    assert scheduler.commit(step, executor.collect(), 2.0) == []
    assert seq.output_len == 0
    assert_empty(scheduler)
    scheduler.add(make_request("r", [1]), 3.0)


def test_an_id_in_use_is_refused_and_the_first_one_goes_on() -> None:
    scheduler, executor = make_scheduler(), MockExecutor(4)
    (seq,) = scheduler.add(make_request("r", [1], 3), 0.0)
    with pytest.raises(InvalidRequest, match="'r' is in use"):
        scheduler.add(make_request("r", [2], 3), 0.0)
    run_all(scheduler, executor)
    assert seq.tokens == alone(seq)


@pytest.mark.parametrize("depth", [2, 3])
def test_steps_in_flight_hold_different_sequences_and_change_no_token(depth: int) -> None:
    scheduler, executor = make_scheduler(budget=4, blocks=64), MockExecutor(4, depth)
    groups = [scheduler.add(make_request(f"r{i}", [i] * 5, 6), 0.0) for i in range(6)]
    flying: list[Step] = []
    most = 0
    now = 0.0
    while scheduler.has_work:
        now += 1.0
        while len(flying) < depth and (step := scheduler.plan(now)) is not None:
            executor.submit(step)
            flying.append(step)
        members = [piece.sequence for step in flying for piece in step.slices]
        assert len(members) == len(set(members))
        most = max(most, len(flying))
        scheduler.commit(flying.pop(0), executor.collect(), now)
        scheduler.check_integrity()
    assert most == depth
    assert all(seq.tokens == alone(seq) for (seq,) in groups)
    assert_empty(scheduler)


def test_plans_nothing_when_there_is_nothing() -> None:
    scheduler = make_scheduler()
    assert scheduler.plan(0.0) is None
    assert not scheduler.has_work


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0, 8, 8), "token_budget is 0"),
        ((8, 8, 0), "sequences is 0"),
        ((0, 0, 0), "token_budget is 0"),
        ((9, 8, 4), "a step can compute 8 tokens, fewer than the token budget 9"),
        ((4, 8, 9), "or the 9 sequences"),
    ],
)
def test_limits_that_cannot_work_are_refused(limits: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits(*limits)


def test_an_ended_request_is_forgotten_once_its_last_sequence_is() -> None:
    scheduler, executor = make_scheduler(), MockExecutor(4)
    group = scheduler.add(make_request("r", [1], 4, n=2), 0.0)
    run_step(scheduler, executor, 0.0)
    scheduler.finish(group[0], FinishReason.ABORT, 1.0)
    assert scheduler.sequences("r") == group
    scheduler.finish(group[0], FinishReason.ERROR, 2.0)  # ended is ended
    assert group[0].finish_reason is FinishReason.ABORT
    run_all(scheduler, executor)
    assert scheduler.sequences("r") == []
    assert_empty(scheduler)


@pytest.mark.parametrize(
    "damage", ["queue", "running", "group", "order", "announcement", "reference"]
)
def test_damage_is_found(damage: str) -> None:
    scheduler, executor = make_scheduler(sequences=1), MockExecutor(4)
    for i in range(3):
        scheduler.add(make_request(f"r{i}", [i] * 6, 9), float(i))
    run_step(scheduler, executor, 0.0)
    scheduler.check_integrity()
    (running,) = scheduler.running
    if damage == "queue":
        scheduler.waiting.pop(0)
    elif damage == "running":
        scheduler._running.clear()
    elif damage == "group":
        del scheduler._groups["r1"]
    elif damage == "order":
        scheduler.waiting._items.reverse()
    elif damage == "announcement":
        scheduler.memory.tree.announce(b"x" * 16, running)
    else:
        scheduler.memory.pool.share(running.blocks[0])
    with pytest.raises(AssertionError):
        scheduler.check_integrity()
