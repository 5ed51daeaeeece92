"""Products in C++: right, and the same bits whatever the rows beside and however work is cut.

Expected values are float64 products of the operands that the kernels read: the weights that a
packed matrix stands for (``dense``) and the rounded activations. What remains is the rounding of
float32 sums; tolerances are a few units of float32's 2^-24 for every addition, relative to the sum
of the magnitudes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.stored_matrices import (
    BUILDS,
    KINDS,
    TYPES,
    Doubles,
    Floats,
    activations,
    cpu,
    from_blocks,
    rounded,
    stored,
)

pytestmark = pytest.mark.skipif(cpu is None, reason="needs the C++ extension")

SIZES = ((100, 96), (33, 64), (64, 576), (96, 1536))
EITHER = (0, 1000)  # rows up to which nibbles are read: never, always


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    cpu.set_threads(2)
    yield
    cpu.set_threads(1)


def close(y: Floats, x: Doubles, w: npt.NDArray[np.floating[Any]], bias: Any = 0.0) -> None:
    w = w.astype(np.float64)
    bound = (np.abs(x) @ np.abs(w).T + np.abs(bias)) * (w.shape[1] + 8) * 2.0**-24
    assert (np.abs(y - (x @ w.T + bias)) <= bound).all()


def same(a: Floats, b: Floats) -> None:
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_right(kind: str, type_: str, name: str) -> None:
    for n, k in SIZES:
        weight = cpu.Weight.pack(kind, [stored(type_, n, k).piece])
        assert (weight.rows_out, weight.rows_in, weight.format) == (n, k, kind)
        x = activations(13, k)
        for few_rows in EITHER:
            y = cpu.product(weight, x, name, few_rows)
            close(y, rounded(x, kind), weight.dense())


@pytest.mark.parametrize("name", BUILDS)
def test_columns_need_not_be_whole_blocks(name: str) -> None:
    for kind in KINDS:
        for n, k in ((100, 80), (5, 1), (31, 65)):
            weight = cpu.Weight.pack(kind, [stored("F32", n, k).piece])
            x = activations(7, k)
            close(cpu.product(weight, x, name), rounded(x, kind), weight.dense())


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize(("kind", "type_"), [
    ("int8", "Q4_1"), ("int8", "Q8_0"), ("native", "Q4_1"), ("native", "Q4_0"),
    ("native", "Q8_0"), ("bf16", "F32"),
])  # fmt: skip
def test_a_row_does_not_depend_on_its_call(kind: str, type_: str, name: str) -> None:
    """Not on the number of rows, its place, the cut, the threads, nor on nibbles or bytes."""
    weight = cpu.Weight.pack(kind, [stored(type_, 100, 160).piece])
    x = activations(70, 160)
    whole = cpu.product(weight, x, name)
    for rows in range(1, 70):
        same(cpu.product(weight, x[:rows], name), whole[:rows])
    for rows in (1, 2, 5, 16, 33):
        for few_rows in EITHER:
            same(cpu.product(weight, x[70 - rows :], name, few_rows), whole[70 - rows :])
    order = np.random.default_rng(2).permutation(70)
    same(cpu.product(weight, x[order], name), whole[order])
    for unit_grain in (1, 2, 3):
        for row_grain in (1, 5, 64):
            same(cpu.product(weight, x, name, None, unit_grain, row_grain), whole)
    for threads in (1, 3):
        cpu.set_threads(threads)
        same(cpu.product(weight, x, name), whole)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("kind", KINDS)
def test_bias_and_residual(kind: str, name: str) -> None:
    matrix = stored("Q8_0", 100, 96)
    bias = np.linspace(-2, 2, 100, dtype=np.float32)
    plain = cpu.Weight.pack(kind, [matrix.piece])
    weight = cpu.Weight.pack(kind, [matrix.piece], bias)
    x = activations(9, 96)
    y = cpu.product(weight, x, name)
    close(y, rounded(x, kind), plain.dense(), bias)
    before = activations(9, 100, seed=5)
    same(cpu.product(weight, x, name, add_to=before), before + y)
    same(cpu.product(weight, np.zeros_like(x), name), np.tile(bias, (9, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_matrices_are_each_as_alone(kind: str) -> None:
    """Types meet within panels: the rows of the first two do not fill whole ones."""
    matrices = [stored(t, n, 160, seed=n) for t, n in
                (("Q4_1", 40), ("Q4_0", 50), ("Q8_0", 70), ("F32", 33), ("Q4_0", 64))]  # fmt: skip
    x = activations(6, 160)
    together = cpu.Weight.pack(kind, [m.piece for m in matrices])
    alone = [cpu.Weight.pack(kind, [m.piece]) for m in matrices]
    same(together.dense(), np.concatenate([w.dense() for w in alone]))
    for few_rows in EITHER:
        y = cpu.product(together, x, few_rows=few_rows)
        same(y, np.concatenate([cpu.product(w, x) for w in alone], axis=1))


def swish(gate: Doubles, up: Doubles) -> Doubles:
    return gate / (1 + np.exp(-gate)) * up


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("types", [("Q4_1", "Q4_1"), ("Q4_0", "Q4_1"), ("F32", "F32")])
@pytest.mark.parametrize("kind", KINDS)
def test_gated(kind: str, types: tuple[str, str], name: str) -> None:
    """Within the rounding of its output of what the dequantised operands give."""
    for n, k in ((100, 64), (192, 576)):
        gate, up = (stored(t, n, k, seed) for seed, t in enumerate(types))
        biases = np.random.default_rng(3).standard_normal((2, n), dtype=np.float32)
        weight = cpu.Weight.pack_gated(kind, gate.piece, up.piece, *biases)
        x = activations(70, k)
        rows, dense = rounded(x, kind), weight.dense().astype(np.float64)
        expected = swish(rows @ dense[:n].T + biases[0], rows @ dense[n:].T + biases[1])
        y = cpu.gated(weight, x, name)
        step = np.abs(y).max(1, keepdims=True) / 127 if kind != "bf16" else np.abs(y) * 2**-7
        assert (np.abs(y - expected) <= 0.51 * step + 1e-4 * np.abs(expected).max()).all()
        for count in (1, 2, 5, 17, 49):
            for few_rows in EITHER:
                same(cpu.gated(weight, x[:count], name, few_rows), y[:count])
        same(cpu.gated(weight, x, name, None, 1, 7), y)


@pytest.mark.parametrize("name", BUILDS)
def test_the_largest_values_do_not_overflow(name: str) -> None:
    """All weights and activations at their limits, whose products sums of 16 bits cannot hold."""
    for sign in (1.0, -1.0):
        x = np.full((3, 1536), sign, dtype=np.float32)
        for kind in KINDS:
            weight = cpu.Weight.pack(kind, [("F32", np.full((33, 1536), -1.0, np.float32))])
            np.testing.assert_allclose(cpu.product(weight, x, name), -sign * 1536, rtol=1e-3)
        data = np.zeros((33, 1536 // 32, 34), dtype=np.uint8)
        data[..., :2] = np.array([1.0], np.float16).view(np.uint8)
        data[..., 2:] = 0x80  # -128, which symmetric quantisation leaves out
        weight = cpu.Weight.pack("native", [("Q8_0", data.reshape(33, -1))])
        np.testing.assert_allclose(cpu.product(weight, x, name), -sign * 128 * 1536, rtol=1e-5)


@pytest.mark.parametrize("name", BUILDS)
def test_integer_sums_are_exact(name: str) -> None:
    """Powers of two as scales: every step of the int8 arithmetic is exact, so the result is."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (50, 64)).astype(np.float32)
    x = rng.integers(-127, 128, (5, 64)).astype(np.float32)
    w[:, 0], x[:, 0] = 127, -127
    weight = cpu.Weight.pack("int8", [("F32", w)])
    same(weight.dense(), w)
    np.testing.assert_array_equal(
        cpu.product(weight, x, name), np.rint(x.astype(np.float64) @ w.T).astype(np.float32)
    )


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_not_finite_stay_in_their_row(kind: str, name: str) -> None:
    matrix = stored("Q4_1", 70, 192)
    weight = cpu.Weight.pack(kind, [matrix.piece])
    gated = cpu.Weight.pack_gated(kind, matrix.piece, matrix.piece)
    x = activations(12, 192)
    clean, clean_gated = cpu.product(weight, x, name), cpu.gated(gated, x, name)
    x[3, 7], x[8, 100] = np.nan, np.inf
    others = [r for r in range(12) if r not in (3, 8)]
    y = cpu.product(weight, x, name)
    same(y[others], clean[others])
    assert np.isnan(y[3]).all()
    assert not np.isfinite(y[8]).any()
    same(cpu.gated(gated, x, name)[others], clean_gated[others])
    assert not np.isfinite(cpu.gated(gated, x, name)[[3, 8]]).any()


