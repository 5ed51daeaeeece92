"""The example of a policy: short, found through its entry point, and worth its while."""

from __future__ import annotations

import re
import runpy
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from headrace.nouns.sequence import Sequence
from headrace.scheduling import registry
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler, run_all

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "shortest_prompt_first.py"


def entry_point() -> EntryPoint:
    """What its docstring tells to write into ``pyproject.toml``."""
    text = re.search(r"    \[project.entry.*\n    .*\n", EXAMPLE.read_text())
    assert text is not None
    points = tomllib.loads(text[0])["project"]["entry-points"]
    ((group, named),) = points.items()
    ((name, value),) = named.items()
    return EntryPoint(name, value, group)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    point = entry_point()
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point] if group == point.group else []
    )


def test_it_has_fewer_than_sixty_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60


@pytest.mark.usefixtures("registered")
def test_the_registered_policy_serves_the_shortest_prompt_first() -> None:
    assert "shortest-prompt" in registry.names("order")
    scheduler = make_scheduler(order="shortest-prompt", sequences=1)
    for name, length, arrival in [("long", 9, 0.0), ("short", 2, 0.0), ("later", 1, 60.0)]:
        scheduler.add(make_request(name, [length] * length, 1, arrival=arrival), 60.0)
    served = [
        piece.sequence for step in run_all(scheduler, MockExecutor(4)) for piece in step.slices
    ]
    assert [seq.request.id for seq in served] == ["short", "long", "later"]


@pytest.mark.usefixtures("registered")
def test_long_prompts_get_on_however_many_short_ones_come() -> None:
    order: Any = registry.create("order", "shortest-prompt")
    long = Sequence.of(make_request("long", [1] * 100), 0)
    short = [Sequence.of(make_request("s", [1], arrival=float(i)), 0) for i in range(60)]
    before = [seq for seq in short if order.key(seq, 0.0) < order.key(long, 0.0)]
    assert len(before) == 5


def test_run_as_a_script_it_shows_the_gain(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    shown = capsys.readouterr().out
    rows = re.findall(r"(\w+) +mean ([0-9.]+) s, longest ([0-9.]+) s", shown)
    means = {name: float(mean) for name, mean, _ in rows}
    assert means["ShortestPromptFirst"] < 0.8 * means["FirstComeFirstServed"]
