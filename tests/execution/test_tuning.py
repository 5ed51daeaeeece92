"""The tuning cache: what is kept, for whom, and that no fault of its file does any harm."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.execution import tuning
from headrace.execution.machine import Machine, detect_machine
from headrace.execution.tuning import MAX_BYTES, Tuning, model_fingerprint
from headrace.models.config import ModelConfig
from tests.execution.tiny import RandomWeights, tiny_config


@pytest.fixture
def machine() -> Machine:
    return detect_machine()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Not there yet: the first measurement makes it."""
    monkeypatch.setattr(tuning, "tuning_folder", lambda: tmp_path / "cache" / "tuning")
    return tmp_path / "cache" / "tuning"


def test_what_was_put_is_there_at_the_next_start(folder: Path, machine: Machine) -> None:
    first = Tuning.of(machine, 2, "model")
    assert first.get("knee") is None
    first.put("knee", [[16, 0.25]])
    first.put("other", {"a": 1.5})
    second = Tuning.of(machine, 2, "model")
    assert second.get("knee") == [[16, 0.25]]
    assert second.get("other") == {"a": 1.5}
    assert [path.suffix for path in folder.iterdir()] == [".json"]


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another"},
        {"features": ("sse",)},
        {"quota": 1.5},
        {"cores": 97},
        {"cpus": tuple(range(97))},
    ],
)
def test_another_machine_has_its_own(
    folder: Path, machine: Machine, change: dict[str, Any]
) -> None:
    Tuning.of(machine, 2, "model").put("knee", 1)
    assert Tuning.of(replace(machine, **change), 2, "model").get("knee") is None


def test_other_threads_models_and_versions_have_their_own(
    folder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tuning.of(machine, 2, "model").put("knee", 1)
    assert Tuning.of(machine, 1, "model").get("knee") is None
    assert Tuning.of(machine, 2, "another").get("knee") is None
    assert Tuning.of(machine, 2).get("knee") is None
    monkeypatch.setattr("headrace.environment.version", lambda: "99.0")
    assert Tuning.of(machine, 2, "model").get("knee") is None


def _text(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def apply(raw: bytes) -> bytes:
        found = json.loads(raw)
        change(found)
        return json.dumps(found).encode()

    return apply


FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", "no JSON"),
    "cut": (lambda raw: raw[: len(raw) // 2], "no JSON"),
    "no text": (lambda raw: b"\xff\xfe\x00" + raw, "no JSON"),
    "nested": (lambda raw: b"[" * 200_000, "no JSON"),
    "a list": (lambda raw: b"[1, 2]", "no object"),
    "another format": (_text(lambda found: found.update(format=2)), "format 2, not 1"),
    "another machine": (
        _text(lambda found: found["made_for"].update(processor="another")), "another machine",
    ),
    "no entries": (_text(lambda found: found.pop("entries")), "no entries"),
    "entries a list": (_text(lambda found: found.update(entries=[1])), "no entries"),
    "enormous": (lambda raw: raw + b" " * MAX_BYTES, "more than"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_ignored_with_a_line_and_written_anew(
    folder: Path, machine: Machine, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    made = Tuning.of(machine, 2, "model")
    made.put("knee", 1)
    damage, words = FAULTS[fault]
    made.path.write_bytes(damage(made.path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert made.get("knee") is None
    assert str(made.path) in caplog.text
    assert words in caplog.text
    made.put("knee", 2)
    assert made.get("knee") == 2


def test_a_folder_that_cannot_be_written_does_no_harm(
    folder: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    made = Tuning.of(machine, 2, "model")
    with caplog.at_level(logging.WARNING):
        made.put("knee", 1)
        assert made.get("knee") is None
    assert "not kept" in caplog.text


def test_a_failed_write_leaves_the_old_file_and_no_scratch(
    folder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Tuning.of(machine, 2, "model")
    made.put("knee", 1)

    def full(source: object, target: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    made.put("knee", 2)
    assert made.get("knee") == 1
    assert list(folder.iterdir()) == [made.path]


def test_the_file_is_whole_whenever_somebody_looks(folder: Path, machine: Machine) -> None:
    made = Tuning.of(machine, 2, "model")
    made.put("value", "x")
    ended = threading.Event()
    seen: list[object] = []

    def look() -> None:
        while not ended.is_set():
            seen.append(made.get("value"))

    reader = threading.Thread(target=look)
    reader.start()
    for i in range(100):
        made.put("value", "x" * (1 + 1000 * (i % 7)))
    ended.set()
    reader.join()
    assert seen
    assert all(isinstance(value, str) and set(value) == {"x"} for value in seen)


def test_a_fingerprint_follows_shape_and_storage_not_values() -> None:
    def fingerprint(config: ModelConfig, seed: int = 0, kind: str = "F32") -> str:
        weights = RandomWeights(config, seed)
        weights.stored_type = lambda name: kind  # type: ignore[method-assign]
        return model_fingerprint(config, weights)

    config = tiny_config()
    known = fingerprint(config)
    assert fingerprint(config, seed=1) == known
    assert fingerprint(config, kind="Q4_1") != known
    assert fingerprint(tiny_config(num_layers=1)) != known
