"""The plot of benchmarks.scaling: cost per output token, and the share of the ceiling reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the plot of a report of ``benchmarks.scaling`` to ``path`` as .png and .svg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = figure(found)
    FigureCanvasAgg(drawn)
    for suffix in (".png", ".svg"):
        drawn.savefig(path.with_suffix(suffix), dpi=DPI)


def figure(found: dict[str, Any]) -> Figure:
    """Two panels, a line for each context: milliseconds a token with the ceiling dashed, and
    shares of the ceiling."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    drawn = Figure(figsize=(12, 5.2), layout="constrained")
    peaks = found["peaks"]
    drawn.suptitle(
        f"decoding {found['model']} in {found['weights']}, {found['threads']} threads of"
        f" {found['processor']}; memory reads {peaks['bandwidth'] / 1e9:.0f} GB/s",
        fontsize=11,
    )
    cost, share = drawn.subplots(1, 2)
    contexts = sorted({point["context"] for point in found["points"]})
    for i, context in enumerate(contexts):
        points = [point for point in found["points"] if point["context"] == context]
        batches = [point["batch"] for point in points]
        colour = f"C{i}"
        values = [point["ms_per_token"] for point in points]
        cost.plot(batches, values, "o-", ms=4, color=colour, label=f"context {context}")
        cost.plot(batches, [point["limit_ms_per_token"] for point in points], "--", color=colour)
        share.plot(
            batches, [100 * point["limit_share"] for point in points], "o-", ms=4, color=colour
        )
    _axes(cost, found)
    _axes(share, found)
    cost.set(title="cost per output token", ylabel="ms", yscale="log")
    ceiling = Line2D([], [], color="#888888", ls="--", label="the machine's ceiling")
    handles, labels = cost.get_legend_handles_labels()
    cost.legend([*handles, ceiling], [*labels, "the machine's ceiling"], fontsize=8)
    share.set(title="share of the ceiling", ylabel="%", ylim=(0, None))
    share.axhline(100, color="#888888", ls="--")
    return drawn


def _axes(axes: Axes, found: dict[str, Any]) -> None:
    batches = sorted({point["batch"] for point in found["points"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xlabel("sequences in a step")
    axes.grid(alpha=0.3)
