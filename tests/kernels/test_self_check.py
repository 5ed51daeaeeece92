"""The self-check passes for right operators and finds each kind of wrong one."""

from __future__ import annotations

import pytest
import torch

from headrace.kernels.dispatch import choose
from headrace.kernels.reference import ReferenceOperators
from headrace.kernels.self_check import Check, check_operators


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chosen_operators_pass(dtype: str) -> None:
    checks = check_operators(choose(dtype, 64).operators)
    assert len(checks) == 4
    assert failed(checks) == []


@pytest.fixture
def operators() -> ReferenceOperators:
    found = choose("float32", 64).operators
    assert isinstance(found, ReferenceOperators)
    return found


def test_a_wrong_product_is_found(
    operators: ReferenceOperators, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = operators.linear
    monkeypatch.setattr(operators, "linear", lambda x, w: right(x, w) * 1.01)
    assert failed(check_operators(operators)) == ["products are right"]


def test_a_product_that_depends_on_the_batch_is_found(
    operators: ReferenceOperators, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = operators.linear
    one_bit = 1.0 + torch.finfo(torch.float32).eps
    monkeypatch.setattr(
        operators, "linear", lambda x, w: right(x, w) * (one_bit if len(x) > 100 else 1.0)
    )
    assert failed(check_operators(operators)) == ["a row's product is the same in any batch"]


def test_a_wrong_attention_is_found(
    operators: ReferenceOperators, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = operators.attention
    monkeypatch.setattr(operators, "attention", lambda q, c, p: right(q * 1.5, c, p))
    assert failed(check_operators(operators)) == ["attention is right"]


def test_an_attention_that_depends_on_the_batch_is_found(
    operators: ReferenceOperators, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = operators.attention
    one_bit = 1.0 + torch.finfo(torch.float32).eps
    monkeypatch.setattr(
        operators,
        "attention",
        lambda q, c, p: right(q, c, p) * (one_bit if len(q) > 300 else 1.0),
    )
    assert failed(check_operators(operators)) == ["a row's attention is the same in any batch"]
