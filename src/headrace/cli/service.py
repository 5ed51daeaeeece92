"""How commands come by an engine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from headrace.engine.build import BuiltEngine
    from headrace.engine.config import EngineConfig
    from headrace.engine.service import EngineService


def open_service(config: EngineConfig, report: Callable[[str], None]) -> EngineService:
    """An engine service that has not been started; ``report`` gets a line for each choice."""
    from headrace.engine.build import build
    from headrace.engine.service import EngineService

    def build_and_settle(*arguments: Any) -> BuiltEngine:
        """The process is ours, and what loading made stays to the end: no collection of garbage
        has to look at it again, which would hold up every step for as long as it takes."""
        built = build(*arguments)
        gc.collect()
        gc.freeze()
        return built

    return EngineService(config, report=report, builder=build_and_settle)


@contextmanager
def running_service(config: EngineConfig, report: Callable[[str], None]) -> Iterator[EngineService]:
    """A service with its model loaded, closed at the end. Raises what loading raised."""
    service = open_service(config, report)
    service.start()
    try:
        service.wait_ready()
        yield service
    finally:
        service.close()


def say(line: str) -> None:
    """Prints a line on standard error, where it is not in the way of a command's output."""
    typer.secho(line, err=True, dim=True)
