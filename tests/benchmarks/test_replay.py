"""Traffic, replays and what fidelity, goodput and leaderboard make of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fidelity import Row, Scenario, compare, saturation, summary, table
from benchmarks.goodput import point
from benchmarks.leaderboard import Score, good_rate, page, share_inside
from benchmarks.replay import Outcome, PromptIds, Replayed, simulated
from benchmarks.traffic import Traffic, code, conversation
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.limits import Limits
from headrace.scheduling.linear_cost import LinearCost
from headrace.simulation.arrival import Arrival
from headrace.simulation.instance import InstanceSpec

COST = LinearCost({"step": 0.004, "rows": 0.0002})


def spec() -> InstanceSpec:
    return InstanceSpec(cost=COST, num_blocks=4096, limits=Limits(320, 2048, 64))


def test_traffic_is_the_same_each_time_and_as_fast_as_asked() -> None:
    traffic = Traffic("t", conversation, rate=5.0, count=2000, shared=0.5, tenants=("a", "b"))
    found = list(traffic)
    assert found == list(traffic)
    assert found[-1].at == pytest.approx(2000 / 5.0, rel=0.1)
    assert all(a.prompt_tokens + a.output_tokens <= 2048 for a in found)
    assert sum(bool(a.prefix) for a in found) == pytest.approx(1000, rel=0.1)
    assert {a.tenant for a in found} == {"a", "b"}


def test_bursts_keep_the_rate_and_raise_the_variation() -> None:
    gaps = [
        np.diff([a.at for a in Traffic("t", code, 10.0, 4000, burstiness=cv)]) for cv in (1.0, 3.0)
    ]
    assert [gap.mean() for gap in gaps] == pytest.approx([0.1, 0.1], rel=0.2)
    assert gaps[1].std() > 2 * gaps[0].std()


def test_lengths_are_those_of_the_trace() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([conversation(rng, i) for i in range(20_000)])
    assert drawn.mean(axis=0) == pytest.approx([1155, 211], rel=0.03)


def test_groups_begin_alike_and_nobody_else_does() -> None:
    ids = PromptIds(0)
    a = ids.of(Arrival(0.0, 20, 1, prefix=(("g", 8),)))
    b = ids.of(Arrival(0.0, 30, 1, prefix=(("g", 12),)))
    c = ids.of(Arrival(0.0, 20, 1))
    assert (len(a), len(b), len(c)) == (20, 30, 20)
    assert a[:8] == b[:8]
    assert a[8:12] != b[8:12]
    assert a[:8] != c[:8]


def test_a_simulated_replay_loses_nothing() -> None:
    traffic = Traffic("t", conversation, rate=1.0, count=50)
    run = simulated(spec(), traffic)
    assert len(run.outcomes) == 50
    assert [o.at for o in run.outcomes] == [a.at for a in traffic]
    assert sum(o.output for o in run.outcomes) == sum(a.output_tokens for a in traffic)
    assert saturation(spec(), Scenario("t", 1.0)) > 0


def test_slowness_is_measured_over_predicted() -> None:
    load = StepLoad(rows=10)
    run = Replayed([], 1.0, 0, [(load, 0.012), (load, 0.012)])
    assert run.slowness(COST) == pytest.approx(2.0)


def test_verdicts_hold_the_bounds_of_the_figure_and_the_load() -> None:
    assert Row("s", 0.9, "throughput", 100, 104, 106).verdict == "ok"
    assert Row("s", 0.9, "throughput", 100, 104, 106).paced_verdict == "MISSED"
    assert Row("s", 0.9, "ttft p99", 100, 109, 100).verdict == "ok"
    assert Row("s", 0.9, "ttft p50", 100, 109, 100).verdict == "MISSED"
    assert Row("s", 1.3, "ttft p50", 100, 150, 100).verdict == ""
    run = simulated(spec(), Traffic("t", conversation, rate=1.0, count=30))
    rows = compare(Scenario("s", 0.5), run, run, run)
    assert all(row.error == 0 for row in rows)
    assert "7 of 7" in summary(rows)
    assert table(rows, {"s": 1.0}).count("\n") == len(rows) + 1


def outcome(at: float, ttft: float, tpot: float | None, error: str | None = None) -> Outcome:
    return Outcome(at, "t", ttft, tpot, ttft + 1.0, 10, 5, 0, error)


def test_good_is_answered_inside_both_targets() -> None:
    run = Replayed(
        [
            outcome(0.0, 0.9, 0.09),
            outcome(1.0, 1.1, 0.01),
            outcome(2.0, 0.1, 0.11),
            outcome(3.0, 0.1, None),
            outcome(4.0, 0.1, 0.01, "refused: full"),
        ],
        10.0,
        0,
    )
    assert good_rate(run) == pytest.approx(2 / 4.0)
    assert share_inside(run) == pytest.approx(2 / 5)
    found = point("p", "live", 2.0, Traffic("t", code, 1.0, 5), run)
    assert (found.refused, found.good, found.answered) == (1, 0.5, 1.0)
    assert found.inside == pytest.approx(0.5)


def test_the_page_has_a_row_for_each_policy() -> None:
    scores = [
        Score(policy, traffic, 2.0, 1.0, 1.5, 0.5, 1.4 if traffic == "conversation" else None)
        for policy in ("default", "fcfs")
        for traffic in ("conversation", "code")
    ]
    text = page(scores, "About.", "plot.svg")
    assert "| default | 1.00 | 1.50 | 0.50 | 1.40 | 1.00 | 1.50 | 0.50 |" in text
    assert "| fcfs |" in text
