"""The start-up benchmark: what it makes of what a server says, and of one that does not start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import start_up
from benchmarks.start_up import Start, memory, own_cache, phases, show

SAID = [
    (0.5, "listening: http://127.0.0.1:1234"),
    (1.9, "weights loaded in 0.70 s, 226 MiB in memory"),
    (2.4, "loaded in 1.80 s (model file 0.30, imports 0.10, weights 1.00, token budget 0.40)"),
    (2.5, "ready: a model at http://127.0.0.1:1234"),
]


def test_phases_add_up_to_the_whole() -> None:
    found = phases(SAID, 2.6)
    assert found == {
        "command to socket": 0.5, "model file": 0.3, "imports": 0.1, "weights": 1.0,
        "token budget": 0.4, "the rest": pytest.approx(0.3),
    }  # fmt: skip
    assert sum(found.values()) == pytest.approx(2.6)


def test_this_process_has_memory() -> None:
    resident, peak = memory(os.getpid())
    assert resident > 1
    assert peak == 0 or peak > 0.9 * resident


def test_the_cache_has_the_models_and_no_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").touch()
    (tmp_path / "tuning").mkdir()
    with own_cache() as folder:
        assert [path.name for path in folder.iterdir()] == ["models"]
        assert (folder / "models" / "m.gguf").exists()
    assert (tmp_path / "models" / "m.gguf").exists()


def test_a_server_that_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ended with 2[\s\S]*there is no model 'nothing'"):
        start_up.start(["nothing"], tmp_path)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    first = Start(4.0, 4.5, phases(SAID, 4.0), 340.0, 590.0)
    starts = [
        Start(2.6, 1.5, phases(SAID, 2.6), 330.0, 460.0),
        Start(2.8, 1.6, phases(SAID, 2.8), 332.0, 461.0),
    ]
    show({"import headrace": [0.05, 0.03]}, first, starts)
    shown = capsys.readouterr().out
    assert "import headrace          0.03 s at best, 0.04 s in the middle of 2" in shown
    assert "serve to ready           2.60 s at best, 2.70 s in the middle of 2" in shown
    assert "  of processors          1.50 s at best, 1.55 s in the middle of 2" in shown
    assert "  weights                1.00 s at best" in shown
    assert "331 MiB, 460 MiB at most" in shown
