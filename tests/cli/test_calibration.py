"""Calibration on a mock engine whose clock is moved by planted prices: they come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.cli import calibration
from headrace.engine.config import EngineConfig
from headrace.engine.known_cost import CostKeeper
from headrace.engine.service import EngineService
from headrace.execution.tuning import Tuning
from headrace.nouns.errors import ConfigError
from headrace.nouns.step import Step, StepResult
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.drift import DriftingCost
from headrace.scheduling.linear_cost import LinearCost
from headrace.simulation import fit
from tests.engine.engines import Typist, serving

PLANTED = LinearCost(
    {"step": 2e-3, "rows[0:4]": 1e-4, "rows[4:]": 3e-4, "samples": 2e-4, "decode_pairs": 1e-5,
     "prefill_pairs": 5e-6}
)  # fmt: skip


class Priced(Typist):
    """Takes as long as planted, on a clock of its own."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.time = 0.0
        self._ends = 0.0

    def now(self) -> float:
        return self.time

    def submit(self, step: Step) -> None:
        super().submit(step)
        self._ends = self.time + PLANTED.seconds(StepLoad.of(step))

    def collect(self) -> StepResult:
        self.time = self._ends
        result = super().collect()
        return result._replace(sampled=(), error="broken") if self.broken else result


@contextmanager
def priced(path: Path | None = None, broken: bool = False) -> Iterator[EngineService]:
    executor = Priced(broken)
    with serving(executor, max_sequences=8) as service:
        service.built.engine.clock = executor
        if path is not None:
            keeper = CostKeeper.of(Tuning(path / "t.json", {"machine": "this"}), "mock", 8)
            object.__setattr__(service.built, "keeper", keeper)
        yield service


def test_planted_prices_come_back() -> None:
    lines: list[str] = []
    with priced() as service:
        limits = service.built.engine.scheduler.limits
        kept = calibration.calibrate(service, lines.append, seconds=0.0)
        assert service.built.engine.scheduler.limits == limits
    assert kept.steps > 200
    for rows, decodes, context in ((1, 1, 10), (3, 3, 20), (8, 8, 40), (16, 6, 30), (14, 0, 0)):
        pairs = decodes * context
        load = StepLoad(
            rows=rows, slices=decodes + (rows > decodes), decodes=decodes, samples=decodes,
            pairs=pairs + (rows - decodes) * 5, decode_pairs=pairs, read=pairs - decodes,
        )  # fmt: skip
        assert kept.cost.seconds(load) == pytest.approx(PLANTED.seconds(load), rel=0.02)
    assert kept.cost.errors["decode"].p90 < 1e-3
    assert any("error of decode" in line for line in lines)


def test_it_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EngineConfig] = []

    @contextmanager
    def running(config: EngineConfig, report: object) -> Iterator[EngineService]:
        asked.append(config)
        with priced(tmp_path) as service:
            yield service

    monkeypatch.setattr(calibration, "running_service", running)
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    config = EngineConfig(order="priority", batching="static", max_sequences=8)
    lines: list[str] = []
    first = calibration.calibrated_cost(config, lines.append)
    assert any("measuring" in line for line in lines)
    assert (asked[0].order, asked[0].batching) == ("fcfs", "stall-free")
    lines.clear()
    second = calibration.calibrated_cost(config, lines.append)
    assert not any("measuring" in line for line in lines)
    assert second == first
    assert (first.num_blocks, first.block_size, first.limits.sequences) == (64, 4, 8)
    assert first.errors["decode"].steps > 0
    calibration.calibrated_cost(config, lines.append, again=True)
    assert any("measuring" in line for line in lines)


def test_a_disturbed_one_is_kept_for_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def running(config: EngineConfig, report: object) -> Iterator[EngineService]:
        with priced(tmp_path) as service:
            yield service

    monkeypatch.setattr(calibration, "running_service", running)
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    monkeypatch.setattr(fit, "wander", lambda cost, samples: 2.0)
    lines: list[str] = []
    for day, measured in (("2026-01-01", True), ("2026-01-01", False), ("2026-01-02", True)):
        lines.clear()
        monkeypatch.setattr(calibration, "_today", lambda day=day: day)
        calibration.calibrated_cost(EngineConfig(max_sequences=8), lines.append)
        assert any("measuring" in line for line in lines) == measured
        assert any("other programs ran" in line for line in lines) == measured


def test_a_load_that_fails_says_so() -> None:
    with priced(broken=True) as service, pytest.raises(ConfigError, match="the calibration's load"):
        calibration.calibrate(service, lambda line: None, seconds=0.0)


def test_slow_models_get_less_to_do() -> None:
    with priced() as service:
        built = service.built
        slow = DriftingCost(LinearCost({"rows": 0.05}))
        object.__setattr__(built, "cost", slow)
        kept = calibration.calibrate(service, lambda line: None, seconds=0.0)
        object.__setattr__(built, "cost", DriftingCost(LinearCost({"rows": 1e-5})))
        fast = calibration.calibrate(service, lambda line: None, seconds=0.0)
    assert kept.steps < fast.steps


async def test_what_takes_too_long_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LONGEST", 0.05)
    with priced() as service:
        samples = await calibration.measure(service, 100.0)
        assert service.drain(5.0)
    assert samples
