"""Tables of a simulation's report, beside those that ``bench`` has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.workloads import report as bench_report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MOST_INSTANCES = 16
WAITS = {
    "queue": "behind others in the queue",
    "budget": "for the step's tokens or slots",
    "memory": "for memory",
    "prefix": "for a prefix that is being computed",
    "preempted": "preempted",
    "batch": "for a batch to end",
}


def render(report: dict[str, Any]) -> list[RenderableType]:
    """What ``rich`` prints of a simulation's report."""
    items = bench_report.render(report)
    shown = [item for item in items if not isinstance(item, str)]
    notes = [item for item in items if isinstance(item, str)]
    points = report["points"]
    if len(points) == 1:
        shown.append(_totals(points[0]["runs"][0]["simulated"], report["about"]))
        instances = points[0]["runs"][0]["simulated"]["instances"]
        if len(instances) > 1:
            shown.append(_instances(instances))
    else:
        shown.append(_sweep(points))
    return [*shown, *notes]


def _totals(found: dict[str, Any], about: dict[str, Any]) -> Table:
    table = table_of("simulation", ["", ""])
    table.add_row("share of the time that steps ran", percent(found["busy_share"]))
    shares = found["time_shares"]
    if shares:
        table.add_row("  of it saved by unbounded compute", percent(shares["compute"]))
        table.add_row("  of it saved by unbounded memory bandwidth", percent(shares["bandwidth"]))
        table.add_row("  of it overhead", percent(shares["overhead"]))
    table.add_row("most cache in use", percent(found["peak_memory_share"]))
    table.add_row("preemptions", f"{found['preemptions']:,}")
    if found["retries"] or found["failed"]:
        table.add_row("sent again since an instance failed", f"{found['retries']:,}")
    seconds = {cause: value for cause, value in found["waits"].items() if value >= 0.0005}
    for cause, value in seconds.items():
        table.add_row(f"waited {WAITS.get(cause, cause)}, s in all", f"{value:,.2f}")
    if about["dollars_per_hour"] is not None:
        table.add_row("dollars per hour", f"{about['dollars_per_hour']:.2f}")
    speed = f"{found['requests_per_second']:,.0f} requests, {found['steps_per_second']:,.0f} steps"
    table.add_row("simulated a second", speed)
    table.add_row("wall time, s", f"{found['wall_seconds']:.2f}")
    return table


def _instances(instances: list[dict[str, Any]]) -> Table:
    table = table_of("instances", ["", "requests", "steps", "busy", "most cache", "failures"])
    for found in instances[:MOST_INSTANCES]:
        busy = found["busy"] / found["up"] if found["up"] else 0.0
        table.add_row(
            found["name"],
            f"{found['requests']:,}",
            f"{found['steps']:,}",
            percent(busy),
            percent(found["peak_blocks"] / found["blocks"]),
            f"{found['failures']}",
        )
    if len(instances) > MOST_INSTANCES:
        table.add_row(f"... and {len(instances) - MOST_INSTANCES} more")
    return table


def _sweep(points: list[dict[str, Any]]) -> Table:
    columns = [
        "offered\nreq/s",
        "busy",
        "most\ncache",
        "preemp-\ntions",
        "wall\ns",
        "simulated\nreq/s",
    ]
    table = table_of("simulations", columns)
    for point in points:
        found = point["runs"][0]["simulated"]
        table.add_row(
            "-" if point["rate"] is None else f"{point['rate']:.2f}",
            percent(found["busy_share"]),
            percent(found["peak_memory_share"]),
            f"{found['preemptions']:,}",
            f"{found['wall_seconds']:.2f}",
            f"{found['requests_per_second']:,.0f}",
        )
    return table


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table_of(title: str, columns: list[str]) -> Table:
    """A table in the manner of ``bench``: names to the left, numbers to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=any(columns))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=bool(i))
    return table
