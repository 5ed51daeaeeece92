"""How commands come by an engine."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, cast

import pytest

from headrace.cli.service import open_service
from headrace.engine import build
from headrace.engine.config import EngineConfig


@pytest.fixture
def _unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_unfrozen")
def test_what_loading_made_is_never_collected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = cast(Any, object())
    monkeypatch.setattr(build, "build", lambda *_: made)
    service = open_service(EngineConfig(), lambda line: None)
    before = gc.get_freeze_count()
    assert service._builder(EngineConfig(), lambda event: None, lambda line: None) is made
    assert gc.get_freeze_count() > before
