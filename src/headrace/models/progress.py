"""A progress bar on standard error for things that are fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int], None]  # bytes done so far


def no_progress(done: int) -> None:
    """Shows nothing."""


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """A bar towards ``total`` bytes; call what it yields with the bytes done so far."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=min(done, total))
        bar.update(task, completed=total)
