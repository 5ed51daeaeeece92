"""The C++ extension where it is built, and the way without it where it is not."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

import numpy as np
import pytest

from headrace.execution.machine import FEATURES
from headrace.kernels.extension import Extension, load_extension

EXTENSION = load_extension()


def test_says_how_it_stands() -> None:
    assert EXTENSION.available is (EXTENSION.module is not None)
    assert EXTENSION.reason
    assert load_extension() is EXTENSION


def test_missing_extension_warns_once_and_names_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = "headrace.kernels._absent"
    with caplog.at_level(logging.WARNING):
        first = load_extension(name)
        assert load_extension(name) is first
    assert first.module is None
    assert first.reason.startswith("not built")
    assert "compiler" in first.reason
    assert [record.getMessage() for record in caplog.records] == [
        f"the C++ extension is off, torch operators are used instead: {first.reason}"
    ]


def test_broken_extension_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headrace_broken.py").write_text("import headrace_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load_extension("headrace_broken")
    assert found == Extension(None, found.reason)
    assert "headrace_library_that_is_not_there" in found.reason
    assert found.reason.startswith("built but not loadable")


def test_features_are_known_and_agree_with_the_kernel() -> None:
    module = EXTENSION.module
    features = module.cpu_features() if module else []
    assert set(features) <= set(FEATURES)
    if "avx512f" in features:
        assert {"avx", "avx2"} <= set(features)
    cpuinfo = Path("/proc/cpuinfo")
    if module and platform.machine() == "x86_64" and cpuinfo.exists():
        flags = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
        offered = set(flags.split())
        assert set(features) == {name for name in FEATURES if name in offered}


@pytest.mark.parametrize("size", [0, 1, 255, 256, 4099])
def test_stream_read_sums_every_byte(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)
    if EXTENSION.module is None:
        assert not EXTENSION.available
        return
    vector_bytes = next(
        (4 * width for name, width in (("avx512f", 64), ("avx2", 32))
         if name in EXTENSION.module.cpu_features()), 64,
    )  # fmt: skip
    whole = size // vector_bytes * vector_bytes
    expected = int(data[:whole].view(np.uint64).sum()) + int(data[whole:].sum())
    for passes in (1, 3):
        assert EXTENSION.module.stream_read(data, passes) == expected * passes % 2**64


def test_probes_refuse_what_they_cannot_do() -> None:
    module = EXTENSION.module
    if module is None:
        assert "compiler" in EXTENSION.reason
        return
    with pytest.raises(ValueError, match="passes"):
        module.stream_read(np.zeros(8, np.uint8), 0)
    with pytest.raises(TypeError):
        module.stream_read(np.zeros(8, np.float32), 1)
    with pytest.raises(TypeError):
        module.stream_read(np.zeros(16, np.uint8)[::2], 1)
    for operations in (0.0, float("nan"), 1e16):
        with pytest.raises(ValueError, match="operations"):
            module.multiply_add("float32", operations)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int3"])
def test_the_probe_of_a_kind_runs_what_it_was_asked_for(kind: str) -> None:
    if EXTENSION.module is None:
        assert not EXTENSION.available
        return
    features = set(EXTENSION.module.cpu_features())
    needs = {"bfloat16": {"avx512_bf16"}, "int8": {"avx2"}, "float32": set(), "int3": {"none"}}
    ran = EXTENSION.module.multiply_add(kind, 1e6)
    if needs[kind] <= features:
        assert 1e6 <= ran < 1.1e6
    else:
        assert ran == 0.0
