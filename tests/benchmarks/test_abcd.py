"""The reference workloads: figures by hand, a run on the toy model, others' results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.abcd import figures_of, measure, print_table, read_results
from benchmarks.in_process import Bench, read_jobs, wall
from headrace.nouns.errors import HeadraceError
from headrace.workloads.job import Job
from tests.api.toy_engine import FAULT, toy_service
from tests.workloads.timelines import record


def test_figures_by_hand() -> None:
    stream = [record(1.0, 1.5, 1.75, 2.0, 2.25, 2.5)]
    assert figures_of("A", stream) == {"A_ttft_ms": 500.0, "A_tok_s": 4.0}
    assert figures_of("B", [record(1.0, 1.5, prompt_tokens=1024)]) == {"B_prompt_tok_s": 2048.0}
    batch = [record(0.0, 1.0, 2.0), record(0.0, 3.0, 4.0, tokens=6)]
    assert wall(batch) == 4.0
    assert figures_of("C", batch) == {"C_out_tok_s": 2.0}


def test_workloads_on_the_toy_model(tmp_path: Path) -> None:
    entry = {"prompt": [70] * 40, "out": 5}
    path = tmp_path / "w.json"
    path.write_text(json.dumps({name: [entry] * 3 for name in "ABCD"}))
    service = toy_service()
    service.start()
    service.wait_ready()
    bench = Bench(service)
    bench.warm_up(2)
    figures, cached = measure(bench, read_jobs(path, "ABCD"), reps=2)
    service.close()
    names = ["A_ttft_ms", "A_tok_s", "B_prompt_tok_s", "C_out_tok_s", "D_out_tok_s"]
    assert {name: len(runs) for name, runs in figures.items()} == dict.fromkeys(names, 2)
    assert all(value > 0 for runs in figures.values() for value in runs)
    # Runs find nothing of each other's; within a run two of three share two blocks.
    assert cached == {"A": [0, 0], "B": [0, 0], "C": [64, 64], "D": [64, 64]}


def test_shares_of_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    service = toy_service(step_seconds=0.002)  # a quarter of which is the limit
    service.start()
    service.wait_ready()
    jobs = {"B": [Job(0.0, tuple(range(65, 85)), 5)]}
    figures, _ = measure(Bench(service), jobs, reps=2)
    service.close()
    assert len(figures["B_limit_percent"]) == 2
    assert all(0 < percent <= 25 for percent in figures["B_limit_percent"])
    print_table({"B_limit_percent": 24.5}, [])
    assert "B  share of the machine's limit, %" in capsys.readouterr().out


def test_a_failed_request_is_no_result() -> None:
    service = toy_service()
    service.start()
    service.wait_ready()
    with pytest.raises(HeadraceError, match="engine_error"):
        Bench(service).run([Job(0.0, (FAULT,), 2)])
    service.close()


def test_ratios_to_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "peer.jsonl"
    lines = [
        {"gguf": "m.gguf", "np": 16, "A_ttft_ms": 100.0, "C": {"out_tok_s": 50.0}},
        {"model": "m", "dtype": "bfloat16", "B_prompt_tok_s": 1000.0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    others = read_results([path])
    assert others == [
        ("peer m.gguf np 16", {"A_ttft_ms": 100.0, "C_out_tok_s": 50.0}),
        ("peer m dtype bfloat16", {"B_prompt_tok_s": 1000.0}),
    ]
    print_table({"A_ttft_ms": 50.0, "C_out_tok_s": 125.0, "D_out_tok_s": 1.0}, others)
    shown = capsys.readouterr().out
    assert "2.00x" in shown  # half the time to the first token
    assert "2.50x" in shown
    assert shown.count("x\n") == 2


def test_a_wrong_workload_file_ends_the_program(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot be read"):
        read_jobs(tmp_path / "none.json", "A")
