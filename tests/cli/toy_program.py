"""The ``headrace`` program on the toy model: ``python -m tests.cli.toy_program SECONDS ARGS...``.

Every step takes SECONDS, so that a test can catch the program in the middle of its work.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

from headrace.cli import main, service
from headrace.engine.config import EngineConfig
from headrace.engine.service import EngineService
from tests.api.toy_engine import ToyTemplate, toy_builder


def toy_factory(**toy: Any) -> Callable[[EngineConfig, Callable[[str], None]], EngineService]:
    """What stands in for ``service.open_service``."""
    toy.setdefault("template", ToyTemplate())

    def open_service(config: EngineConfig, report: Callable[[str], None]) -> EngineService:
        return EngineService(config, report=report, builder=toy_builder(**toy))

    return open_service


if __name__ == "__main__":
    # Where the tests themselves run in the background, SIGINT is ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    setattr(service, "open_service", toy_factory(step_seconds=float(sys.argv.pop(1))))  # noqa: B010
    main.main()
