"""One simulated engine: what it makes of arrivals, and when."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from headrace.nouns.errors import ConfigError
from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import FinishReason
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.limits import Limits
from headrace.simulation.arrival import Arrival
from headrace.simulation.instance import Instance, InstanceSpec
from headrace.simulation.run import Totals, simulate
from headrace.simulation.served import Served
from tests.simulation.costs import AffineCost


class Constant:
    """Every step takes a second."""

    def seconds(self, load: StepLoad) -> float:
        return 1.0


def make_spec(**options: object) -> InstanceSpec:
    defaults: dict[str, object] = {
        "cost": Constant(),
        "num_blocks": 64,
        "block_size": 4,
        "limits": Limits(16, 64, 8),
        "order": "fcfs",
        "admission": "watermark",
    }
    return InstanceSpec(**(defaults | options))  # type: ignore[arg-type]


def run(
    arrivals: list[Arrival], events: list[Event] | None = None, **options: object
) -> tuple[Totals, list[Served]]:
    served: list[Served] = []
    sink = (lambda event: None) if events is None else events.append
    totals = simulate(arrivals, make_spec(**options), served.append, sink)
    return totals, served


def test_a_lone_request_takes_a_step_per_chunk_and_per_later_token() -> None:
    totals, (served,) = run([Arrival(2.0, prompt_tokens=20, output_tokens=5)])
    # two chunks of a prompt under a budget of 16, then four tokens
    assert (served.admitted, served.first_token, served.end) == (2.0, 4.0, 8.0)
    assert (served.ttft, served.tpot, served.e2e) == (2.0, 1.0, 6.0)
    assert (served.prompt, served.output, served.finish) == (20, 5, FinishReason.LENGTH)
    assert totals == Totals(requests=1, output=5, steps=6, tokens=24, busy=6.0, end=8.0)


def test_an_output_shorter_than_asked_ends_by_an_end_token() -> None:
    _, (served,) = run([Arrival(0.0, 3, 5, max_tokens=50)])
    assert (served.output, served.finish, served.end) == (5, FinishReason.STOP, 5.0)


def test_an_arrival_during_a_step_joins_at_its_end_and_counts_its_wait() -> None:
    events: list[Event] = []
    _, served = run([Arrival(0.0, 3, 3), Arrival(0.25, 3, 1)], events)
    late = next(s for s in served if s.arrival.at == 0.25)
    assert (late.admitted, late.end) == (1.0, 2.0)
    assert late.waits["queue"] == 0.75
    arrived = [event.time for event in events if event.kind is Kind.ARRIVED]
    assert arrived == [0.0, 1.0]


def test_an_arrival_at_the_end_of_a_step_is_there_for_the_next() -> None:
    _, served = run([Arrival(0.0, 3, 3), Arrival(1.0, 3, 1)])
    assert next(s for s in served if s.arrival.at == 1.0).end == 2.0


def test_the_clock_jumps_over_idle_time() -> None:
    totals, served = run([Arrival(0.0, 3, 1), Arrival(1e6, 3, 1)])
    assert [s.end for s in served] == [1.0, 1e6 + 1.0]
    assert (totals.steps, totals.busy) == (2, 2.0)


def test_what_never_fits_and_what_the_queue_does_not_hold_is_refused_at_once() -> None:
    events: list[Event] = []
    arrivals = [Arrival(0.0, 3, 9)] + [Arrival(0.5, 300, 9)] + [Arrival(0.5, 3, 1)] * 4
    totals, served = run(arrivals, events, max_queue=3)
    refused = [s for s in served if s.refused]
    assert [s.end for s in refused] == [0.5, 0.5]
    assert "77 cache blocks; there are 64" in refused[0].refusal
    assert "3 sequences wait already" in refused[1].refusal
    assert (totals.requests, totals.refused) == (6, 2)
    assert [e.time for e in events if e.kind is Kind.REFUSED] == [0.5, 0.5]


def test_siblings_are_one_answer() -> None:
    _, (served,) = run([Arrival(0.0, 8, 4, n=3)])
    assert served.output == 12
    assert served.first_token == 1.0
    assert served.end == 5.0  # the others start on the first one's prompt, a step later
    assert served.cached == 14


def test_equal_prefixes_are_found_and_others_are_not() -> None:
    arrivals = [
        Arrival(0.0, 20, 2, prefix=(("system", 12),)),
        Arrival(100.0, 20, 2, prefix=(("system", 12), ("user", 4))),
        Arrival(200.0, 20, 2, prefix=(("system", 12), ("user", 4))),
        Arrival(300.0, 20, 2, prefix=(("other", 12),)),
        Arrival(400.0, 20, 2, prefix=(("system", 12),), tenant="b"),
        Arrival(500.0, 20, 2),
        Arrival(600.0, 20, 2),
    ]
    _, served = run(arrivals)
    assert [s.cached for s in served] == [0, 12, 16, 0, 0, 0, 0]


def test_times_that_decrease_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"at 1\.0 s comes after one at 2\.0 s"):
        run([Arrival(2.0, 3, 1), Arrival(1.0, 3, 1)])


def test_an_instance_that_dies_hands_back_all_it_had_and_starts_again() -> None:
    events: list[Event] = []
    instance = Instance(make_spec(), events.append)
    for at in (0.0, 0.0, 0.5):
        assert instance.offer(Arrival(at, 20, 5), at) is None
        if at == 0.0 and not instance.busy:
            assert instance.begin(0.0) == 1.0
    assert (instance.waiting, instance.running) == (2, 1)
    lost = instance.abort_all(0.75, "power failure")
    assert [s.finish for s in lost] == [FinishReason.ABORT] * 3
    assert [s.end for s in lost] == [0.75] * 3
    assert not instance.busy
    assert not instance.has_work
    assert instance.outstanding == 0
    assert events[-1].reason == "power failure"
    assert instance.offer(Arrival(1.0, 3, 1), 1.0) is None
    assert instance.begin(1.0) == 2.0
    (served,) = instance.finish()
    assert served.finish is FinishReason.LENGTH


def test_routers_see_what_is_open() -> None:
    instance = Instance(make_spec())
    shared = Arrival(0.0, 20, 5, prefix=(("system", 16),))
    assert instance.offer(shared, 0.0) is None
    assert (instance.waiting, instance.outstanding, instance.overlap(shared)) == (1, 24, 0)
    end = instance.begin(0.0)
    assert end == 1.0
    instance.finish()
    assert (instance.waiting, instance.running, instance.outstanding) == (0, 1, 8)
    assert instance.overlap(shared) == 16
    assert instance.overlap(Arrival(0.0, 20, 5)) == 0


def test_outstanding_tokens_are_those_that_every_sequence_may_still_need() -> None:
    instance = Instance(make_spec(num_blocks=16))
    for at, n in ((0.0, 1), (0.0, 3), (1.5, 1), (3.0, 1)):
        assert instance.offer(Arrival(at, 14, 12, n=n), at) is None
    now = 0.0
    preempted = 0
    while instance.has_work:
        end = instance.begin(now)
        assert end is not None
        seqs = [s for i in range(4) for s in instance.scheduler.sequences(f"#{i}")]
        open_ = [s for s in seqs if not s.finished]
        assert instance.outstanding == sum(s.max_len - 1 - s.computed for s in open_)
        assert instance.running == len(instance.scheduler.running)
        instance.scheduler.check_integrity()
        preempted += sum(served.preemptions for served in instance.finish())
        now = end
    assert instance.outstanding == 0
    assert preempted > 0


def stream(count: int) -> Iterator[Arrival]:
    for i in range(count):
        yield Arrival(i * 0.05, 8 + i % 50, 1 + i % 7)


def peak(count: int) -> int:
    spec = make_spec(cost=AffineCost(step=1e-3), num_blocks=400, limits=Limits(64, 64, 16))
    tracemalloc.start()
    try:
        totals = simulate(stream(count), spec, lambda served: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        assert totals.requests == count


def test_memory_does_not_grow_with_the_number_of_requests() -> None:
    peak(200)  # what is loaded and interned once
    few, many = peak(300), peak(2400)
    assert many < 1.25 * few + 50_000, f"{few} bytes for 300 requests, {many} for 2400"
