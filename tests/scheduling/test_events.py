"""The one stream that metrics, traces and explanations are made from."""

from __future__ import annotations

import pytest

from headrace.nouns.errors import ContextLengthExceeded
from headrace.nouns.event import Event, Kind
from tests.scheduling.mock_executor import (
    MockExecutor,
    make_request,
    make_scheduler,
    run_all,
    run_step,
)


def of(events: list[Event], request_id: str, index: int) -> list[Kind]:
    return [e.kind for e in events if e.request_id == request_id and e.index in (None, index)]


def test_each_sequence_arrives_is_admitted_has_a_first_token_and_ends() -> None:
    events: list[Event] = []
    scheduler = make_scheduler(events=events, blocks=64)
    for i in range(4):
        scheduler.add(make_request(f"r{i}", [i] * 3, 3, n=2), 0.0)
    run_all(scheduler, MockExecutor(4))
    for i in range(4):
        for index in range(2):
            assert of(events, f"r{i}", index) == [
                Kind.ARRIVED,
                Kind.ADMITTED,
                Kind.FIRST_TOKEN,
                Kind.FINISHED,
            ]
    assert all(event.reason for event in events if event.kind is not Kind.FIRST_TOKEN)
    times = [event.time for event in events]
    assert times == sorted(times)


def test_a_preempted_sequence_is_admitted_again_but_has_one_first_token() -> None:
    events: list[Event] = []
    scheduler = make_scheduler(blocks=6, events=events)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [i] * 7, 12), 0.0)
    run_all(scheduler, MockExecutor(4))
    assert of(events, "r1", 0) == [
        Kind.ARRIVED,
        Kind.ADMITTED,
        Kind.FIRST_TOKEN,
        Kind.PREEMPTED,
        Kind.ADMITTED,
        Kind.FINISHED,
    ]
    again = [e for e in events if e.kind is Kind.ADMITTED and e.request_id == "r1"][1]
    assert again.data["preemptions"] == 1
    assert again.data["known"] == 7 + 6


def test_every_step_is_planned_and_run_in_order_with_its_numbers() -> None:
    events: list[Event] = []
    scheduler = make_scheduler(events=events)
    scheduler.add(make_request("r", [1] * 20, 3), 0.0)
    steps = run_all(scheduler, MockExecutor(4))
    planned = [e for e in events if e.kind is Kind.PLANNED]
    ran = [e for e in events if e.kind is Kind.RAN]
    assert [e.step_id for e in planned] == [e.step_id for e in ran] == list(range(len(steps)))
    assert [e.data["tokens"] for e in planned] == [step.tokens for step in steps] == [16, 4, 1, 1]
    assert [e.data["gains"] for e in ran] == [0, 1, 1, 1]
    assert planned[0].data["free_blocks"] == 32 - 4


def test_the_end_tells_what_became_of_it() -> None:
    events: list[Event] = []
    scheduler, executor = make_scheduler(events=events), MockExecutor(4)
    scheduler.add(make_request("first", [1] * 9, 2, arrival=1.0), 1.0)
    run_step(scheduler, executor, 2.0)
    scheduler.add(make_request("second", [1] * 9, 9, arrival=3.0), 3.0)
    run_step(scheduler, executor, 4.0)
    run_step(scheduler, executor, 5.0)
    scheduler.abort("second", 6.0, "the client went away")
    first, second = [e for e in events if e.kind in (Kind.FINISHED, Kind.ABORTED)]
    assert (first.kind, first.reason) == (Kind.FINISHED, "length")
    assert first.data["ttft"] == 1.0
    assert first.data["e2e"] == 3.0
    assert (first.data["prompt"], first.data["output"], first.data["cached"]) == (9, 2, 0)
    assert (second.kind, second.reason) == (Kind.ABORTED, "the client went away")
    assert (second.data["output"], second.data["cached"]) == (2, 8)
    assert (second.data["ttft"], second.data["e2e"]) == (1.0, 3.0)


def test_what_can_never_fit_is_refused_at_once_with_the_remedy() -> None:
    events: list[Event] = []
    scheduler = make_scheduler(events=events, blocks=4)
    scheduler.add(make_request("fits", [1] * 10, 7), 0.0)  # 16 tokens have state
    with pytest.raises(ContextLengthExceeded, match="need 5 cache blocks of 4 tokens; there are 4"):
        scheduler.add(make_request("large", [1] * 10, 8), 0.0)
    assert [e.kind for e in events] == [Kind.ARRIVED, Kind.REFUSED]
    assert events[1].request_id == "large"
    assert scheduler.sequences("large") == []
    run_all(scheduler, MockExecutor(4))
