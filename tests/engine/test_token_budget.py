"""The token budget an engine is built with, and the reason it gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.engine import build
from headrace.engine.config import EngineConfig
from headrace.execution import build as execution
from headrace.execution.token_budget import TokenBudget


def budget_of(monkeypatch: pytest.MonkeyPatch, measured: int, **options: Any) -> tuple[int, str]:
    knee = TokenBudget(measured, "the knee", ())
    monkeypatch.setattr(execution, "measure_budget", lambda built, target: knee)
    built = cast(Any, SimpleNamespace())
    found = build._token_budget(EngineConfig(**options), built)
    return found.tokens, found.reason


def test_the_users_number_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget_of(monkeypatch, 512, token_budget=7) == (7, "set by the user")


def test_the_knee_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget_of(monkeypatch, 512, max_sequences=64) == (512, "the knee")


def test_a_low_knee_leaves_room_for_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, reason = budget_of(monkeypatch, 16, max_sequences=32)
    assert tokens == 32 + build.PREFILL_ROOM
    assert "the knee" in reason
    assert "32 decodes" in reason


def test_a_target_may_ask_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget_of(monkeypatch, 16, max_sequences=32, tpot_target=0.05) == (16, "the knee")
