"""Reports: the JSON object's schema, and what the tables show of it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from headrace.workloads.metrics import summarise
from headrace.workloads.report import WIDTH, point_json, render, run_json
from headrace.workloads.slo import Slo
from tests.workloads.timelines import RECORDS, SLO, report

NUMBER = (int, float)
OPTIONAL_NUMBER = (int, float, type(None))
DISTRIBUTION = dict.fromkeys(("count", "mean", "p50", "p90", "p99"), NUMBER)
SUMMARY: dict[str, Any] = {
    "requests": NUMBER,
    "answered": NUMBER,
    "errors": dict,
    "duration": NUMBER,
    "prompt_tokens": NUMBER,
    "output_tokens": NUMBER,
    "cached_tokens": OPTIONAL_NUMBER,
    "ttft": DISTRIBUTION,
    "tpot": DISTRIBUTION,
    "itl": DISTRIBUTION,
    "e2e": DISTRIBUTION,
    "lag": DISTRIBUTION,
    "request_rate": NUMBER,
    "output_rate": NUMBER,
    "total_rate": NUMBER,
    "goodput": OPTIONAL_NUMBER,
    "attained": OPTIONAL_NUMBER,
    "limit_share": OPTIONAL_NUMBER,
    "limit_share_of_run": OPTIONAL_NUMBER,
}
REQUEST = {
    "at": NUMBER,
    "lag": NUMBER,
    "ttft": OPTIONAL_NUMBER,
    "tpot": OPTIONAL_NUMBER,
    "e2e": NUMBER,
    "prompt_tokens": int,
    "output_tokens": int,
    "cached_tokens": (int, type(None)),
    "error": (str, type(None)),
    "detail": (str, type(None)),
}
SCHEMA: dict[str, Any] = {
    "headrace_bench": int,
    "about": dict,
    "targets": {"ttft": OPTIONAL_NUMBER, "tpot": OPTIONAL_NUMBER, "e2e": OPTIONAL_NUMBER},
    "notes": [str],
    "points": [
        {
            "label": str,
            "rate": OPTIONAL_NUMBER,
            "median": SUMMARY,
            "runs": [
                {
                    "summary": SUMMARY,
                    "work": (dict, type(None)),
                    "generator": {"processor_seconds": NUMBER, "share_of_a_core": NUMBER},
                    "requests": [REQUEST],
                }
            ],
        }
    ],
}


def check(value: Any, schema: Any, where: str = "report") -> None:
    """Fails unless ``value`` has exactly the schema's names and types."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert value.keys() == schema.keys(), where
        for name, inner in schema.items():
            check(value[name], inner, f"{where}.{name}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for i, item in enumerate(value):
            check(item, schema[0], f"{where}[{i}]")
    else:
        assert isinstance(value, schema), f"{where} is {value!r}"


def shown(found: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=WIDTH)
    for item in render(found):
        console.print(item)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("slo", [Slo(), Slo(ttft=1.0)])
@pytest.mark.parametrize("rates", [(None,), (1.0, 2.0)])
def test_the_schema(rates: tuple[float | None, ...], slo: Slo) -> None:
    found = json.loads(json.dumps(report(rates, runs=2, slo=slo), allow_nan=False))
    check(found, SCHEMA)
    assert len(found["points"]) == len(rates)
    assert [r["at"] for r in found["points"][0]["runs"][0]["requests"]] == [0, 1, 2, 3, 3]


def test_the_table_of_a_load() -> None:
    text = shown(report(runs=3))
    for wanted in (
        "load 0", "TTFT", "TPOT", "ITL", "E2E", "575.00", "1 timeout", "goodput",
        "ttft 1000 ms, tpot 125 ms", "40.0 %", "10 %", "0.40 to 0.40", "note: a note",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_without_targets_no_goodput_is_shown() -> None:
    assert "goodput" not in shown(report(slo=Slo()))


def test_the_table_of_a_sweep() -> None:
    text = shown(report((1.0, 2.5)))
    assert "rate against goodput" in text
    assert "…" not in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("1.00", "2.50"))]
    assert [row[:4] for row in rows] == [
        ["1.00", "0.40", "0.20", "40.0"],
        ["2.50", "0.40", "0.20", "40.0"],
    ]


def test_a_profile_is_shown() -> None:
    found = report()
    row = {"operator": "attention", "ms_per_step": 1.5, "share": 0.25, "calls_per_step": 30}
    found["profile"] = {"steps": 3, "rows": 12, "seconds": 1.0, "operators": [row]}
    text = shown(found)
    assert "3 steps" in text
    assert "attention" in text
    assert "25.0 %" in text
    assert "limit" not in text
    found["profile"]["limit_share"] = 0.375
    assert "37.5 % of the machine's limit" in " ".join(shown(found).split())


def test_shares_of_the_limit_by_hand() -> None:
    work = {"steps": 7, "limit": 2.5, "elapsed": 5.0}
    # The run took 10 s from its first request to the end of its last.
    run = run_json(summarise(RECORDS, SLO), None, RECORDS, work)
    assert run["summary"]["limit_share"] == 0.5
    assert run["summary"]["limit_share_of_run"] == 0.25
    assert run["work"] == work
    other = run_json(summarise(RECORDS, SLO), None, RECORDS, work | {"limit": 3.5})
    found = report() | {"points": [point_json("load", None, [run, other, other])]}
    text = shown(found)
    assert "70.0 %" in text and "50.0 to 70.0 %" in text
    assert "35.0 %" in text and "25.0 to 35.0 %" in text
    idle = run_json(summarise(RECORDS, SLO), None, RECORDS, {"limit": 0.0, "elapsed": 0.0})
    assert idle["summary"]["limit_share"] is None
    assert "limit" not in shown(report())
