"""What an engine knows of step times when it starts: kept prices, estimates, or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.known_cost import CostKeeper, KeptCost, first_cost
from headrace.execution.peaks import Peaks
from headrace.execution.roofline import Roofline, WeightFormat
from headrace.execution.tuning import Tuning
from headrace.nouns.errors import ConfigError
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.linear_cost import CostError, LinearCost
from tests.execution.tiny import tiny_config

PEAKS = Peaks(bandwidth=1e9, float32=1e11)
ROOFLINE = Roofline(tiny_config(), WeightFormat("float32", 32.0, 32.0, "float32", 32.0), PEAKS)
KEPT = KeptCost(
    LinearCost({"step": 1e-3, "rows": 2e-4}, {"decode": CostError(9, 0.1, 0.2, 0.0, 0.1, 0.2)}),
    "2026-11-21", 100,
)  # fmt: skip


def keeper(path: Path, sequences: int = 64) -> CostKeeper:
    return CostKeeper.of(Tuning(path / "t.json", {"machine": "this"}), "int8; bf16", sequences)


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    assert keeper(tmp_path).load() is None
    keeper(tmp_path).save(KEPT)
    assert keeper(tmp_path).load() == KEPT
    assert keeper(tmp_path, sequences=8).load() is None
    assert "2026-11-21 over 100 steps" in KEPT.describe()
    assert "decode 10.0%" in KEPT.describe()


@pytest.mark.parametrize(
    "damage",
    [3, {}, {"cost": KEPT.cost.to_json(), "date": 5, "steps": 9},
     {"cost": KEPT.cost.to_json(), "date": "x", "steps": 0}, {"cost": {}, "date": "x", "steps": 9},
     KEPT.to_json() | {"wander": -1.0}, KEPT.to_json() | {"more": 1}],
)  # fmt: skip
def test_damage_is_no_calibration(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError):
        KeptCost.from_json(damage)
    found = keeper(tmp_path)
    found.tuning.put(found.name, damage)
    assert found.load() is None
    assert "calibration is not used" in caplog.text


def test_a_disturbed_one_says_so() -> None:
    shaky = replace(KEPT, wander=0.8)
    assert shaky.disturbed
    assert "speed changed by 80%" in shaky.describe()
    assert not KEPT.disturbed
    assert "speed" not in KEPT.describe().partition("moment)")[2]
    older = {key: value for key, value in KEPT.to_json().items() if key != "wander"}
    assert KeptCost.from_json(older) == KEPT


def chunk(rows: int, before: int = 0) -> StepLoad:
    return StepLoad(rows=rows, slices=1, pairs=rows * (2 * before + rows + 1) // 2, read=before)


def test_measured_prefill_steps_are_predicted_as_measured() -> None:
    points = ((16, 0.02), (64, 0.05), (256, 0.16))
    for roofline in (None, ROOFLINE):
        cost = first_cost(points, roofline)
        assert cost is not None
        for rows, seconds in points:
            assert cost.seconds(chunk(rows)) == pytest.approx(seconds, rel=1e-6)
        assert cost.seconds(chunk(512)) == pytest.approx(0.32, rel=0.15)


def test_a_disturbed_point_does_not_make_larger_steps_cheaper() -> None:
    cost = first_cost(((16, 0.5), (64, 0.05)), None)
    assert cost is not None
    assert cost.seconds(chunk(16)) == pytest.approx(0.05)
    assert cost.seconds(chunk(64)) == pytest.approx(0.05)


def test_without_a_measurement_the_limit_speaks() -> None:
    cost = first_cost((), ROOFLINE)
    assert cost is not None
    for rows, samples, read in ((1, 1, 900), (64, 64, 9000), (512, 1, 0)):
        load = StepLoad(rows=rows, slices=samples, samples=samples, pairs=read + rows, read=read)
        bound = ROOFLINE.bound(rows, samples, read + rows, 0.0, read).seconds
        assert bound < cost.seconds(load) < 2.5 * bound


def test_nothing_known_is_nothing_said() -> None:
    assert first_cost((), None) is None
