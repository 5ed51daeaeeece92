"""The choice of operators says what and why, and refuses what it does not know."""

from __future__ import annotations

import pytest
import torch

from headrace.kernels import dispatch
from headrace.kernels.dispatch import choose, choose_dtype
from headrace.nouns.errors import ConfigError


def test_auto_takes_bfloat16_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "has_packed", lambda dtype: True)
    monkeypatch.setattr(dispatch, "bfloat16_is_fast", lambda: True)
    assert choose_dtype("auto")[0] is torch.bfloat16
    monkeypatch.setattr(dispatch, "bfloat16_is_fast", lambda: False)
    dtype, reason = choose_dtype("auto")
    assert dtype is torch.float32
    assert "no native bfloat16" in reason
    assert choose_dtype("bf16")[0] is torch.bfloat16


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigError, match="weights is 'int3'; torch computes float32 and bfloat16"):
        choose("int3", 64)


def test_the_report_gives_reasons() -> None:
    report = choose("float32", 64).report
    assert "asked for" in report[0]
    assert "self-check passed" in report[1] or "depends on the batch" in report[1]
