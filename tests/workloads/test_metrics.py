"""Metrics against timelines worked out by hand, and against numpy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.errors import ConfigError
from headrace.workloads.metrics import Distribution, medians, summarise
from headrace.workloads.record import Record
from headrace.workloads.slo import Slo
from tests.workloads.timelines import RECORDS, SLO, failed, record


def test_latencies_of_one_request() -> None:
    one = record(10.0, 10.5, 10.75, 11.5, sent=10.125, tokens=3)
    assert (one.lag, one.ttft, one.e2e) == (0.125, 0.5, 1.5)
    assert one.tpot == (1.5 - 0.5) / 2
    assert one.itl == [0.25, 0.75]


def test_tpot_counts_tokens_and_itl_deliveries() -> None:
    one = record(0.0, 1.0, 2.0, tokens=5)
    assert one.tpot == 0.25
    assert one.itl == [1.0]


def test_an_output_that_ends_later_than_its_last_text() -> None:
    one = Record(due=0.0, sent=0.0, end=3.0, deliveries=[1.0, 2.0], output_tokens=3)
    assert (one.e2e, one.tpot, one.itl) == (3.0, 1.0, [1.0])


def test_one_token_has_no_tpot() -> None:
    assert record(0.0, 1.0).tpot is None


def test_an_answer_in_one_piece_has_neither_ttft_nor_tpot() -> None:
    whole = Record(due=0.0, sent=0.0, end=2.0, output_tokens=9)
    assert (whole.ttft, whole.tpot, whole.itl, whole.e2e) == (None, None, [], 2.0)


def test_a_summary_by_hand() -> None:
    found = summarise(RECORDS, SLO)
    assert (found.requests, found.answered, found.errors) == (5, 4, {"timeout": 1})
    assert found.duration == 10.0
    assert (found.prompt_tokens, found.output_tokens, found.cached_tokens) == (40, 10, 4)
    assert (found.request_rate, found.output_rate, found.total_rate) == (0.4, 1.0, 5.0)
    assert found.ttft is not None
    assert found.ttft.mean == pytest.approx((0.5 + 1.5 + 0.1 + 0.2) / 4)
    assert found.tpot is not None
    assert found.tpot.count == 3
    assert found.tpot.mean == pytest.approx((0.1 + 0.2 + 2.0) / 3)
    assert found.itl is not None
    assert found.itl.mean == pytest.approx((0.3 + 0.4 + 2.0) / 6)
    assert found.e2e is not None
    assert found.e2e.mean == pytest.approx((0.8 + 1.9 + 2.1 + 0.2) / 4)
    assert found.lag is not None
    assert found.lag.mean == pytest.approx(0.05)
    # Inside the targets: the first and the fourth request, of five in ten seconds.
    assert found.goodput == pytest.approx(0.2)
    assert found.attained == pytest.approx(0.4)


def test_without_targets_there_is_no_goodput() -> None:
    found = summarise(RECORDS)
    assert found.goodput is None
    assert found.attained is None


def test_failures_only() -> None:
    found = summarise([failed(0.0, 1.0, "a"), failed(0.0, 2.0, "b"), failed(0.0, 2.0, "a")], SLO)
    assert found.errors == {"a": 2, "b": 1}
    assert (found.answered, found.ttft, found.e2e, found.attained) == (0, None, None, 0.0)
    assert (found.request_rate, found.cached_tokens) == (0.0, None)


def test_nothing_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no records"):
        summarise([])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_percentiles_are_numpy_s(values: list[float]) -> None:
    found = Distribution.of(values)
    assert found is not None
    expected = np.percentile(np.array(values), [50, 90, 99], method="linear")
    assert [found.p50, found.p90, found.p99] == pytest.approx(expected.tolist())
    assert found.mean == pytest.approx(np.mean(values))
    assert found.count == len(values)


def test_a_percentile_by_hand() -> None:
    found = Distribution.of([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert found.p50 == 2.5
    assert found.p90 == pytest.approx(3.7)


def test_summaries_are_json() -> None:
    again = json.loads(json.dumps(summarise(RECORDS, SLO).to_json()))
    assert again["errors"] == {"timeout": 1}
    assert again["ttft"]["count"] == 4


def test_medians_of_runs() -> None:
    runs: list[dict[str, Any]] = [
        {"rate": 1.0, "ttft": {"p50": 1.0}, "goodput": None, "errors": {"x": 2}},
        {"rate": 5.0, "ttft": {"p50": 4.0}, "goodput": None, "errors": {}},
        {"rate": 2.0, "ttft": None, "goodput": None, "errors": {"y": 1}},
    ]
    assert medians(runs) == {
        "rate": 2.0, "ttft": {"p50": 2.5}, "goodput": None, "errors": {"x": 0, "y": 0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (Slo(), True),
        (Slo(ttft=0.5), True),
        (Slo(ttft=0.49), False),
        (Slo(tpot=0.5), True),
        (Slo(tpot=0.49), False),
        (Slo(e2e=1.5), True),
        (Slo(e2e=1.49), False),
        (Slo(0.5, 0.5, 1.5), True),
        (Slo(0.5, 0.5, 1.4), False),
    ],
)
def test_targets_are_upper_bounds(slo: Slo, met: bool) -> None:
    assert slo.met_by(record(0.0, 0.5, 1.0, 1.5)) is met


def test_a_failure_meets_nothing_and_one_token_any_tpot() -> None:
    assert not Slo().met_by(failed(0.0, 0.1, "x"))
    assert Slo(tpot=1e-9).met_by(record(0.0, 1.0))
    assert not Slo(ttft=1.0).met_by(Record(due=0.0, sent=0.0, end=0.1, output_tokens=3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft=1,tpot=0.1", Slo(ttft=1.0, tpot=0.1)),
        ("ttft=1s, tpot=100ms", Slo(ttft=1.0, tpot=0.1)),
        ("e2e=.5", Slo(e2e=0.5)),
    ],
)
def test_targets_as_text(text: str, expected: Slo) -> None:
    assert Slo.parse(text) == expected
    assert Slo.parse(text)


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=", "ttft=-1", "ttft=0", "itl=1", "ttft=1,ttft=2", "tpot=1h", "=1"]
)
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="target"):
        Slo.parse(text)
