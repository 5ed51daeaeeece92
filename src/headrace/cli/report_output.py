"""A report on standard output: of a benchmark, or of a simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer


def print_report(
    report: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], Iterable[Any]]
) -> None:
    """As one JSON object, or as what ``render`` makes of it for people, under its endpoint."""
    if as_json:
        import json

        typer.echo(json.dumps(report, indent=1))
        return
    from rich.console import Console

    from headrace.workloads.report import WIDTH

    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(f"[bold]{report['about']['endpoint']}[/bold]", highlight=False)
    for item in render(report):
        console.print(item, highlight=False)
