"""LinearCost: sums of prices, never falling, and read strictly."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.errors import ConfigError
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.linear_cost import COUNTS, CostError, Feature, LinearCost, phase_of

NAMES = ["step", "rows", "rows[0:4]", "rows[4:16]", "rows[2:9]", "rows[16:]", "slices", "samples",
         "samples[8:]", "decode_pairs", "prefill_pairs", "read", "prefill", "decodes"]  # fmt: skip
PRICES = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1), min_size=1)
ERRORS = {"decode": CostError(9, 0.1, 0.2, -0.01, 0.05, 0.1)}


@st.composite
def loads(draw: st.DrawFn) -> StepLoad:
    decodes, chunks = draw(st.integers(0, 80)), draw(st.integers(0, 3))
    length, context = draw(st.integers(2, 300)), draw(st.integers(1, 2000))
    samples = draw(st.integers(0, decodes + chunks))
    pairs = decodes * context
    return StepLoad(
        rows=decodes + chunks * length, padding=draw(st.integers(0, 9)), slices=decodes + chunks,
        decodes=decodes, samples=samples, pairs=pairs + chunks * length * context,
        decode_pairs=pairs, sample_pairs=samples * context, read=(decodes + chunks) * context,
    )  # fmt: skip


def test_a_price_for_each_unit_and_a_constant() -> None:
    cost = LinearCost({"step": 1.0, "rows[0:4]": 0.5, "rows[4:]": 0.25, "samples": 2.0})
    assert cost.seconds(StepLoad()) == 1.0
    assert cost.seconds(StepLoad(rows=3, samples=1)) == 1.0 + 1.5 + 2.0
    assert cost.seconds(StepLoad(rows=8, padding=2)) == 1.0 + 2.0 + 1.5
    assert cost.seconds(StepLoad(rows=4)) == 3.0


@given(PRICES, loads())
def test_the_sum_of_its_features(prices: dict[str, float], load: StepLoad) -> None:
    by_hand = sum(
        price * (1 if name == "step" else Feature.parse(name).of(load))
        for name, price in prices.items()
    )
    assert LinearCost(prices).seconds(load) == pytest.approx(by_hand, rel=1e-9, abs=1e-12)


@given(PRICES, loads(), loads())
def test_more_to_do_never_takes_less(
    prices: dict[str, float], load: StepLoad, more: StepLoad
) -> None:
    cost = LinearCost(prices)
    assert cost.seconds(load + more) >= cost.seconds(load) * (1 - 1e-12)


@given(PRICES)
def test_json_and_back(prices: dict[str, float]) -> None:
    cost = LinearCost(prices, ERRORS)
    assert LinearCost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


@pytest.mark.parametrize(
    "damage",
    [
        None, [], {}, {"coefficients": {"rows": 1}}, {"coefficients": {}, "errors": {}},
        {"coefficients": {"rows": -1.0}, "errors": {}},
        {"coefficients": {"rows": math.nan}, "errors": {}},
        {"coefficients": {"rows": "1"}, "errors": {}},
        {"coefficients": {"rows": True}, "errors": {}},
        {"coefficients": {"columns": 1.0}, "errors": {}},
        {"coefficients": {"columns": 0.0}, "errors": {}},
        {"coefficients": {"rows[4:4]": 1.0}, "errors": {}},
        {"coefficients": {"rows[:4]": 1.0}, "errors": {}},
        {"coefficients": {"rows": 1.0}, "errors": {"sleep": {}}},
        {"coefficients": {"rows": 1.0}, "errors": {"decode": {"steps": 3}}},
        {"coefficients": {"rows": 1.0}, "errors": []},
    ],
)  # fmt: skip
def test_damage_is_refused(damage: Any) -> None:
    with pytest.raises(ConfigError):
        LinearCost.from_json(damage)


@pytest.mark.parametrize("wrong", [-0.1, math.inf, "x", True])
def test_impossible_errors_are_refused(wrong: Any) -> None:
    found = LinearCost({"rows": 1.0}, ERRORS).to_json()
    found["errors"]["decode"]["p90"] = wrong
    with pytest.raises(ConfigError, match="p90"):
        LinearCost.from_json(found)


def test_features_are_written_as_they_are_read() -> None:
    for text in ("rows", "rows[4:16]", "samples[8:]"):
        assert str(Feature.parse(text)) == text
    assert set(COUNTS) >= {"rows", "slices", "samples", "read"}


def test_phases() -> None:
    assert phase_of(StepLoad(rows=3, decodes=3)) == "decode"
    assert phase_of(StepLoad(rows=3)) == "prefill"
    assert phase_of(StepLoad(rows=9, decodes=3)) == "mixed"
