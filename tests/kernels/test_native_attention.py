"""Attention in C++: right, and the same bits however the work is cut.

Tolerance against float64 on inputs rounded to bfloat16: weights are rounded to bfloat16 (relative
2^-9 each, numerator and denominator alike), so a result is off by at most 2^-8 of the largest
value; inputs that fall on the other side of a rounding boundary add a little to that.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.attention_steps import BUILDS, Heads, Part, Sequences, cpu

pytestmark = pytest.mark.skipif(cpu is None, reason="needs the C++ extension")

BOUNDARIES = (1, 15, 16, 17, 255, 256, 257, 511, 512, 513, 2000)
SHAPES = [
    Heads(2, 1, 64), Heads(3, 3, 64), Heads(2, 4, 64), Heads(1, 7, 64), Heads(2, 8, 64),
    Heads(2, 4, 128), Heads(2, 3, 80), Heads(1, 2, 96), Heads(2, 4, 32), Heads(1, 1, 256),
    Heads(1, 5, 16), Heads(2, 2, 128, norm=True), Heads(1, 60, 16),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    cpu.set_threads(2)
    yield
    cpu.set_threads(1)


def token_by_token(lengths: tuple[int, ...]) -> list[list[Part]]:
    return [
        [Part(s, i, i + 1) for s, n in enumerate(lengths) if i < n] for i in range(max(lengths))
    ]


def same(results: list[np.ndarray], others: list[np.ndarray]) -> None:
    for a, b in zip(results, others, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("heads", SHAPES, ids=str)
def test_close_to_float64(heads: Heads, name: str) -> None:
    s = Sequences(heads, (40, 1, 300), kernels=name)
    for i, result in enumerate(s.at_once()):
        tolerance = 2**-8 * np.abs(s.qkv[i]).max()
        np.testing.assert_allclose(result, s.expected(i), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", BUILDS)
def test_mean_error_is_small(name: str) -> None:
    s = Sequences(Heads(2, 3, 64), (700,), kernels=name)
    error = s.at_once()[0] - s.expected(0)
    # rounding errors of many weights cancel: far below the bound of one
    assert np.sqrt((error**2).mean()) < 2e-3 * np.sqrt((s.expected(0) ** 2).mean())


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("heads", SHAPES, ids=str)
def test_one_token_at_a_time_is_the_same(heads: Heads, name: str) -> None:
    lengths = (33, 5, 18)
    whole = Sequences(heads, lengths, kernels=name).at_once()
    same(whole, Sequences(heads, lengths, kernels=name).run(token_by_token(lengths)))


@pytest.mark.parametrize("name", BUILDS)
def test_around_boundaries(name: str) -> None:
    s = Sequences(Heads(), (max(BOUNDARIES),), kernels=name)
    whole = s.at_once()[0]
    for n in BOUNDARIES:
        last = Part(0, n - 1, n)
        np.testing.assert_array_equal(s.attend([last], s.store([last]))[0], whole[n - 1])


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("block_size", [32, 48, 64, 256])
def test_block_size_changes_nothing(block_size: int, name: str) -> None:
    lengths = (300, 70)
    for heads in (Heads(), Heads(1, 2, 80, "int8")):
        whole = Sequences(heads, lengths, kernels=name).at_once()
        same(whole, Sequences(heads, lengths, block_size, kernels=name).at_once())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    # one long context among short ones is cut into pieces that several threads work on
    lengths = (1800, 40, 3)
    whole = Sequences(Heads(), lengths).at_once()
    cpu.set_threads(threads)
    s = Sequences(Heads(), lengths)
    same(whole, s.at_once())
    last = Part(0, 1799, 1800)
    for _ in range(5):
        np.testing.assert_array_equal(s.attend([last], s.store([last]))[0], whole[0][1799])


def test_pieces_of_many_layers_agree() -> None:
    s = Sequences(Heads(), (1500,))
    s.run([[Part(0, 0, 1500)]])
    last = Part(0, 1499, 1500)
    queries = s.store([last])
    once = s.attend([last], queries)
    s.keys, s.values = s.keys.repeat(7, 0), s.values.repeat(7, 0)
    np.testing.assert_array_equal(s.attend([last], queries), once)


def test_alone_or_in_a_batch() -> None:
    lengths = (90, 260, 31, 600)
    together = Sequences(Heads(), lengths).at_once()
    for i, n in enumerate(lengths):
        alone = Sequences(Heads(), lengths)
        np.testing.assert_array_equal(alone.run([[Part(i, 0, n)]])[i], together[i])


@pytest.mark.parametrize("format", ["bf16", "int8"])
def test_stale_slots_have_no_effect(format: str) -> None:
    lengths = (70, 1, 260)
    heads = Heads(2, 2, 32, format)
    one = Sequences(heads, lengths, stale=1.0).at_once()
    same(one, Sequences(heads, lengths, stale=1e6).at_once())


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("heads", [Heads(3, 3, 64, "int8"), Heads(2, 1, 128, "int8")], ids=str)
def test_int8_cache(heads: Heads, name: str) -> None:
    lengths = (300, 20)
    s = Sequences(heads, lengths, kernels=name)
    results = s.at_once()
    for i, result in enumerate(results):
        expected = s.expected(i)
        # keys and values each off by up to 1/254 of their token's largest; keys act by the exponent
        np.testing.assert_allclose(result, expected, rtol=0, atol=0.04 * np.abs(s.qkv[i]).max())
        error = np.sqrt(((result - expected) ** 2).mean() / (expected**2).mean())
        assert 0.0005 < error < 0.03
    steps = [[Part(0, 0, 7)], [Part(1, 0, 20), Part(0, 7, 299)], [Part(0, 299, 300)]]
    same(results, Sequences(heads, lengths, kernels=name).run(steps))


@pytest.mark.parametrize("output", ["bf16", "int8", "native"])
@pytest.mark.parametrize("heads", [Heads(), Heads(1, 2, 128), Heads(2, 2, 32)], ids=str)
def test_written_in_the_products_format(heads: Heads, output: str) -> None:
    exact = Sequences(heads, (40,)).at_once()[0]
    written = Sequences(heads, (40,), output=output).at_once()[0]
    if output == "bf16":
        np.testing.assert_allclose(written, exact, rtol=2**-8)
        return
    blocks = exact.reshape(-1, 64 if output == "int8" else 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / 127
    off = np.abs(written.reshape(blocks.shape) - blocks)
    assert (off <= 0.5001 * scale).all()
    assert off.max() > 0


def test_not_finite_shows() -> None:
    for format in ("bf16", "int8"):
        s = Sequences(Heads(1, 1, 64, format), (20,))
        s.qkv[0][7, 0:64] = np.nan
        s.qkv[0][7, 128:] = np.inf
        result = s.run([[Part(0, 0, 7)], [Part(0, 7, 20)]])[0]
        assert np.isfinite(result[:7]).all()
        assert not np.isfinite(result[7:]).any()


@st.composite
def ragged_steps(draw: st.DrawFn) -> tuple[tuple[int, ...], list[list[Part]]]:
    """Lengths, and steps that bring all sequences there, part by part in random order."""
    lengths = tuple(draw(st.lists(st.integers(1, 320), min_size=1, max_size=5)))
    done, steps = [0] * len(lengths), []
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        open_ones = [i for i, n in enumerate(lengths) if done[i] < n]
        chosen = draw(st.permutations(open_ones))[: draw(st.integers(1, len(open_ones)))]
        parts = []
        for i in chosen:
            left = lengths[i] - done[i]
            size = min(left, draw(st.sampled_from([1, 2, 15, 16, 17, 40, 100, 256, 320])))
            parts.append(Part(i, done[i], done[i] + size))
            done[i] += size
        steps.append(parts)
    return lengths, steps


@settings(max_examples=25)
@given(
    ragged_steps(),
    st.sampled_from(BUILDS or [""]),
    st.sampled_from([Heads(), Heads(1, 4, 80), Heads(2, 1, 32, "int8"), Heads(1, 7, 16)]),
    st.sampled_from([16, 32, 64]),
    st.integers(1, 3),
)
def test_any_ragged_steps(
    case: tuple[tuple[int, ...], list[list[Part]]],
    name: str,
    heads: Heads,
    block_size: int,
    threads: int,
) -> None:
    lengths, steps = case
    cpu.set_threads(1)
    whole = Sequences(heads, lengths, kernels=name).at_once()
    cpu.set_threads(threads)
    same(whole, Sequences(heads, lengths, block_size, kernels=name).run(steps))


def test_blocks_are_cleared_and_copied() -> None:
    rng = np.random.default_rng(0)
    row = cpu.cache_row_bytes("bf16", 16, 32)
    cache = rng.integers(1, 255, (3, 2, 5 * 2, row), np.uint8)
    before = cache.copy().reshape(3, 2, 5, -1)
    cpu.cache_copy(cache, 2, np.array([0, 1, 2], np.int32), np.array([1, 2, 0], np.int32))
    cpu.cache_clear(cache, 2, np.array([4], np.int32))
    after = cache.reshape(3, 2, 5, -1)
    np.testing.assert_array_equal(after[:, :, [1, 2, 0, 3]], before[:, :, [0, 1, 2, 3]])
    assert not after[:, :, 4].any()
    with pytest.raises(ValueError, match="block 5 is not in the cache of 5 blocks"):
        cpu.cache_clear(cache, 2, np.array([5], np.int32))


def test_row_bytes() -> None:
    assert cpu.cache_row_bytes("bf16", 16, 64) == 16 * 64 * 2
    assert cpu.cache_row_bytes("int8", 32, 80) == 32 * (80 + 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bf16", 9, 3, 72, 16), "head size is 72; .* a multiple of 16 up to 256"),
        (("bf16", 9, 3, 272, 16), "head size is 272"),
        (("bf16", 9, 3, 64, 8), "block size is 8"),
        (("bf16", 9, 3, 64, 272), "block size is 272"),
        (("bf16", 9, 4, 64, 16), "9 query heads are no multiple of 4"),
        (("fp8", 9, 3, 64, 16), "the cache's format is 'fp8'; choose bf16 or int8"),
    ],
)
def test_shapes_that_it_does_not_know(
    arguments: tuple[str, int, int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cpu.AttentionShape(*arguments)
