"""The command line on the toy model, in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace.cli import service
from headrace.cli.main import app
from tests.cli.toy_program import toy_factory

ROOT = Path(__file__).resolve().parents[2]

Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the API keys of whoever runs the tests out of them."""
    monkeypatch.setenv("HEADRACE_API_KEYS", "")


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command on the toy model in this process."""
    monkeypatch.setattr(service, "open_service", toy_factory())

    def run(*args: str | Path, input: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args], input=input)

    return run


@pytest.fixture
def start() -> Start:
    """Starts the program on the toy model in a process of its own; SECONDS a step come first."""

    def popen(seconds: float, *args: str | Path, **how: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.cli.toy_program", str(seconds), *map(str, args)]
        return subprocess.Popen(command, cwd=ROOT, **how)

    return popen
