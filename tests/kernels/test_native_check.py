"""The self-check of the C++ kernels passes, and finds each kind of wrong one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headrace.kernels.extension import load_extension
from headrace.kernels.native_check import check_native
from headrace.kernels.self_check import Check

cpu: Any = load_extension().module
pytestmark = pytest.mark.skipif(cpu is None, reason="the C++ extension is not built here")

NAMES = ("Weight", "AttentionShape", "product", "rotate_store", "attend", "cache_row_bytes")


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def with_changed(**changes: Any) -> Any:
    return SimpleNamespace(**({name: getattr(cpu, name) for name in NAMES} | changes))


@pytest.mark.parametrize("cache_format", ["bf16", "int8"])
@pytest.mark.parametrize("kind", ["int8", "native", "bf16"])
def test_the_kernels_pass(kind: str, cache_format: str) -> None:
    checks = check_native(cpu, kind, cache_format)
    assert len(checks) == 4
    assert failed(checks) == []


def test_a_wrong_product_is_found() -> None:
    wrong = with_changed(product=lambda w, x: cpu.product(w, x) * np.float32(1.05))
    assert failed(check_native(wrong, "int8")) == ["int8 products are right"]


def test_a_product_that_depends_on_the_batch_is_found() -> None:
    one_bit = np.float32(1.0) + np.finfo(np.float32).eps

    def moody(weight: Any, x: Any) -> Any:
        return cpu.product(weight, x) * (one_bit if len(x) == 17 else np.float32(1.0))

    found = check_native(with_changed(product=moody), "native")
    assert failed(found) == ["a row's native product is the same in any batch"]
    assert "differs at 17 rows" in found[1].detail


def test_a_wrong_attention_is_found() -> None:
    def wrong(*arguments: Any) -> Any:
        return cpu.attend(*arguments) * np.float32(1.05)

    assert failed(check_native(with_changed(attend=wrong), "bf16")) == ["attention is right"]


def test_an_attention_that_depends_on_the_batch_is_found() -> None:
    one_bit = np.float32(1.0) + np.finfo(np.float32).eps

    def moody(shape: Any, queries: Any, starts: Any, *rest: Any) -> Any:
        out = cpu.attend(shape, queries, starts, *rest)
        return out * (one_bit if len(starts) == 1 else np.float32(1.0))

    found = check_native(with_changed(attend=moody), "bf16")
    assert failed(found) == ["a row's attention is the same in any batch"]