@settings(max_examples=30)
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    k = 32 * data.draw(st.integers(1, 9))
    shapes = data.draw(st.lists(st.tuples(st.sampled_from(TYPES), st.integers(1, 80)),
                                min_size=1, max_size=3))  # fmt: skip
    weight = cpu.Weight.pack(
        kind, [stored(t, n, k, seed=i).piece for i, (t, n) in enumerate(shapes)]
    )
    x = activations(data.draw(st.integers(1, 40)), k)
    name = data.draw(st.sampled_from(BUILDS))
    y = cpu.product(weight, x, name, data.draw(st.integers(0, 50)))
    assert y.shape == (len(x), sum(n for _, n in shapes))
    close(y, rounded(x, kind), weight.dense())


def test_no_rows() -> None:
    weight = cpu.Weight.pack("int8", [stored("Q4_1", 64, 64).piece])
    assert cpu.product(weight, np.empty((0, 64), np.float32)).shape == (0, 64)


@pytest.mark.parametrize("name", BUILDS)
def test_scales_that_are_subnormal(name: str) -> None:
    data = stored("Q4_1", 40, 64).data.copy().reshape(40, 2, 20)
    halves = np.array([3e-7, -6e-8], np.float16)
    assert (halves != 0).all()
    data[..., :4] = halves.view(np.uint8)
    matrix = from_blocks("Q4_1", data.reshape(40, -1))
    weight = cpu.Weight.pack("native", [matrix.piece])
    same(weight.dense(), matrix.values)
    x = activations(3, 64)
    close(cpu.product(weight, x, name), rounded(x, "native"), matrix.values)


def test_what_does_not_fit_is_refused() -> None:
    weight = cpu.Weight.pack("int8", [stored("Q4_1", 64, 64).piece])
    gated = cpu.Weight.pack_gated("int8", *(stored("Q4_1", 64, 64).piece,) * 2)
    with pytest.raises(ValueError, match=r"x must be float32 \[rows, 64\].*\[3, 96\]"):
        cpu.product(weight, np.ones((3, 96), np.float32))
    with pytest.raises(TypeError):
        cpu.product(weight, np.ones((3, 64), np.float64))
    with pytest.raises(TypeError):
        cpu.product(weight, np.ones((3, 128), np.float32)[:, ::2])
    with pytest.raises(ValueError, match="no kernels 'mmx'"):
        cpu.product(weight, np.ones((3, 64), np.float32), "mmx")
    with pytest.raises(ValueError, match="packed for gated"):
        cpu.product(gated, np.ones((3, 64), np.float32))
    with pytest.raises(ValueError, match="not packed with pack_gated"):
        cpu.gated(weight, np.ones((3, 64), np.float32))
    with pytest.raises(ValueError, match="unit_grain"):
        cpu.product(weight, np.ones((3, 64), np.float32), unit_grain=0)
