"""Trimming the heap: with glibc and without."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from headrace.execution.heap import trim_heap


def test_the_c_library_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    library = SimpleNamespace(malloc_trim=asked.append)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    trim_heap()
    assert asked == [0]


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_library_or_system_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def missing(name: object) -> None:
        raise error("there is none")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    trim_heap()
