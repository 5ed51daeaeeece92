"""Packing of weights in C++: the values that packed weights stand for, and what is refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernels.stored_matrices import (
    KINDS,
    PACKED,
    TYPES,
    Floats,
    Stored,
    cpu,
    from_blocks,
    stored,
)

pytestmark = pytest.mark.skipif(cpu is None, reason="needs the C++ extension")

Halves = npt.NDArray[np.float16]


def with_header(type_: str, n: int, k: int, *header: float) -> Stored:
    """Random quants in blocks that all have the same scale (and minimum)."""
    data = stored(type_, n, k).data.copy().reshape(n, k // 32, -1)
    data[..., : PACKED[type_]] = np.array(header, np.float16).view(np.uint8)
    return from_blocks(type_, data.reshape(n, -1))


def fields(matrix: Stored) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Of a 4-bit matrix: quants [n, k], and steps and minima [n, k] as floats."""
    n, size = len(matrix.data), PACKED[matrix.type]
    blocks = matrix.data.reshape(n, -1, size + 16)
    halves = blocks[..., :size].copy().view(np.float16).astype(np.float32)
    nibbles = blocks[..., size:].astype(np.int64)
    quants = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).reshape(n, -1)
    steps = np.repeat(halves[..., 0], 32, axis=1)
    minima = np.repeat(halves[..., 1], 32, axis=1) if size == 4 else -8 * steps
    return quants, steps, minima


@pytest.mark.parametrize("type_", ["Q4_0", "Q4_1", "Q8_0"])
def test_native_keeps_what_the_file_says(type_: str) -> None:
    matrix = stored(type_, 100, 96)
    weight = cpu.Weight.pack("native", [matrix.piece])
    np.testing.assert_array_equal(weight.dense(), matrix.values)


@pytest.mark.parametrize("kind", ["int8", "native"])
def test_other_types_are_rounded_to_the_nearest(kind: str) -> None:
    matrix = stored("F32", 100, 80)
    dense = cpu.Weight.pack(kind, [matrix.piece]).dense()
    top = np.abs(matrix.values).max(1, keepdims=True)
    # A half of a step; the scales of native blocks are halves, which moves the largest value.
    limit = top / 127 * (0.5 + 1e-4) + (top * 2.0**-11 if kind == "native" else 0)
    assert (np.abs(dense - matrix.values) <= limit).all()


def test_bf16_is_rounded_to_the_nearest_even() -> None:
    values = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-9, 1 + 2**-8 + 2**-20]], np.float32)
    dense = cpu.Weight.pack("bf16", [("F32", values)]).dense()
    assert dense.tolist() == [[1.0, 1.0, 1 + 2**-6, -1.0, 1 + 2**-7]]


@pytest.mark.parametrize("type_", ["Q4_0", "Q4_1"])
def test_int8_of_nibbles_follows_its_integer_definition(type_: str) -> None:
    matrix = stored(type_, 64, 576)
    quants, steps, minima = fields(matrix)
    scale = np.abs(matrix.values).max(1, keepdims=True) / np.float32(127)
    dq = np.rint(256 * steps.astype(np.float64) / scale).astype(np.int64)
    mq = np.rint(256 * (minima.astype(np.float64) / scale + 128)).astype(np.int64) + 128
    expected = ((dq * quants + mq) & 0xFFFF) >> 8
    dense = cpu.Weight.pack("int8", [matrix.piece]).dense()
    np.testing.assert_array_equal(dense, (expected - 128).astype(np.float32) * scale)
    assert (np.abs(dense - matrix.values) <= 0.54 * scale).all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_and_bfloat16_files(kind: str) -> None:
    values = stored("Q8_0", 40, 64).values.astype(np.float16).astype(np.float32)
    halves = values.astype(np.float16).view(np.uint8)
    words = (values.view(np.uint32) >> 16).astype(np.uint16)
    cut = (words.astype(np.uint32) << 16).view(np.float32)
    for type_, data, same_as in (("F16", halves, values), ("BF16", words.view(np.uint8), cut)):
        packed = cpu.Weight.pack(kind, [(type_, data)]).dense()
        expected = cpu.Weight.pack(kind, [("F32", same_as)]).dense()
        np.testing.assert_array_equal(packed, expected)


def test_bytes_of_floats_are_floats() -> None:
    values = stored("F32", 33, 80).values
    packed = cpu.Weight.pack("bf16", [("F32", values.view(np.uint8))])
    np.testing.assert_array_equal(
        packed.dense(), cpu.Weight.pack("bf16", [("F32", values)]).dense()
    )


def test_rows_need_not_lie_together() -> None:
    matrix = stored("Q4_1", 64, 64)
    spread = np.zeros((64, 80), np.uint8)[:, : matrix.data.shape[1]]
    spread[:] = matrix.data
    dense = cpu.Weight.pack("native", [("Q4_1", spread)]).dense()
    np.testing.assert_array_equal(dense, matrix.values)


