"""What the C++ decoder's loader does to weights before they are packed."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.kernels.rope import rope_arrays, rope_tables
from headrace.models.native import _to_bf16


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_bfloat16_is_rounded_as_torch_does(values: list[float]) -> None:
    array = np.array([values], dtype=np.float32)
    got = torch.from_numpy(_to_bf16(array)).view(torch.bfloat16)
    expected = torch.from_numpy(array).bfloat16()
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert got.shape == expected.shape


def test_many_rows_are_rounded_in_parts() -> None:
    array = np.random.default_rng(0).standard_normal((2500, 3)).astype(np.float32)
    got = torch.from_numpy(_to_bf16(array)).view(torch.bfloat16)
    assert torch.equal(got, torch.from_numpy(array).bfloat16())


def test_both_ways_of_computing_rotate_by_the_same_tables() -> None:
    frequencies = [1.0, 0.1, 0.003]
    cos, sin = rope_arrays(frequencies, 5000, 1.2)
    tables = rope_tables(frequencies, 5000, 1.2)
    assert np.array_equal(tables.cos.numpy(), cos)
    assert np.array_equal(tables.sin.numpy(), sin)
    angle = 4321 * 0.003
    assert cos[4321, 2] == cos[4321, 5] == np.float32(1.2 * np.cos(angle))
    assert sin[4321, 5] == -sin[4321, 2] == np.float32(1.2 * np.sin(angle))
