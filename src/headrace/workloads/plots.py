"""Plots of a report: latency against time, distributions, the sweep of rate against goodput.

Written as PNG, or as one HTML file that holds its image and refers to nothing outside.
"""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.nouns.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"ttft": "#1b6ca8", "tpot": "#c8553d", "e2e": "#588157"}
NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "end to end"}
GREY = "#888888"
DPI = 120

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}}
img{{max-width:100%}}pre{{overflow:auto;background:#f4f4f4;padding:1rem}}</style></head>
<body><h1>{title}</h1><img alt="{title}" src="data:image/png;base64,{image}">
<h2>Numbers</h2><pre>{numbers}</pre></body></html>
"""


def check_plot_path(path: Path) -> None:
    """Raises ConfigError unless a plot can be written to ``path``."""
    if path.suffix.lower() not in (".png", ".html"):
        raise ConfigError(f"the plot {path} must end in .png or .html")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"the plot {path} cannot be written: its directory does not exist")


def write_plot(report: dict[str, Any], path: Path) -> None:
    """Draws a report (of ``report.report_json``). Raises ConfigError for another ending."""
    save(figure(report), _title(report), _numbers(report), path)


def save(drawn: Figure, title: str, numbers: dict[str, Any], path: Path) -> None:
    """Writes a figure as .png, or as a page with the ``numbers`` it shows. Raises ConfigError."""
    check_plot_path(path)
    image = png(drawn)
    content = image if path.suffix.lower() == ".png" else page(title, numbers, image).encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"the plot {path} cannot be written: {error.strerror}") from error


def png(drawn: Figure) -> bytes:
    """A figure as a PNG image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(drawn)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def page(title: str, numbers: dict[str, Any], image: bytes) -> str:
    """A page with an image and numbers."""
    return PAGE.format(
        title=html.escape(title),
        image=base64.b64encode(image).decode(),
        numbers=html.escape(json.dumps(numbers, indent=2)),
    )


def _numbers(report: dict[str, Any]) -> dict[str, Any]:
    """The medians of a report."""
    return {
        "about": report["about"],
        "targets_seconds": report["targets"],
        "notes": report["notes"],
        "points": [
            {"label": point["label"], "rate": point["rate"], **point["median"]}
            for point in report["points"]
        ],
    }


def figure(report: dict[str, Any]) -> Figure:
    """Two panels for a load, four for a sweep: its first row shows the highest rate."""
    from matplotlib.figure import Figure

    points = report["points"]
    sweep = len(points) > 1 and all(point["rate"] is not None for point in points)
    drawn = Figure(figsize=(12, 9 if sweep else 4.8), layout="constrained")
    drawn.suptitle(_title(report))
    panels = drawn.subplots(2 if sweep else 1, 2, squeeze=False)
    shown = points[-1]
    requests = [r for r in shown["runs"][0]["requests"] if r["error"] is None]
    failed = [r for r in shown["runs"][0]["requests"] if r["error"] is not None]
    _against_time(panels[0][0], requests, failed, shown["label"])
    _distributions(panels[0][1], requests, report["targets"], shown["label"])
    if sweep:
        _goodput(panels[1][0], points)
        _latency_by_rate(panels[1][1], points, report["targets"])
    return drawn


def _against_time(
    axes: Axes, requests: list[dict[str, Any]], failed: list[dict[str, Any]], label: str
) -> None:
    for name, until in (("e2e", "e2e"), ("ttft", "ttft"), ("tpot", "e2e")):
        found = [(r["at"] + r[until], r[name]) for r in requests if r[name] is not None]
        if found:
            times, values = zip(*found, strict=True)
            axes.plot(times, values, ".", ms=4, color=COLOURS[name], label=NAMES[name])
    if failed:
        axes.plot([r["at"] + r["e2e"] for r in failed], [r["e2e"] for r in failed], "x", color=GREY,
                  label="failed")  # fmt: skip
    axes.set_title(f"latency against time: {label}", fontsize=10)
    axes.set(xlabel="when it was known, s", ylabel="s")
    _log_scale(axes)


def _distributions(
    axes: Axes, requests: list[dict[str, Any]], targets: dict[str, Any], label: str
) -> None:
    for name in ("ttft", "tpot", "e2e"):
        values = sorted(r[name] for r in requests if r[name] is not None)
        if values:
            shares = [(i + 1) / len(values) for i in range(len(values))]
            axes.step(values, shares, where="post", color=COLOURS[name], label=NAMES[name])
        if targets[name] is not None:
            axes.axvline(targets[name], color=COLOURS[name], ls=":", label=f"{NAMES[name]} target")
    axes.set_title(f"share of requests below: {label}", fontsize=10)
    axes.set(xlabel="s", ylabel="share", ylim=(0, 1.02))
    if axes.get_legend_handles_labels()[0]:
        axes.set_xscale("log")
        axes.legend()
    axes.grid(alpha=0.3)


def _goodput(axes: Axes, points: list[dict[str, Any]]) -> None:
    rates = [point["rate"] for point in points]
    axes.plot(rates, rates, ":", color=GREY, label="offered")
    rows = [("request_rate", "answered", COLOURS["ttft"]), ("goodput", "goodput", COLOURS["e2e"])]
    for name, label, colour in rows:
        values = [point["median"][name] for point in points]
        if None not in values:
            axes.plot(rates, values, "o-", color=colour, label=label)
    axes.set(title="rate against goodput", xlabel="offered req/s", ylabel="req/s", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)


def _latency_by_rate(axes: Axes, points: list[dict[str, Any]], targets: dict[str, Any]) -> None:
    for name in ("ttft", "tpot"):
        for part, style in (("p50", "o-"), ("p99", "s--")):
            found = [(p["rate"], p["median"][name][part]) for p in points if p["median"][name]]
            if found:
                rates, values = zip(*found, strict=True)
                label = f"{NAMES[name]} {part}"
                axes.plot(rates, values, style, ms=4, color=COLOURS[name], label=label)
        if targets[name] is not None:
            axes.axhline(targets[name], color=COLOURS[name], ls=":")
    axes.set(title="rate against latency", xlabel="offered req/s", ylabel="s")
    _log_scale(axes)


def _log_scale(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.set_yscale("log")
        axes.legend()
    axes.grid(alpha=0.3)


def _title(report: dict[str, Any]) -> str:
    about = report["about"]
    return f"headrace {about.get('command', 'bench')}: {about.get('endpoint', '')}"
