"""The scaling benchmark on the tiny model: what it runs, what it tells, what it draws."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.scaling import Decoding, measure, numbers, point
from benchmarks.scaling_plot import draw, figure
from headrace.execution import ceilings
from headrace.execution.roofline import Roofline
from headrace.nouns.errors import HeadraceError
from headrace.nouns.step import Work
from tests.execution.test_roofline import FLOAT, PEAKS
from tests.execution.tiny import executor, tiny_config, tiny_transformer
from tests.models.tiny import write_gguf


def decoding(blocks: int) -> Decoding:
    local = executor(tiny_transformer("float32"), num_blocks=256)
    local.roofline = Roofline(tiny_config(), FLOAT, PEAKS)
    return Decoding(local, blocks)


def test_every_block_holds_state_that_is_read() -> None:
    made = decoding(10)
    keys = made._executor.cache.layers[1].keys.view(257, 2, -1)
    assert (keys[:10] != 0).any(-1).all()
    assert (keys[1:10] == keys[0]).all()
    assert not keys[10:].any()


def test_points_that_fit_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    made = decoding(8)
    timings = list(measure(made, [1, 2, 4], [16, 64], seconds=0.0))
    assert [(t.batch, t.context) for t in timings] == [(1, 16), (2, 16), (4, 16), (1, 64), (2, 64)]
    assert not made.fits(4, 64)
    for timing in timings:
        assert timing.steps == scaling.LEAST_STEPS
        assert 0 < timing.fastest <= timing.seconds
        starts, lengths = [timing.context - 1] * timing.batch, [1] * timing.batch
        assert timing.work == Roofline(tiny_config(), FLOAT, PEAKS).work(
            starts, lengths, timing.batch
        )
    assert capsys.readouterr().err.count("of the limit") == 5


def test_a_point_by_hand() -> None:
    timing = scaling.Timing(4, 128, 9, seconds=0.020, fastest=0.016, work=Work(5.0, 6.0, 0.001))
    found = point(timing, limit=0.008)
    assert found["ms_per_token"] == pytest.approx(5.0)
    assert found["limit_ms_per_token"] == pytest.approx(2.0)
    assert found["limit_share"] == pytest.approx(0.4)
    assert (found["ms_per_step"], found["operations"], found["bytes"]) == (20.0, 5.0, 6.0)


def test_a_failed_step_is_no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = decoding(8)
    monkeypatch.setattr(made._executor.transformer, "forward", None)
    with pytest.raises(HeadraceError, match="a step failed"):
        made.time(1, 16, 0.0)


@pytest.mark.parametrize("text", ["", "1,x", "0", "1,,2", "-1"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(SystemExit, match="no list of numbers"):
        numbers(text)
    assert numbers("4,1, 2,2") == [1, 2, 4]


def test_the_program_writes_numbers_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 8 << 20)
    write_gguf(tmp_path / "m.gguf", "llama")
    arguments = [
        "scaling", "--model", tmp_path / "m.gguf", "--weights", "float32", "--batches", "1,2",
        "--contexts", "16,32,1000000", "--seconds", "0", "--cache", "4MiB", "--out",
        tmp_path / "out",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    scaling.main()
    found: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    assert [(p["batch"], p["context"]) for p in found["points"]] == [
        (1, 16), (2, 16), (1, 32), (2, 32),
    ]  # fmt: skip
    assert found["left_out"] == []
    assert found["peaks"]["bandwidth"] > 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out.svg").read_text()[:2000]
    axes = figure(found).axes
    assert [len(panel.lines) for panel in axes] == [4, 3]  # a line and a ceiling; lines and 100 %
    draw(found, tmp_path / "again")
    assert (tmp_path / "again.svg").exists()


def test_a_directory_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", "--out", str(tmp_path / "no" / "out")])
    with pytest.raises(SystemExit, match="directory does not exist"):
        scaling.main()
