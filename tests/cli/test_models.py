"""``headrace models``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType

import pytest

from headrace.cli.models import size
from headrace.models import catalogue
from headrace.models.loader import ModelFiles
from tests.cli.conftest import Invoke


def test_list_says_what_is_fetched(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    entry = dataclasses.replace(catalogue.CATALOGUE["smollm2:135m"], size=4)
    monkeypatch.setattr(catalogue, "CATALOGUE", MappingProxyType({entry.name: entry}))
    result = invoke("models", "list")
    assert result.exit_code == 0
    assert "smollm2:135m  SmolLM2 135M Instruct" in result.stdout
    assert "4 bytes, Apache-2.0, not fetched" in result.stdout
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(b"GGUF")
    assert f"Apache-2.0, {entry.path}" in invoke("models", "list").stdout


def test_fetch_prints_the_path(invoke: Invoke, default_model: ModelFiles) -> None:
    result = invoke("models", "fetch", "smollm2:135m")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
    assert Path(result.stdout.strip()).is_file()


def test_inspect_shows_what_is_in_the_file(invoke: Invoke, default_model: ModelFiles) -> None:
    result = invoke("models", "inspect", "smollm2:135m")
    assert result.exit_code == 0, result.output
    shown = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    found = {name.strip(): value.strip() for name, value in shown.items()}
    assert found["architecture"] == "llama"
    assert found["parameters"] == "134,515,008"
    assert found["layers"] == "30 of width 576"
    assert found["heads"] == "9 of 64, 3 for keys and values"
    assert found["context"].startswith("8,192 tokens")
    assert "Q4_1" in found["weights"]
    assert "<|im_end|>" in found["end tokens"]
    assert found["chat template"] == "yes"


@pytest.mark.parametrize("command", ["fetch", "inspect"])
def test_a_model_that_is_not_there(invoke: Invoke, command: str) -> None:
    result = invoke("models", command, "./missing.gguf")
    assert result.exit_code == 2
    assert result.stderr.startswith("headrace: there is no model './missing.gguf'")
    assert result.stderr.count("\n") == 1


def test_a_file_that_is_no_model(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    result = invoke("models", "inspect", path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (98_362_432, "98.4 MB"), (16 * 10**12, "16000.00 GB")],
)
def test_sizes_for_people(nbytes: int, shown: str) -> None:
    assert size(nbytes) == shown
