"""Building an executor: options checked, choices reported, and the result runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headrace.execution import ceilings
from headrace.execution.build import (
    build_executor,
    measure_budget,
    measure_roofline,
    set_threads,
)
from headrace.execution.machine import detect_machine
from headrace.execution.peaks import Peaks
from headrace.execution.roofline import Roofline, weight_format
from headrace.kernels.extension import load_extension
from headrace.models.loader import ModelFiles
from headrace.nouns.errors import ConfigError
from headrace.nouns.step import Slice
from tests.execution.tiny import RandomWeights, run, sequence, tiny_config

OPTIONS: dict[str, Any] = {
    "weights": "float32", "block_size": 32, "cache_bytes": 64 << 20, "max_context": 512,
    "max_sequences": 4, "threads": None, "report": lambda line: None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _same_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_default_model_builds_and_runs(default_model: ModelFiles) -> None:
    lines: list[str] = []
    built = build_executor(default_model, **(OPTIONS | {"threads": 1, "report": lines.append}))
    assert (built.block_size, built.max_context, built.weights) == (32, 512, "float32")
    assert tuple(lines) == built.report
    text = "\n".join(lines)
    for word in (
        "threads: 1 (asked for)", "weights", "attention", "sampling", "cache", "workspace", "spare",
    ):  # fmt: skip
        assert word in text
    assert built.executor.cache.nbytes == built.plan.bytes("cache") <= 64 << 20
    planned = built.plan.bytes("weights")
    assert abs(built.executor.transformer.nbytes - planned) < planned // 100
    seq = sequence([1, 4093, 198], (0,))
    sampled = run(built.executor, Slice(seq, 0, 3, True)).sampled[0]
    assert sampled is not None
    assert 0 <= sampled.token < default_model.config.vocab_size
    assert measure_budget(built).tokens >= 16


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_limits_of_what_was_built(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if weights == "int8" and not load_extension().available:
        pytest.skip("needs the C++ extension")
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 8 << 20)
    config = tiny_config(intermediate_size=160)  # in whole blocks, as all else
    nothing: Any = None
    files = ModelFiles("m", config, RandomWeights(config, type_="Q4_1"), nothing, nothing)
    options = {"weights": weights, "max_context": 64, "threads": 1}
    built = build_executor(files, **(OPTIONS | options))
    kept: list[dict[str, float]] = []
    line = measure_roofline(built, files, 1, lambda: None, kept.append)
    assert line.startswith("limits: memory reads")
    assert "tokens/s of one stream" in line
    (peaks,) = kept
    cache = "float32" if weights == "float32" else "bf16"
    format = weight_format(weights, files.config, files.weights, cache)
    assert format.matrix_bits == (32.0 if weights == "float32" else 5.0)
    expected = Roofline(files.config, format, Peaks(**peaks))  # type: ignore[arg-type]
    result = run(built.executor, Slice(sequence([1, 2, 3], (0,)), 0, 3, True))
    assert result.work == expected.work((0,), (3,), 1)
    monkeypatch.setattr(ceilings, "_buffer_bytes", lambda _: 4096)
    assert "too little memory" in measure_roofline(built, files, 1, lambda: None, kept.append)


def test_options_that_cannot_work_are_refused(default_model: ModelFiles) -> None:
    with pytest.raises(ConfigError, match="block_size is 24; choose one of"):
        build_executor(default_model, **(OPTIONS | {"block_size": 24}))
    with pytest.raises(ConfigError, match="weights is 'int2'"):
        build_executor(default_model, **(OPTIONS | {"weights": "int2"}))
    with pytest.raises(ConfigError, match="max_context"):
        build_executor(default_model, **(OPTIONS | {"max_context": 1 << 20}))
    with pytest.raises(ConfigError, match="give --cache \\(cache_bytes\\) at least"):
        build_executor(default_model, **(OPTIONS | {"cache_bytes": 4 << 20}))


def test_threads_follow_the_machine_unless_set() -> None:
    machine = detect_machine()
    assert set_threads(None, machine) == f"threads: {machine.threads} ({machine.threads_reason})"
    assert torch.get_num_threads() == machine.threads
    with pytest.raises(ConfigError, match=f"may run on {len(machine.cpus)} CPUs"):
        set_threads(len(machine.cpus) + 1, machine)