def test_few_rows_read_five_bits_a_weight() -> None:
    weight = cpu.Weight.pack("int8", [stored("Q4_1", 64, 576).piece])
    assert weight.bytes_read(1) * 8 == 64 * 576 * 5
    assert weight.bytes_read(512) == 64 * 576
    assert weight.nbytes >= weight.bytes_read(1) + weight.bytes_read(512)
    assert cpu.Weight.pack("native", [stored("Q4_0", 64, 576).piece]).bytes_read(1) == 64 * 324


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros(kind: str) -> None:
    values = stored("F32", 40, 64).values.copy()
    values[7] = 0
    matrix = with_header("Q4_1", 40, 64, 0.0, 0.0)
    for piece in (("F32", values), matrix.piece):
        weight = cpu.Weight.pack(kind, [piece])
        assert not weight.dense()[7].any()
        assert not cpu.product(weight, np.ones((2, 64), np.float32))[:, 7].any()


def test_nibbles_that_16_bits_cannot_hold_become_bytes() -> None:
    """A huge step that the minimum cancels, in a row that is small otherwise."""
    data = stored("Q4_1", 32, 64).data.copy().reshape(32, 2, 20)
    data[5, 0, :4] = np.array([30000, -30000], np.float16).view(np.uint8)
    data[5, 0, 4:] = 0x11
    matrix = from_blocks("Q4_1", data.reshape(32, -1))
    assert np.abs(matrix.values[5]).max() < 10
    weight = cpu.Weight.pack("int8", [matrix.piece])
    scale = np.abs(matrix.values).max(1, keepdims=True) / 127
    assert (np.abs(weight.dense() - matrix.values) <= 0.54 * scale).all()
    assert weight.bytes_read(1) == 32 * 64
    x = np.ones((2, 64), np.float32)
    np.testing.assert_array_equal(
        cpu.product(weight, x, few_rows=0), cpu.product(weight, x, few_rows=9)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("type_", TYPES)
def test_values_that_are_not_finite_are_refused(type_: str, kind: str) -> None:
    good = stored(type_, 40, 64)
    data = good.data.copy()
    if type_ == "F32":
        data[17, 3] = np.nan
    else:
        data[17, :2] = np.array([np.inf], np.float16).view(np.uint8)
    with pytest.raises(ValueError, match=r"row 17 of matrix 2 of 2 .* damaged"):
        cpu.Weight.pack(kind, [good.piece, (type_, data)])
    with pytest.raises(ValueError, match=r"row 17 of matrix 1 of 2 .* damaged"):
        cpu.Weight.pack_gated(kind, (type_, data), good.piece)


def test_what_does_not_fit_is_refused() -> None:
    good, other = stored("Q4_1", 64, 64).piece, stored("Q4_1", 64, 96).piece
    floats = np.ones((4, 64), np.float32)
    with pytest.raises(ValueError, match="'int7'; choose int8, native or bf16"):
        cpu.Weight.pack("int7", [good])
    with pytest.raises(ValueError, match="'Q6_K'; choose F32"):
        cpu.Weight.pack("int8", [("Q6_K", good[1])])
    with pytest.raises(ValueError, match="blocks of 20 bytes; these have 41"):
        cpu.Weight.pack("int8", [("Q4_1", np.zeros((2, 41), np.uint8))])
    with pytest.raises(ValueError, match="same number of columns; they have 64 and 96"):
        cpu.Weight.pack("int8", [good, other])
    with pytest.raises(ValueError, match="no matrix"):
        cpu.Weight.pack("int8", [])
    with pytest.raises(ValueError, match=r"uint8 \[n, bytes of a row\].*\[4, 64\]"):
        cpu.Weight.pack("int8", [("Q4_1", floats)])
    with pytest.raises(ValueError, match=r"the shape \[64\]"):
        cpu.Weight.pack("int8", [("F32", floats[0])])
    with pytest.raises(ValueError, match=r"1 to 2\^24 rows"):
        cpu.Weight.pack("int8", [("F32", floats[:0])])
    with pytest.raises(ValueError, match="bias has 63 values for 64 rows"):
        cpu.Weight.pack("int8", [good], np.zeros(63, np.float32))
    with pytest.raises(ValueError, match="value 2 of the bias is not finite"):
        cpu.Weight.pack("int8", [good], np.where(np.arange(64) == 2, np.inf, 0).astype(np.float32))
    with pytest.raises(ValueError, match="same number of rows"):
        cpu.Weight.pack_gated("int8", good, stored("Q4_1", 32, 64).piece)
    with pytest.raises(ValueError, match="a bias both, or none"):
        cpu.Weight.pack_gated("int8", good, good, np.zeros(64, np.float32))
    with pytest.raises(ValueError, match="too large"):
        cpu.Weight.pack("native", [("F32", np.full((1, 64), 3e38, np.float32))])
