"""headrace simulate, end to end on small loads, and the parts it is made of."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import calibration, simulated_engine, simulation_run
from headrace.cli.bench_load import LoadOptions, Vocabulary
from headrace.cli.simulated_engine import mixed_load
from headrace.cli.simulated_fleet import DeviceChoice, SimulatedFleet
from headrace.cli.simulated_load import SimulatedLoad, SimulatedLoadOptions
from headrace.cli.simulated_tally import KEPT, SimulatedTally, record_of
from headrace.cli.simulation_run import Window, parse_window
from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ConfigError
from headrace.nouns.request import Targets
from headrace.nouns.sequence import FinishReason
from headrace.scheduling.limits import Limits
from headrace.scheduling.linear_cost import CostError, LinearCost
from headrace.simulation.arrival import Arrival
from headrace.simulation.instance import InstanceSpec
from headrace.simulation.run import simulate
from headrace.simulation.served import Served
from headrace.workloads.metrics import summarise
from headrace.workloads.slo import Slo
from tests.cli.conftest import Invoke

LLAMA = ("--model", "llama-2-7b", "--device", "a100-80g")
SHORT = ("--tokens", "20-200:5-50", "--requests", "40")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    lines = [f"{0.1 * i},{100 + i},{10 + i % 7}" for i in range(30)]
    path.write_text("time,prompt tokens,output tokens\n" + "\n".join(lines), encoding="utf-8")
    return path


def report_of(invoke: Invoke, *args: str | Path) -> dict[str, Any]:
    result = invoke("simulate", *args, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_trace_is_answered_and_told_as_a_table(invoke: Invoke, trace: Path) -> None:
    result = invoke("simulate", trace, *LLAMA, "--slo", "ttft=1s,tpot=100ms")
    assert result.exit_code == 0, result.output
    for text in (
        "llama-2-7b on NVIDIA A100 80GB SXM, simulated", "requests answered", "30",
        "goodput, requests per second inside ttft 1000 ms, tpot 100 ms", "TTFT", "TPOT",
        "share of the machine's limit", "unbounded memory bandwidth", "most cache in use",
        "preemptions", "simulated a second", "dollars per hour", "token budget",
    ):  # fmt: skip
        assert text in result.stdout, text


def test_the_report_is_that_of_bench(invoke: Invoke, trace: Path) -> None:
    simulated = report_of(invoke, trace, *LLAMA, "--slo", "ttft=1s")
    measured = invoke("bench", "--trace", trace, "--slo", "ttft=1s", "--json", "--max-context", 64)
    assert measured.exit_code == 0, measured.output
    bench = json.loads(measured.stdout)
    assert simulated.keys() >= bench.keys() - {"profile"}
    (point,), (other,) = simulated["points"], bench["points"]
    assert point.keys() == other.keys()
    assert point["median"].keys() == other["median"].keys()
    assert point["label"] == other["label"]
    run, real = point["runs"][0], other["runs"][0]
    assert run["requests"][0].keys() == real["requests"][0].keys()
    assert [r["at"] for r in run["requests"]] == pytest.approx([0.1 * i for i in range(30)])


def test_the_same_seed_gives_the_same_report(invoke: Invoke) -> None:
    fleet = (
        "--device", "a100-80g:2,fails=20s,repair=2s", "--device", "l4", "--router", "two-choices",
        "--rate", "30", *SHORT, "--model", "llama-2-7b",
    )  # fmt: skip
    first, again = (report_of(invoke, *fleet, "--seed", "3") for _ in range(2))
    for report in (first, again):
        del report["points"][0]["runs"][0]["simulated"]["wall_seconds"]
        for name in ("requests", "steps", "tokens"):
            del report["points"][0]["runs"][0]["simulated"][f"{name}_per_second"]
    assert first == again
    other = report_of(invoke, *fleet, "--seed", "4")
    assert other["points"][0]["median"] != first["points"][0]["median"]


def test_a_sweep_has_a_point_for_each_rate_and_is_drawn(invoke: Invoke, tmp_path: Path) -> None:
    plot = tmp_path / "sweep.html"
    result = invoke("simulate", *LLAMA, *SHORT, "--rate", "2:8:3", "--slo", "ttft=1s",
                    "--plot", plot)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "rate against goodput" in result.stdout
    assert "simulations" in result.stdout
    assert "headrace simulate: llama-2-7b" in plot.read_text(encoding="utf-8")


def test_chosen_seconds_are_written_for_perfetto(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    result = invoke("simulate", "--model", "llama-2-7b", "--device", "a100-80g:2", *SHORT,
                    "--rate", "10", "--profile-trace", f"{path}:1-2")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "wrote seconds 1 to 2" in result.stderr
    entries = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    names = {e["args"]["name"] for e in entries if e["name"] == "process_name"}
    assert names == {"a100-80g #0", "a100-80g #1"}
    steps = [e for e in entries if e["ph"] == "X"]
    assert steps
    assert all(0.9e6 < e["ts"] <= 2e6 for e in steps)


def test_engine_options_reach_the_simulated_engine(invoke: Invoke) -> None:
    few = report_of(invoke, *LLAMA, *SHORT, "--max-sequences", "2")
    many = report_of(invoke, *LLAMA, *SHORT)
    assert few["points"][0]["median"]["duration"] > 2 * many["points"][0]["median"]["duration"]
    full = report_of(invoke, *LLAMA, *SHORT, "--max-queue", "10")
    assert full["points"][0]["median"]["errors"] == {"queue_full": 30}
    small = report_of(invoke, *LLAMA, *SHORT, "--cache", "300MB", "--policy", "watermark")
    assert small["points"][0]["runs"][0]["simulated"]["peak_memory_share"] > 0.9
    chosen = report_of(invoke, *LLAMA, *SHORT, "--policy", "static", "--token-budget", "99")
    assert chosen["about"]["policies"]["batching"] == "static"
    assert any("token budget 99 (set by the user)" in note for note in chosen["notes"])
    narrow = report_of(invoke, *LLAMA, *SHORT, "--weights", "int8")
    assert narrow["points"][0]["median"]["tpot"]["p50"] < (
        0.8 * many["points"][0]["median"]["tpot"]["p50"]
    )


def test_a_models_file_serves_where_no_shape_is_built_in(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("simulate", "--model", tmp_path / "none.gguf", "--device", "l4", *SHORT)
    assert result.exit_code == 2
    assert "none.gguf" in result.stderr
    assert "llama-2-7b" in result.stderr


def test_a_tenants_file_gives_requests_their_targets(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text('[defaults]\nttft = 0.5\ntpot = 0.1\n[tenants.a]\nkeys = ["k"]\n')
    seen: list[Targets] = []
    whole = SimulatedLoadOptions.loads

    def loads(self: SimulatedLoadOptions, *args: Any) -> list[SimulatedLoad]:
        found = whole(self, *args)
        seen.extend(arrival.targets for load in found for arrival in load)
        return found

    monkeypatch.setattr(SimulatedLoadOptions, "loads", loads)
    report_of(invoke, *LLAMA, *SHORT, "--api-key-file", path)
    assert seen == [Targets(ttft=0.5, tpot=0.1)] * 40


def this_machine(config: EngineConfig, report: object) -> calibration.Calibration:
    cost = LinearCost(
        {"step": 0.01, "rows": 0.001}, {"decode": CostError(10, 0.02, 0.1, 0.0, 0.01, 0.05)}
    )
    return calibration.Calibration(
        "toy", "float32", cost, 400, 16, Limits(128, 512, config.max_sequences), 256,
        "2026-01-01", 4321,
    )  # fmt: skip


def test_this_machine_is_what_was_measured(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "calibrated_cost", this_machine)
    result = invoke("simulate", "--device", "this", *SHORT, "--rate", "2")
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert "4321 steps" in told
    assert "2.0% at the median" in told
    assert "unbounded compute" not in result.stdout  # nothing is known of it
    by_default = invoke("simulate", *SHORT, "--rate", "2")
    assert "on this machine, simulated" in by_default.stdout


BAD = [
    (("--device", "a100-8g"), "'a100-8g' is not known; use one of a100-40g"),
    (("--device", "a100-80g:0"), "is not understood"),
    (("--device", "a100-80g:5000"), "is not understood"),
    (("--device", "2xthis"), "this machine is one device"),
    (("--device", "l4,start=5"), "'start=5' is not understood"),
    (("--device", "l4,fails=5m"), "both fails and repair"),
    (("--device", "2xl4:3000", "--device", "2xl4:3000", "--model", "llama-2-7b"), "at most 4096"),
    (("--device", "t4", "--model", "llama-2-70b"), "does not fit"),
    (("--device", "missing.toml"), "missing.toml"),
    ((*LLAMA, "--router", "fastest"), "router 'fastest' is not known"),
    ((*LLAMA, "--tokens", "1:0"), "lengths"),
    ((*LLAMA, "--rate", "2x"), "give a TRACE"),
    ((*LLAMA, "--rate", "fast"), "rate"),
    ((*LLAMA, "--requests", "0"), "--requests is 0"),
    ((*LLAMA, "--slo", "ttft=0"), "above 0 seconds"),
    ((*LLAMA, "--plot", "x.gif"), "must end in .png or .html"),
    ((*LLAMA, "--profile-trace", "x.txt"), "FILE.json"),
    ((*LLAMA, "--profile-trace", "x.json:5-5"), "FROM before TO"),
    ((*LLAMA, "--policy", "nobody"), "no such policy"),
    ((*LLAMA, "--weights", "native"), "--weights native"),
    ((*LLAMA, "--cache", "1TiB"), "size"),
    ((*LLAMA, "--cache", "900GB"), "change --cache"),
    ((*LLAMA, "--max-context", "100000"), "more than the 4096"),
    (("missing.csv", *LLAMA), "missing.csv"),
    (("missing.csv", *LLAMA, "--tokens", "1:1"), "--tokens has no meaning"),
]


@pytest.mark.parametrize(("args", "told"), BAD)
def test_what_cannot_be_is_one_line(invoke: Invoke, args: tuple[str, ...], told: str) -> None:
    result = invoke("simulate", *args)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_device_choices() -> None:
    assert DeviceChoice.parse("l4") == DeviceChoice("l4")
    assert DeviceChoice.parse("2xl4:8") == DeviceChoice("l4", 2, 8)
    assert DeviceChoice.parse("my.toml:3,start=30s,fails=2h,repair=5m") == DeviceChoice(
        "my.toml", 1, 3, 30.0, 7200.0, 300.0
    )
    assert str(DeviceChoice.parse("2xl4:8")) == "2xl4"


def test_faster_devices_get_more() -> None:
    config = EngineConfig(model="llama-2-7b")
    fleet = SimulatedFleet.build(["l4:2", "h100-sxm"], config, print)
    assert fleet.kinds == [0, 0, 1]
    slow, _, fast = fleet.members()
    assert fast.speed == 1.0
    assert 0.02 < slow.speed < 0.5
    assert fleet.price == pytest.approx(2 * fleet.engines[0].price + fleet.engines[1].price)


def test_mixed_loads_add_up() -> None:
    load = mixed_load(256)
    assert (load.rows, load.decodes, load.prefill) == (256, 32, 224)
    assert load.prefill_pairs == 224 * 225 // 2
    assert mixed_load(8).decodes == 8


def test_windows() -> None:
    assert parse_window("a.json") == Window(Path("a.json"), 0.0, 10.0)
    assert parse_window("a.json:2.5-7") == Window(Path("a.json"), 2.5, 7.0)
    with pytest.raises(ConfigError, match="directory does not exist"):
        parse_window("nowhere/a.json:1-2")


def test_loads_are_those_of_bench(trace: Path) -> None:
    (load,) = SimulatedLoadOptions(trace, rate="2x").loads(None)
    assert (load.count, load.rate) == (30, pytest.approx(20.0))
    arrivals = list(load)
    assert [a.at for a in arrivals] == pytest.approx([0.05 * i for i in range(30)])
    assert (arrivals[3].prompt_tokens, arrivals[3].output_tokens) == (103, 13)
    (cut,) = SimulatedLoadOptions(trace, requests=5).loads(64)
    assert [a.prompt_tokens + a.output_tokens <= 64 for a in cut] == [True] * 5
    slow, fast = SimulatedLoadOptions(tokens="10:5", rate="1,4", seed=2).loads(None)
    assert [4 * a.at for a in fast] == pytest.approx([a.at for a in slow])
    (at_once,) = SimulatedLoadOptions().loads(None)
    assert {a.at for a in at_once} == {0.0}
    assert len(list(at_once)) == at_once.count == 1000


@pytest.mark.parametrize(
    "options", [{"rate": "3"}, {"rate": "3", "tokens": "5-90:2-40", "seed": 7}, {"tokens": "9:9"}]
)
def test_bench_and_simulate_have_the_same_load(options: dict[str, Any], trace: Path) -> None:
    words = Vocabulary(lambda text: list(text.encode()), lambda: list(range(100)))
    for more in ({}, {"trace": trace}):
        if "trace" in more and "tokens" in options:
            continue
        (bench,) = LoadOptions(**options, **more, requests=25).loads(words, 100)
        (ours,) = SimulatedLoadOptions(**options, **more, requests=25).loads(100)
        jobs = [(job.at, len(job.prompt), job.output_tokens) for job in bench.jobs()]
        assert [(a.at, a.prompt_tokens, a.output_tokens) for a in ours] == jobs
        assert (ours.label, ours.rate) == (bench.label, bench.rate)


def test_long_simulations_tell_how_far_they_are(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation_run, "PATIENCE", 0.0)
    monkeypatch.setattr(simulation_run, "LOOK", 16)
    result = invoke("simulate", *LLAMA, *SHORT)
    assert "16 of 40 requests" in result.stderr
    assert "32 of 40 requests" in result.stderr


def served_requests(count: int, rate: float) -> list[Served]:
    rng = random.Random(1)
    spec = InstanceSpec(
        cost=LinearCost({"step": 0.01, "rows": 0.001}), num_blocks=100, limits=Limits(64, 64, 8),
        max_queue=20,
    )  # fmt: skip
    served: list[Served] = []
    arrivals, now = [], 0.0
    for _ in range(count):
        arrivals.append(Arrival(now, rng.randint(1, 100), rng.randint(1, 20)))
        now += rng.expovariate(rate)
    simulate(arrivals, spec, served.append)
    return served


def test_the_tally_agrees_with_the_metrics_of_bench() -> None:
    served = served_requests(600, 16.0)
    slo = Slo(ttft=0.3, tpot=0.05)
    tally = SimulatedTally(slo)
    for one in served:
        assert tally.add(one) == slo.met_by(record_of(one))
    ours = tally.summary().to_json()
    theirs = summarise([record_of(one) for one in served], slo).to_json()
    assert 0 < ours["attained"] < 1
    assert ours["errors"]["queue_full"] > 0
    for name, value in theirs.items():
        if name in ("ttft", "tpot", "e2e"):
            for part, number in value.items():
                assert ours[name][part] == pytest.approx(number, rel=0.0051), (name, part)
        elif name not in ("itl", "lag"):
            assert ours[name] == pytest.approx(value), name


def test_the_tally_keeps_a_bounded_sample_evenly() -> None:
    tally = SimulatedTally()
    for i in range(5 * KEPT):
        tally.add(Served(Arrival(float(i), 1, 1), i + 1.0, finish=FinishReason.LENGTH))
    assert KEPT // 2 <= len(tally.records) <= KEPT
    assert [r.due for r in tally.records] == [float(i) for i in range(0, 5 * KEPT, tally.thinned)]


def test_the_margin_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, inside = random.Random(5), 0
    for _ in range(60):
        tally, good = SimulatedTally(Slo(e2e=1.0)), 0.0
        for i in range(2000):
            if i % 20 == 0:  # requests that come together fare alike
                good = 0.5 if rng.random() < 0.9 else 2.0
            tally.add(Served(Arrival(0.0, 1, 1), good, finish=FinishReason.LENGTH))
        inside += abs(tally.good / 2000 - 0.9) <= tally.margin
    assert 0.88 <= inside / 60 <= 0.99


def test_few_requests_have_no_margin() -> None:
    tally = SimulatedTally(Slo(e2e=1.0))
    for _ in range(5):
        tally.add(Served(Arrival(0.0, 1, 1), 0.5, finish=FinishReason.LENGTH))
    assert tally.margin == 1.0


def test_failures_and_refusals_have_the_codes_of_a_server() -> None:
    arrival = Arrival(0.0, 5, 5)
    failed = Served(arrival, 1.0, finish=FinishReason.ABORT)
    refused = Served(arrival, 1.0, refusal="3 wait already", code="queue_full")
    assert record_of(failed).error == "instance_failed"
    assert (record_of(refused).error, record_of(refused).detail) == ("queue_full", "3 wait already")


def test_a_measurement_among_other_programs_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def disturbed(config: EngineConfig, report: Any) -> calibration.Calibration:
        return replace(this_machine(config, report), disturbed=True)

    monkeypatch.setattr(calibration, "calibrated_cost", this_machine)
    quiet = simulated_engine.measured_engine(EngineConfig(), lambda line: None)
    monkeypatch.setattr(calibration, "calibrated_cost", disturbed)
    loud = simulated_engine.measured_engine(EngineConfig(), lambda line: None)
    assert "other programs ran" not in " ".join(quiet.notes)
    assert "other programs ran" in " ".join(loud.notes)
