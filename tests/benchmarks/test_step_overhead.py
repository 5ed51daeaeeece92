"""The measurement of a step's overhead, on few and small steps."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import step_overhead
from benchmarks.step_overhead import MODES, Overhead, Stopwatch, measure, print_table
from headrace.execution import local as local_module

local: Any = local_module


def test_time_inside_a_part_is_its_own_only() -> None:
    watch = Stopwatch()
    inner = watch.wrap("inner", lambda: sum(range(20_000)), "outer")
    outer = watch.wrap("outer", lambda: [inner() for _ in range(3)])
    outer()
    watch.steps.append({})
    outer()
    for step in watch.steps:
        assert step["inner"] > step["outer"] > 0
    found = watch.summary(1, min)
    assert found == {name: 1e6 * seconds for name, seconds in watch.steps[1].items()}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_measures_every_part(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_overhead, "VOCABULARY", 300)
    build_batch = local.build_batch
    found = measure(mode, batch=3, context=20, steps=4, traffic=0, statistic=min)
    assert local.build_batch is build_batch
    assert (found.mode, found.batch, found.steps) == (mode, 3, 4)
    names = {"plan", "layout", "submit", "collect", "sample", "commit", "deliver", "step loop"}
    assert names <= set(found.parts)
    assert "model" not in found.parts
    assert all(found.parts[name] > 0 for name in names)
    assert found.total == pytest.approx(sum(found.parts.values()))


def test_the_table_states_shares_of_the_step_times_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [Overhead("greedy", batch, 1, {"plan": 60.0, "sample": 40.0}) for batch in (1, 8)]
    print_table(found, {1: 0.9})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["us", "a", "step", "greedy", "1", "greedy", "8"]
    assert lines[-2].split() == ["sum", "100.0", "100.0"]
    assert lines[-1].split() == ["share", "10.00", "%"]
