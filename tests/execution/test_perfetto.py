"""Traces: valid events of the format, nested as they ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.execution.perfetto import trace, write_trace
from headrace.execution.profile import NO_LAYER, Profile
from headrace.execution.roofline import Roofline
from headrace.nouns.errors import ConfigError
from headrace.nouns.step import Work
from tests.execution.test_profile import PEAKS
from tests.execution.test_roofline import FLOAT
from tests.execution.tiny import executor, sequence, tiny_config, tiny_transformer, whole


def events(found: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [event for event in found["traceEvents"] if event["ph"] == phase]


def test_events_by_hand() -> None:
    profile = Profile()
    profile.book("norm", 6_000, 7_500, 0)
    profile.book("sampling", 8_000, 9_000)
    layout = ("layout", NO_LAYER, 5_000, 5_500)
    profile.end_step(3, 12, 2, 6_000, 10_000, layout, Work(100, 50, 1e-6))
    found = trace(profile)
    step, laid_out, norm, sampling = events(found, "X")
    assert (step["name"], step["ts"], step["dur"]) == ("12 rows", 1.0, 4.0)
    assert step["args"]["share of the limit, %"] == pytest.approx(25.0)
    assert {name: step["args"][name] for name in ("step", "rows", "slices", "bytes")} == {
        "step": 3, "rows": 12, "slices": 2, "bytes": 50,
    }  # fmt: skip
    assert (laid_out["ts"], laid_out["dur"]) == (0.0, 0.5)
    assert laid_out["tid"] != step["tid"] == norm["tid"] == sampling["tid"]
    assert (norm["ts"], norm["dur"], norm["args"]) == (1.0, 1.5, {"layer": 0})
    assert sampling["args"] == {}
    (share,) = events(found, "C")
    assert (share["ts"], share["args"]) == (1.0, {"%": pytest.approx(25.0)})


def test_a_trace_of_a_run_is_valid_json_of_nested_events(tmp_path: Path) -> None:
    local = executor(tiny_transformer("float32"))
    local.roofline = Roofline(tiny_config(), FLOAT, PEAKS)
    with local.profile() as profile:
        seq = sequence(range(30), range(3))
        for token in range(3):
            whole(local, seq)
            seq.tokens.append(token)
    path = tmp_path / "trace.json"
    write_trace(profile, path)
    found = json.loads(path.read_text())
    assert {event["ph"] for event in found["traceEvents"]} == {"M", "X", "C"}
    assert all({"name", "pid", "tid", "args"} <= set(event) for event in events(found, "M"))
    complete = events(found, "X")
    assert all(event["dur"] >= 0 <= event["ts"] for event in complete)
    steps = [event for event in complete if event["name"].endswith(("row", "rows"))]
    assert [event["args"]["rows"] for event in steps] == [30, 1, 1]
    inside = [e for e in complete if e["tid"] == steps[0]["tid"] and e not in steps]
    for event in inside:
        assert any(
            step["ts"] <= event["ts"] and event["ts"] + event["dur"] <= step["ts"] + step["dur"]
            for step in steps
        )
    layers = {event["args"]["layer"] for event in inside if "layer" in event["args"]}
    assert layers == set(range(local.transformer.config.num_layers))
    assert found["otherData"] == {"steps": 3, "steps_profiled": 3}


def test_a_profile_of_nothing() -> None:
    assert events(trace(Profile()), "X") == []


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.json"):
        write_trace(Profile(), tmp_path / "trace.txt")
    with pytest.raises(ConfigError, match="directory does not exist"):
        write_trace(Profile(), tmp_path / "no" / "trace.json")
    (tmp_path / "trace.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_trace(Profile(), tmp_path / "trace.json")
