"""Peaks: what is kept of ceilings, how they are remembered, and the better of two."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from headrace.execution import ceilings, peaks
from headrace.execution.ceilings import Ceiling
from headrace.execution.machine import detect_machine
from headrace.execution.peaks import Peaks, known_peaks, measure_peaks, peaks_of, remember

LOW = Peaks(bandwidth=1e9, float32=2e9, bfloat16=0.0, int8=9e9)
HIGH = Peaks(bandwidth=3e9, float32=1e9, bfloat16=0.0, int8=8e9)


def test_the_higher_of_each_rate_is_kept() -> None:
    ceilings_ = [
        Ceiling("memory read", 40.0, "GB/s", ""),
        Ceiling("float32 multiply-add", 400.0, "GFLOP/s", ""),
        Ceiling("float32 product", 300.0, "GFLOP/s", ""),
        Ceiling("int8 multiply-add", 100.0, "GOP/s", ""),
        Ceiling("int8 product", 900.0, "GOP/s", ""),
        Ceiling("bfloat16 multiply-add", None, "GFLOP/s", "no instruction"),
    ]
    assert peaks_of(ceilings_) == Peaks(40e9, 400e9, 0.0, 900e9)
    assert peaks_of(ceilings_[1:]) is None
    assert peaks_of(ceilings_[:1]) is None


def test_what_has_no_rate_is_computed_in_float32() -> None:
    assert LOW.rate("bfloat16") == 2e9
    assert LOW.rate("int8") == 9e9


def test_the_best_of_two() -> None:
    assert LOW.best(HIGH) == Peaks(3e9, 2e9, 0.0, 9e9, measured=1)  # one rate is much better
    assert LOW.best(HIGH).best(LOW) == Peaks(3e9, 2e9, 0.0, 9e9, measured=2)
    close = replace(LOW, int8=9.2e9)
    assert LOW.best(close) == replace(close, measured=2)
    assert remember(None, LOW, lambda _: pytest.fail("nothing new to save")) is LOW
    saved: list[dict[str, float]] = []
    assert remember(HIGH, LOW, saved.append) == LOW.best(HIGH)
    assert saved == [LOW.best(HIGH).to_json()]


def test_json_and_back() -> None:
    assert Peaks.from_json(json.loads(json.dumps(LOW.to_json()))) == LOW


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"bandwidth": 1.0},
        LOW.to_json() | {"int8": "fast"},
        LOW.to_json() | {"int8": -1.0},
        LOW.to_json() | {"int8": float("nan")},
        LOW.to_json() | {"bandwidth": 0.0},
        LOW.to_json() | {"more": 1.0},
    ],
)
def test_anything_else_is_no_peaks(found: object) -> None:
    assert Peaks.from_json(found) is None


def test_measured_at_every_start_until_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter([LOW, LOW, HIGH, LOW, HIGH])
    monkeypatch.setattr(peaks, "measure_peaks", lambda machine, threads: next(made))
    kept: list[object] = ["damaged"]
    machine = detect_machine()
    found = [known_peaks(machine, 1, lambda: kept[-1], kept.append) for _ in range(7)]
    assert [p and p.measured for p in found] == [1, 2, 1, 2, 3, 3, 3]
    assert found[0] == LOW
    assert found[-1] == replace(LOW.best(HIGH), measured=3)
    assert len(kept) == 6


def test_peaks_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 8 << 20)
    machine = detect_machine()
    found = measure_peaks(machine, 1, seconds=0.0)
    assert found is not None
    assert found.bandwidth > 0
    assert found.rate("int8") >= found.float32 > 0
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 4096)
    assert measure_peaks(machine, 1, seconds=0.0) is None
