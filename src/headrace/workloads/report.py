"""Reports of a benchmark: a JSON object, and tables for the terminal made from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headrace.workloads.generator import Effort
from headrace.workloads.metrics import Summary, medians
from headrace.workloads.record import Record
from headrace.workloads.slo import Slo

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

VERSION = 1
WIDTH = 100  # columns of a terminal that no table needs more than
LATENCIES = (
    ("ttft", "TTFT", "time to first token"),
    ("tpot", "TPOT", "time per output token"),
    ("itl", "ITL", "inter-token latency"),
    ("e2e", "E2E", "end to end"),
)


def run_json(
    summary: Summary,
    effort: Effort | None,
    records: Sequence[Record],
    work: dict[str, float] | None = None,
) -> dict[str, Any]:
    """One run: its summary, what generating it cost, and each request on a clock from 0.

    ``work`` is of the engine's steps where it is known: ``elapsed``, the seconds they took, and
    ``limit``, the least seconds that the machine needs for them, besides anything else.
    """
    start = min(record.due for record in records)
    shares: dict[str, float | None] = {"limit_share": None, "limit_share_of_run": None}
    if work is not None and work["elapsed"] > 0:
        shares = {
            "limit_share": work["limit"] / work["elapsed"],
            "limit_share_of_run": work["limit"] / summary.duration,
        }
    return {
        "summary": summary.to_json() | shares,
        "work": work,
        "generator": None
        if effort is None
        else {"processor_seconds": effort.processor_seconds, "share_of_a_core": effort.share},
        "requests": [_request_json(record, start) for record in records],
    }


def point_json(label: str, rate: float | None, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A load that was run once or several times, with the median of each number."""
    return {
        "label": label,
        "rate": rate,
        "median": medians([run["summary"] for run in runs]),
        "runs": runs,
    }


def report_json(
    about: dict[str, Any], slo: Slo, points: list[dict[str, Any]], notes: list[str]
) -> dict[str, Any]:
    """The whole report. ``about`` says what was measured and how."""
    return {
        "headrace_bench": VERSION,
        "about": about,
        "targets": slo.to_json(),
        "notes": notes,
        "points": points,
    }


def _request_json(record: Record, start: float) -> dict[str, Any]:
    return {
        "at": record.due - start,
        "lag": record.lag,
        "ttft": record.ttft,
        "tpot": record.tpot,
        "e2e": record.e2e,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "cached_tokens": record.cached,
        "error": record.error,
        "detail": record.detail or None,
    }


def render(report: dict[str, Any]) -> list[RenderableType]:
    """What ``rich`` prints of a report: a table for each load, one more for a sweep of rates."""
    shown: list[RenderableType] = []
    points = report["points"]
    if len(points) > 1 and all(point["rate"] is not None for point in points):
        shown.append(_sweep_table(points))
    else:
        for point in points:
            shown += [_latency_table(point), _totals_table(point, report["targets"])]
    if "profile" in report:
        shown.append(_profile_table(report["profile"]))
    return shown + [f"note: {note}" for note in report["notes"]]


def _latency_table(point: dict[str, Any]) -> Table:
    table = _table(point["label"], ["latency, ms", "mean", "p50", "p90", "p99"])
    for name, short, long in LATENCIES:
        found = point["median"][name]
        if found is not None:
            cells = [_ms(found[p]) for p in ("mean", "p50", "p90", "p99")]
            table.add_row(f"{short}  {long}", *cells)
    return table


def _totals_table(point: dict[str, Any], targets: dict[str, Any]) -> Table:
    median, runs = point["median"], point["runs"]
    table = _table(None, ["", "median" if len(runs) > 1 else "", "range" if len(runs) > 1 else ""])

    def row(what: str, name: str, digits: int) -> None:
        values = [run["summary"][name] for run in runs if run["summary"][name] is not None]
        if values:
            span = f"{min(values):,.{digits}f} to {max(values):,.{digits}f}"
            table.add_row(what, f"{median[name]:,.{digits}f}", span if len(runs) > 1 else "")

    row("requests answered", "answered", 0)
    table.add_row("requests failed", _errors(median["errors"]))
    row("duration, s", "duration", 2)
    row("prompt tokens", "prompt_tokens", 0)
    row("  of these cached", "cached_tokens", 0)
    row("output tokens", "output_tokens", 0)
    row("requests per second", "request_rate", 2)
    row("output tokens per second", "output_rate", 1)
    row("prompt and output tokens per second", "total_rate", 1)

    def percent(what: str, name: str) -> None:
        values = [100 * run["summary"][name] for run in runs if run["summary"].get(name)]
        if values:
            span = f"{min(values):.1f} to {max(values):.1f} %"
            table.add_row(what, f"{100 * median[name]:.1f} %", span if len(runs) > 1 else "")

    stated = ", ".join(f"{k} {1e3 * v:g} ms" for k, v in targets.items() if v is not None)
    if stated:
        row(f"goodput, requests per second inside {stated}", "goodput", 2)
        table.add_row("share of requests inside", f"{100 * median['attained']:.1f} %")
    if median["lag"] is not None:
        table.add_row("sent late by, ms (p99)", _ms(median["lag"]["p99"]))
    percent("share of the machine's limit, while steps ran", "limit_share")
    percent("share of the machine's limit, of the duration", "limit_share_of_run")
    shares = [run["generator"]["share_of_a_core"] for run in runs if run["generator"]]
    if shares:
        table.add_row("generator's processor, share of a core", f"{100 * max(shares):.0f} %")
    return table


def _sweep_table(points: list[dict[str, Any]]) -> Table:
    columns = ["offered\nreq/s", "answered\nreq/s", "goodput\nreq/s", "inside", "output\ntok/s"]
    columns += ["TTFT\np50 ms", "\np99 ms", "TPOT\np50 ms", "\np99 ms", "failed"]
    table = _table("rate against goodput", columns)
    for point in points:
        m = point["median"]
        inside = "-" if m["attained"] is None else f"{100 * m['attained']:.1f} %"
        goodput = "-" if m["goodput"] is None else f"{m['goodput']:.2f}"
        latencies = [
            _ms(m[name][p]) if m[name] else "-" for name in ("ttft", "tpot") for p in ("p50", "p99")
        ]
        table.add_row(
            f"{point['rate']:.2f}", f"{m['request_rate']:.2f}", goodput, inside,
            f"{m['output_rate']:,.1f}", *latencies, _errors(m["errors"]),
        )  # fmt: skip
    return table


def _profile_table(profile: dict[str, Any]) -> Table:
    title = f"where the time of {profile['steps']} steps went ({profile['rows']} tokens"
    share = profile.get("limit_share")
    title += f", {100 * share:.1f} % of the machine's limit)" if share else ")"
    table = _table(title, ["operator", "ms a step", "share", "calls a step"])
    for row in profile["operators"]:
        share = f"{100 * row['share']:.1f} %"
        table.add_row(
            row["operator"], f"{row['ms_per_step']:.3f}", share, f"{row['calls_per_step']:g}"
        )
    return table


def _table(title: str | None, columns: list[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=any(columns))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=bool(i))
    return table


def _errors(errors: dict[str, float]) -> str:
    return ", ".join(f"{count:g} {kind}" for kind, count in errors.items()) or "0"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.{2 if seconds < 1 else 0}f}"
