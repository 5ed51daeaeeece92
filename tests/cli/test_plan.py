"""headrace plan: the cheapest is what an exhaustive search finds, and what keeps others from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import plan_search
from headrace.cli.plan import configurations
from headrace.cli.plan_search import PlanSearch
from headrace.cli.plan_targets import PlanTargets
from headrace.cli.plan_trial import Setting
from headrace.cli.simulated_load import SimulatedLoadOptions
from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ConfigError
from headrace.nouns.request import Targets
from headrace.workloads.slo import Slo
from tests.cli.conftest import Invoke

DEVICE = """
name = "{name}"
kind = "gpu"
[peak]
float32 = {peak}
source = "made up"
[memory]
bytes = {bytes}
bandwidth = {bandwidth}
source = "made up"
[achievable]
products = 0.8
attention = 0.8
reading = 0.8
source = "made up"
[overhead]
step = 0.001
source = "made up"
[price]
dollars_per_hour = {price}
source = "made up"
"""
LOAD = ("--tokens", "50-400:10-60", "--rate", "40", "--requests", "150", "--model", "smollm2:135m")
SLO = ("--slo", "ttft=500ms,tpot=50ms,share=90%")


def device(folder: Path, name: str, price: float, speed: float = 1.0, **changed: float) -> str:
    values = {"peak": 1.5e12 * speed, "bandwidth": 1e11 * speed, "bytes": 4e9, "price": price}
    path = folder / f"{name}.toml"
    path.write_text(DEVICE.format(name=name, **(values | changed)), encoding="utf-8")
    return str(path)


@pytest.fixture
def few_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_search, "BUDGETS", (256,))


def planned(invoke: Invoke, *args: str, code: int = 0) -> dict[str, Any]:
    result = invoke("plan", *LOAD, *SLO, *args, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def exhaustive(devices: list[str], most: int) -> tuple[float, int, int]:
    """(price, number of the device, instances) of the cheapest, by trying everything."""
    (load,) = SimulatedLoadOptions(tokens="50-400:10-60", rate="40", requests=150).loads(
        None, Targets(ttft=0.5, tpot=0.05)
    )
    targets = PlanTargets.parse("ttft=500ms,tpot=50ms,share=90%")
    search = PlanSearch(load, targets, "least-tokens", 0, lambda line: None)
    config = EngineConfig(model="smollm2:135m")
    meeting = []
    for number, candidate in enumerate(search.candidates(devices, [("default", config)])):
        assert candidate.engine is not None
        for count in range(1, most + 1):
            own = Setting.of(candidate.engine)
            settings = [own, *(replace(own, token_budget=b) for b in plan_search.BUDGETS)]
            if any(search._try(candidate, count, setting).meets for setting in settings):
                meeting.append((count * candidate.each, number, count))
    return min(meeting)


def test_the_cheapest_is_found(invoke: Invoke, tmp_path: Path, few_budgets: None) -> None:
    devices = [
        device(tmp_path, "slow", 1.0, 0.5),
        device(tmp_path, "even", 1.9),
        device(tmp_path, "fast", 7.0, 4.0),
    ]
    chosen = [part for name in devices for part in ("--device", name)]
    found = planned(invoke, *chosen)
    price, number, count = exhaustive(devices, 7)
    best = found["candidates"][found["best"]]
    assert (found["best"], best["instances"]) == (number, count)
    assert best["dollars_per_hour"] == pytest.approx(price)
    assert 1 < count < 7
    fewer = [t for t in best["trials"] if t["instances"] < count]
    assert fewer
    assert not any(trial["meets"] for trial in fewer)
    assert all(c["at_least"] <= (c["instances"] or 99) for c in found["candidates"])
    assert best["binds"].split()[0] in ("compute", "bandwidth", "overhead")


def test_prices_decide(invoke: Invoke, tmp_path: Path, few_budgets: None) -> None:
    cheap, dear = device(tmp_path, "cheap", 1.0), device(tmp_path, "dear", 1.5)
    found = planned(invoke, "--device", dear, "--device", cheap)
    assert found["best"] == 1
    assert found["candidates"][0]["instances"] is None
    assert (
        "dollars an hour" in found["candidates"][0]["left_out"]
        or "dearer" in (found["candidates"][0]["left_out"])
    )


def test_without_prices_fewer_are_cheaper(
    invoke: Invoke, tmp_path: Path, few_budgets: None
) -> None:
    names = [device(tmp_path, "half", 1.0, 0.5), device(tmp_path, "whole", 1.0)]
    for name in names:
        text = Path(name).read_text(encoding="utf-8")
        Path(name).write_text(text.partition("[price]")[0], encoding="utf-8")
    found = planned(invoke, *(part for name in names for part in ("--device", name)))
    assert found["best"] == 1
    assert found["candidates"][0]["instances"] > found["candidates"][1]["instances"]
    assert found["candidates"][1]["dollars_per_hour"] is None
    assert any("price is not known" in note for note in found["notes"])


def test_targets_that_nobody_meets_name_the_nearest(
    invoke: Invoke, tmp_path: Path, few_budgets: None
) -> None:
    name = device(tmp_path, "only", 1.0)
    result = invoke("plan", *LOAD, *SLO, "--device", f"{name}:1")
    assert result.exit_code == 1
    told = " ".join(result.stderr.split())
    assert "nothing offered meets 90 % inside ttft 500 ms, tpot 50 ms; the nearest is 1 x" in told
    assert "what binds is" in told
    assert "not 1" in result.stdout


def test_what_is_too_slow_alone_is_not_simulated(invoke: Invoke, tmp_path: Path) -> None:
    slow = device(tmp_path, "slow", 1.0, bandwidth=2e9)
    found = planned(invoke, "--device", slow, code=1)
    assert found["candidates"][0]["trials"] == []
    assert found["candidates"][0]["left_out"].startswith("latency: only")
    assert "nothing offered can meet" in found["verdict"]


def test_a_device_that_cannot_hold_the_model_is_left_out(
    invoke: Invoke, tmp_path: Path, few_budgets: None
) -> None:
    small, large = device(tmp_path, "small", 0.1, bytes=1e8), device(tmp_path, "large", 1.0)
    found = planned(invoke, "--device", small, "--device", large)
    assert found["best"] == 1
    assert (found["candidates"][1]["instances"] == 1) == (found["candidates"][1]["binds"] is None)
    assert "does not fit" in found["candidates"][0]["left_out"]


def test_little_cache_binds(invoke: Invoke, tmp_path: Path, few_budgets: None) -> None:
    name = device(tmp_path, "narrow", 1.0, 50.0)
    found = planned(invoke, "--device", name, "--cache", "20MB", "--rate", "400",
                    "--requests", "50", "--tokens", "300-400:200")  # fmt: skip
    assert found["candidates"][0]["instances"] > 1
    assert found["candidates"][0]["binds"].startswith("memory")


def test_slots_that_bind_are_made_more(invoke: Invoke, tmp_path: Path, few_budgets: None) -> None:
    name = device(tmp_path, "wide", 1.0, 20.0)
    load = ("--device", f"{name}:1", "--rate", "240", "--tokens", "10:200", "--requests", "600")
    found = planned(invoke, *load)
    first, *_, last = found["candidates"][0]["trials"]
    assert (first["meets"], first["max_sequences"]) == (False, 64)
    assert first["full_share"] > 0.5
    assert first["binds"].startswith("slots")
    assert (last["meets"], last["max_sequences"]) == (True, 256)
    assert "256 sequences together" in found["verdict"]
    fixed = planned(invoke, *load, "--max-sequences", "60", code=1)
    assert {t["max_sequences"] for t in fixed["candidates"][0]["trials"]} == {60}


def test_policies_are_tried_one_by_one(invoke: Invoke, tmp_path: Path, few_budgets: None) -> None:
    name = device(tmp_path, "even", 1.0)
    found = planned(invoke, "--device", name, "--policy", "static", "--policy", "stall-free")
    static, fluent = found["candidates"]
    assert (static["policy"], fluent["policy"]) == ("static", "stall-free")
    assert found["best"] == 1
    assert static["instances"] is None or static["instances"] > fluent["instances"]


def test_the_table_and_the_plot(invoke: Invoke, tmp_path: Path, few_budgets: None) -> None:
    name, plot = device(tmp_path, "even", 1.0), tmp_path / "plan.html"
    result = invoke("plan", *LOAD, *SLO, "--device", name, "--plot", plot)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    for text in ("candidates (90 % have to be inside)", "cheapest:", "dollars an hour", "TTFT"):
        assert text in told, text
    assert "headrace plan: smollm2:135m" in plot.read_text(encoding="utf-8")


def test_configurations_are_all_combinations() -> None:
    base = EngineConfig()
    assert list(configurations(base, [])) == [("default", base)]
    found = dict(configurations(base, ["static", "order=priority", "stall-free", "static"]))
    assert found == {
        "static, priority": replace(base, batching="static", order="priority"),
        "stall-free, priority": replace(base, batching="stall-free", order="priority"),
    }


def test_targets() -> None:
    assert PlanTargets.parse("ttft=1s") == PlanTargets(Slo(ttft=1.0), 0.95)
    found = PlanTargets.parse("ttft=1s, share=99.5%,e2e=10")
    assert found.slo == Slo(ttft=1.0, e2e=10.0)
    assert found.share == pytest.approx(0.995)
    assert found.stated == Targets(ttft=1.0, deadline=10.0)
    assert str(found) == "99.5 % inside ttft 1000 ms, e2e 10000 ms"
    for text in ("share=99%", "ttft=1,share=0%", "ttft=1,share=101%", "ttft=1,share=0.9",
                 "ttft=1,share=9%,share=9%", "ttft"):  # fmt: skip
        with pytest.raises(ConfigError):
            PlanTargets.parse(text)


L4 = ("--device", "l4", "--model", "llama-2-7b")
BAD = [
    ((*L4,), "give --slo"),
    (("--slo", "ttft=1s"), "give --device"),
    ((*L4, "--slo", "ttft=1s,share=2"), "share=99%"),
    ((*L4, "--slo", "ttft=1s", "--rate", "1,2"), "give one"),
    ((*L4, "--slo", "ttft=1s", "--policy", "nobody"), "no such policy"),
    ((*L4, "--slo", "ttft=1s", "--router", "nobody"), "not known"),
    ((*L4, "--slo", "ttft=1s", "--plot", "x.gif"), ".png or .html"),
    (("--device", "l5", "--slo", "ttft=1s"), "'l5' is not known"),
]


@pytest.mark.parametrize(("args", "told"), BAD)
def test_what_cannot_be_is_one_line(invoke: Invoke, args: tuple[str, ...], told: str) -> None:
    result = invoke("plan", *args)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
