"""``headrace bench`` on the toy model, on a server, and on its own null server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from headrace.cli import bench, service
from headrace.cli.bench_load import LoadOptions, Vocabulary, warm_up_job
from headrace.execution.profile import NO_LAYER, Profile
from headrace.nouns.errors import ConfigError
from headrace.nouns.step import Work
from headrace.workloads.arrivals import Poisson
from headrace.workloads.job import Job
from tests.api.live_server import LiveServer, serving
from tests.api.toy_engine import ToyExecutor, toy_service
from tests.cli.conftest import Invoke
from tests.cli.toy_program import toy_factory

SMALL = ("--requests", "6", "--tokens", "20:5")
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:46.{i}000000,{10 + i},{i}\n" for i in range(10)
)
WORDS = Vocabulary(lambda text: list(text.encode()), lambda: list(range(32, 127)))


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serving(toy_service()) as live:
        yield live


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "w.json"
    entries = [{"prompt": [65] * 40, "out": 3}, {"prompt": "some text", "out": 4}]
    path.write_text(json.dumps({"A": entries, "B": entries[:1]}))
    return path


def report_of(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def median(report: Any, point: int = 0) -> Any:
    return report["points"][point]["median"]


def test_the_engine_in_this_process(invoke: Invoke) -> None:
    report = report_of(invoke("bench", *SMALL, "--repeat", "3", "--json", "--slo", "ttft=60"))
    assert report["about"]["endpoint"] == "toy (float32) in this process"
    assert report["about"]["transport"] == "in-process"
    runs = report["points"][0]["runs"]
    assert [run["summary"]["answered"] for run in runs] == [6, 6, 6]
    assert [run["summary"]["output_tokens"] for run in runs] == [30, 30, 30]
    assert [run["generator"] for run in runs] == [None] * 3
    assert median(report)["prompt_tokens"] == 120
    assert median(report)["attained"] == 1.0


def test_the_share_of_the_machine_s_limit(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "open_service", toy_factory(step_seconds=0.002))
    report = report_of(invoke("bench", *SMALL, "--json"))
    work = report["points"][0]["runs"][0]["work"]
    assert work["operations"] == 10 * (6 * 20 + 6 * 4)  # the last tokens are not computed
    assert median(report)["limit_share"] == pytest.approx(0.25)
    assert 0 < median(report)["limit_share_of_run"] < 0.25
    assert "share of the machine's limit" in invoke("bench", *SMALL).stdout
    assert report["notes"] == []


def test_a_limit_that_is_beaten_is_doubted(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "open_service", toy_factory(step_seconds=0.002))
    monkeypatch.setattr(bench, "BEATEN", 0.2)
    assert "beat the machine's limit" in report_of(invoke("bench", *SMALL, "--json"))["notes"][0]


def test_a_profile_as_a_table_and_as_a_trace(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def profile(executor: ToyExecutor) -> Iterator[Profile]:
        made = Profile()
        made.book("attention", 1_000_000, 3_000_000, 7)
        layout = ("layout", NO_LAYER, 0, 500_000)
        made.end_step(0, 5, 1, 1_000_000, 3_500_000, layout, Work(1, 1, 0.0015))
        yield made

    monkeypatch.setattr(ToyExecutor, "profile", profile, raising=False)
    path = tmp_path / "trace.json"
    result = invoke("bench", *SMALL, "--json", "--profile-trace", path)
    found = report_of(result)["profile"]
    assert found["limit_share"] == pytest.approx(0.5)
    assert found["operators"][0]["operator"] == "attention"
    assert "wrote 1 of 1 steps" in result.stderr
    names = [event["name"] for event in json.loads(path.read_text())["traceEvents"]]
    assert {"attention", "layout", "5 rows"} <= set(names)


def test_a_server(invoke: Invoke, server: LiveServer, workload: Path) -> None:
    url = ("--url", server.url, "--json")
    report = report_of(invoke("bench", *url, "--workload", f"{workload}:AB", "--repeat", "2"))
    assert [point["label"] for point in report["points"]] == ["A, all at once", "B, all at once"]
    assert median(report)["output_tokens"] == 7
    assert median(report)["ttft"]["count"] == 2
    # The second run of A finds the blocks of the first; so does B.
    assert [run["summary"]["cached_tokens"] for run in report["points"][0]["runs"]] == [0, 32]
    assert median(report, 1)["cached_tokens"] == 32
    assert report["points"][0]["runs"][0]["generator"]["processor_seconds"] > 0
    whole = report_of(invoke("bench", *url, "--workload", f"{workload}:B", "--no-stream"))
    assert median(whole)["ttft"] is None
    assert median(whole)["e2e"]["count"] == 1


def test_repetitions_in_process_find_nothing_of_each_other_s(
    invoke: Invoke, workload: Path
) -> None:
    args = ("--workload", f"{workload}:B", "--requests", "1", "--repeat", "3", "--json")
    runs = report_of(invoke("bench", *args))["points"][0]["runs"]
    assert [run["summary"]["cached_tokens"] for run in runs] == [0, 0, 0]


def test_a_trace_faster_than_life(invoke: Invoke, trace: Path, tmp_path: Path) -> None:
    plot = tmp_path / "sweep.html"
    report = report_of(
        invoke("bench", "--trace", trace, "--rate", "50x,100x", "--json", "--plot", plot)
    )
    assert [point["rate"] for point in report["points"]] == pytest.approx([500.0, 1000.0])
    first = report["points"][0]["runs"][0]
    assert first["summary"]["output_tokens"] == 1 + sum(range(10))  # at least one token each
    assert first["summary"]["prompt_tokens"] == sum(range(10, 20))
    ats = sorted(request["at"] for request in first["requests"])
    assert ats == pytest.approx([i * 0.1 / 50 for i in range(10)])
    assert plot.read_text().startswith("<!doctype html>")


def test_tables(invoke: Invoke, trace: Path) -> None:
    result = invoke("bench", *SMALL, "--slo", "ttft=60s,tpot=60s")
    assert result.exit_code == 0
    assert "TTFT" in result.stdout
    assert "100.0 %" in result.stdout
    result = invoke("bench", *SMALL, "--rate", "100,200")
    assert "rate against goodput" in result.stdout
    assert "run 1 of 1" in result.stderr


def test_a_plot_that_cannot_be_written_costs_no_figures(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    result = invoke("bench", *SMALL, "--plot", tmp_path / "a.png")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert "TTFT" in result.stdout


def test_the_ceiling(invoke: Invoke) -> None:
    report = report_of(invoke("bench", "--ceiling", *SMALL, "--json"))
    assert report["about"]["transport"] == "null server"
    assert median(report)["output_tokens"] == 30
    assert "the generator alone spent" in report["notes"][0]


def test_when_nothing_is_answered_the_command_fails(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text('{"A": [{"prompt": [65], "out": 100000}]}')
    result = invoke("bench", "--workload", path, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert median(report)["errors"] == {"context_length_exceeded": 1}
    assert "the first failure was context_length_exceeded" in report["notes"][0]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--rate", "1", "--concurrency", "2"], "give one of them"),
        (["--rate", "2x"], "give --trace"),
        (["--rate", "fast"], "not understood"),
        (["--tokens", "5"], "lengths"),
        (["--tokens", "5:5", "--trace", "t.csv"], "--tokens has no meaning"),
        (["--trace", "missing.csv"], "cannot be read"),
        (["--workload", "missing.json"], "cannot be read"),
        (["--workload", "missing.txt"], "cannot be read"),
        (["--workload", "missing.txt:A"], "does not exist"),
        (["--requests", "0"], "at least 1"),
        (["--concurrency", "0"], "at least 1"),
        (["--repeat", "0"], "at least 1"),
        (["--slo", "fast"], "targets"),
        (["--plot", "x.pdf"], ".png or .html"),
        (["--no-stream"], "--no-stream"),
        (["--profile"], "cannot be profiled"),
        (["--profile-trace", "x.txt"], "must end in .json"),
        (["--profile-trace", "/no/x.json"], "directory does not exist"),
        (["--profile-trace", "x.json", "--url", "http://127.0.0.1:9"], "leave out --url"),
        (["--profile", "--url", "http://127.0.0.1:9"], "leave out --url"),
        (["--ceiling", "--url", "http://127.0.0.1:9"], "leave out --url"),
        (["--url", "http://127.0.0.1:9"], "cannot be reached"),
        (["--url", "ftp://x"], "must begin with"),
    ],
)
def test_wrong_options_are_one_line(invoke: Invoke, args: list[str], told: str) -> None:
    result = invoke("bench", *args)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("headrace: ")


def jobs(max_context: int | None = None, run: int = 0, **options: Any) -> list[Job]:
    (load,) = LoadOptions(**options).loads(WORDS, max_context)
    return list(load.jobs(run))


def test_generated_prompts_differ_between_runs_but_their_lengths_do_not() -> None:
    options: dict[str, Any] = {"tokens": "5-50:3-9", "seed": 4, "requests": 20}
    first, again, second = jobs(**options), jobs(**options), jobs(**options, run=1)
    assert first == again
    shapes = [[(len(j.prompt), j.output_tokens) for j in made] for made in (first, second)]
    assert shapes[0] == shapes[1]
    assert all(a.prompt != b.prompt for a, b in zip(first, second, strict=True))


def test_prompts_from_a_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcdefgh")
    for job in jobs(workload=str(path), tokens="3:1", requests=9):
        assert bytes(job.prompt) in b"abcdefghabcdefgh"  # type: ignore[arg-type, operator]


def test_traces_are_cut_to_the_context(trace: Path) -> None:
    for job in jobs(trace=trace, max_context=12):
        assert len(job.prompt) + job.output_tokens <= 12


def test_a_trace_gives_the_times_of_a_workload_file(trace: Path, workload: Path) -> None:
    made = jobs(trace=trace, workload=f"{workload}:B", rate="20")
    assert [job.at for job in made] == pytest.approx([i * 0.05 for i in range(10)])
    assert {job.prompt for job in made} == {(65,) * 40}
    closed = jobs(trace=trace, concurrency=2, requests=4)
    assert [(job.at, len(job.prompt)) for job in closed] == [(0.0, n) for n in (10, 11, 12, 13)]


def test_rates_make_a_load_each() -> None:
    loads = LoadOptions(rate="1:3:1", seed=9).loads(WORDS, None)
    assert [load.arrivals for load in loads] == [Poisson(float(r), 9) for r in (1, 2, 3)]
    assert [load.requests for load in loads] == [64] * 3


def test_the_warm_up_shares_no_prefix_with_the_load() -> None:
    (load,) = LoadOptions(tokens="40:9").loads(WORDS, None)
    job = warm_up_job(load)
    assert len(job.prompt) == 32
    assert job.prompt[:16] != load.jobs(0)[0].prompt[:16]  # type: ignore[index]


def test_options_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="--requests is -1"):
        LoadOptions(requests=-1).check()
