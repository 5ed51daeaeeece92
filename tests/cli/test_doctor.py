"""``headrace doctor``: tables, JSON, and how it reports what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gguf.constants import GGMLQuantizationType
from typer.testing import CliRunner

from headrace.cli import doctor as command
from headrace.cli.main import app
from headrace.cli.options import DEFAULT_MODEL
from headrace.execution import ceilings, tuning
from headrace.execution.machine import detect_machine
from headrace.execution.peaks import Peaks
from headrace.execution.tuning import Tuning
from headrace.kernels import self_check
from headrace.kernels.device import choose
from headrace.kernels.self_check import Check
from headrace.models import catalogue, source
from headrace.models.source import ModelSource
from headrace.nouns.errors import ConfigError
from tests.models.tiny import write_gguf


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 8 << 20)
    diagnose = command.diagnose
    monkeypatch.setattr(command, "diagnose", lambda *asked: diagnose(*asked, seconds=0.0))


def test_json_is_one_complete_object() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["machine"]["threads"] >= 1
    assert found["problems"] == []
    assert {c["name"] for c in found["ceilings"]} >= {"memory read", "float32 product"}
    assert all(c["passed"] for c in found["checks"])
    assert len(found["checks"]) >= 4
    assert found["kernels"][0].startswith("C++ extension: ")
    assert found["kernels"][1].startswith("device: ")
    assert set(found["versions"]) == {"headrace", "python", "torch"}


def test_bounds_of_a_model_that_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, "llama", GGMLQuantizationType.Q4_1)
    here = {DEFAULT_MODEL: SimpleNamespace(is_fetched=lambda: True)}
    monkeypatch.setattr(catalogue, "CATALOGUE", here)
    monkeypatch.setattr(source, "resolve", lambda name, progress: ModelSource("m", path, "gguf"))
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    bounds = json.loads(done.stdout)["bounds"]
    assert [b["weights"] for b in bounds] == ["float32", "bf16", "int8", "native"]
    assert all(b[name] > 0 for b in bounds for name in ("one_stream", "streams", "prompt"))
    done = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert "64 streams" in done.output


def test_no_model_is_downloaded_to_tell_bounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "headrace models fetch smollm2:135m" in done.output


def test_tables_name_what_was_found() -> None:
    done = CliRunner().invoke(app, ["doctor", "--weights", "float32"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for words in ("instruction sets", "memory read", "GFLOP/s", "weights: float32 (asked for)"):
        assert words in done.output
    assert done.output.count("passed") >= 4


def test_a_failed_check_is_named_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Check("products are right", False, "largest error 1.0")
    monkeypatch.setattr(self_check, "check_operators", lambda operators: [bad])
    done = CliRunner().invoke(app, ["doctor", "--weights", "float32"], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "problem: products are right: largest error 1.0" in done.output


def test_what_was_measured_is_kept_and_it_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tuning, "tuning_folder", lambda: tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tuning"] == f"{tmp_path}, 1 file; may be deleted"
    machine = detect_machine()
    peaks = Peaks.from_json(Tuning.of(machine, machine.threads).get(tuning.PEAKS))
    assert peaks is not None
    assert peaks.measured == 1
    done = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "400"})
    assert "measurements kept" in done.output


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="float7"):
        command.diagnose("float7")


def test_the_device_and_the_reason_are_told() -> None:
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "device: cpu (asked for)" in done.output


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_gpu_obstacle", lambda: "there is none")
    with pytest.raises(ConfigError, match="device is cuda, but there is none; choose auto or cpu"):
        command.diagnose("auto", "cuda")


def test_operators_of_a_device_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device that computes on the CPU and is not called so."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(choose, "choose_device", lambda *_: (torch.device("meta"), "a test"))
    real = choose.choose_on_device
    monkeypatch.setattr(choose, "choose_on_device", lambda _, weights, dim: real(cpu, weights, dim))
    found = command.diagnose("float32", "auto")
    assert found.kernels[1] == "device: meta (a test)"
    assert "torch linear on cpu" in found.kernels[2]
    assert len(found.checks) == 4
    assert found.problems == []
