"""The library's example runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from headrace.engine import service as service_module
from headrace.engine.service import EngineService
from tests.api.toy_engine import ToyTemplate, toy_builder

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "library.py"


def test_it_shows_every_way_to_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def toy(config: object) -> EngineService:
        return EngineService(config, builder=toy_builder(template=ToyTemplate()))  # type: ignore[arg-type]

    monkeypatch.setattr(service_module, "EngineService", toy)
    runpy.run_path(str(EXAMPLE))["main"]("toy")
    shown = capsys.readouterr().out
    assert "Water boils at'Water boils at'" in shown
    assert "A stream:Once upon a time" in shown
    assert "A conversation: 'Name three river'" in shown
    assert "With asyncio: ['The capital ', 'Water boils ', 'The three pr']" in shown
