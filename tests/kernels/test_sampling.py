"""The passes of sampling in C++, on every instruction set that this processor runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kernels.extension import load_extension
from headrace.sampling.chooser import Columns
from headrace.sampling.native_chooser import NativeChooser
from headrace.sampling.penalties import Edit, apply
from headrace.sampling.random import stream, uniforms
from headrace.sampling.recipe import Recipe
from headrace.sampling.torch_chooser import TorchChooser
from tests.sampling.sequences import random_logits, sequence

cpu: Any = load_extension().module
NAMES = ("avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "portable")
EVERYTHING = 2**31

Floats = npt.NDArray[np.float32]


def runs(name: str) -> bool:
    try:
        cpu.most_likely(np.zeros((1, 1), np.float32), name)
    except ValueError:
        return False
    return True


BUILDS = [name for name in NAMES if cpu is not None and runs(name)]
pytestmark = pytest.mark.skipif(cpu is None, reason="the C++ extension is not built")

KINDS: tuple[dict[str, object], ...] = (
    {"temperature": 0.0},
    {},
    {"temperature": 0.7},
    {"min_p": 0.02, "temperature": 1.3},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 40, "top_p": 0.8},
    {"top_k": 700, "min_p": 0.01},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"top_p": 0.99, "temperature": 2.0},
    {"top_p": 0.9, "min_p": 0.01, "temperature": 1.5},
)


def columns_of(kinds: list[dict[str, object]], vocab: int) -> Columns:
    return Columns.of([Recipe.of(sequence(seed=i, **k), vocab) for i, k in enumerate(kinds)])


def choose(
    logits: Floats, kinds: list[dict[str, object]], build: str, rows: list[int]
) -> list[int]:
    """Tokens of ``rows``, whose kinds and seeds go by their number."""
    columns = columns_of(kinds, logits.shape[1]).take(rows)
    positions = [10 + r for r in rows]
    return NativeChooser(cpu, build).choose(torch.from_numpy(logits), rows, columns, positions)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 49152])
def test_the_most_likely_is_the_first_of_equals(build: str, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = rng.integers(-3, 3, (40, vocab)).astype(np.float32)
    logits[1] = -np.inf
    logits[1, vocab // 2] = -1e38
    logits[2] = -0.0
    logits[2, vocab // 2 :] = 0.0
    assert cpu.most_likely(logits, build) == logits.argmax(-1).tolist()
    assert cpu.most_likely(logits[3:4], build) == [int(logits[3].argmax())]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("vocab", [1, 16, 65, 300, 1025])
def test_rows_that_are_not_sound_are_found_wherever_the_fault_is(build: str, vocab: int) -> None:
    for bad in (np.nan, np.inf, -np.nan):
        for place in {0, vocab // 3, vocab - 1}:
            logits = random_logits(3, vocab).numpy().copy()
            logits[1, place] = bad
            expected = logits.argmax(-1).tolist()
            expected[1] = -1
            assert cpu.most_likely(logits, build) == expected
            for kind in KINDS:
                assert choose(logits, [kind] * 3, build, [1]) == [-1]
    logits[1] = -np.inf
    assert cpu.most_likely(logits, build)[1] == -1


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(("vocab", "coarse"), [(49152, False), (49152, True), (3001, False)])
def test_tokens_are_those_of_the_reference(build: str, vocab: int, coarse: bool) -> None:
    """A draw within rounding of the border between two tokens may differ: at most one here."""
    kinds = [*KINDS] * 6
    logits = random_logits(len(kinds), vocab, seed=vocab, scale=2.5)
    if coarse:
        logits = logits.bfloat16().float()
    columns, rows = columns_of(kinds, vocab), list(range(len(kinds)))
    expected = TorchChooser().choose(logits, rows, columns, [10 + r for r in rows])
    found = choose(logits.numpy(), kinds, build, rows)
    assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 1
    greedy = [r for r in rows if kinds[r] == {"temperature": 0.0}]
    assert [found[r] for r in greedy] == [expected[r] for r in greedy]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(BUILDS or [""]),
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=12),
    st.sampled_from([1, 10, 255, 1000, 3001]),
    st.integers(0, 10**6),
    st.booleans(),
    st.data(),
)
def test_a_row_is_the_same_alone_in_any_batch_and_on_any_threads(
    build: str, kinds: list[dict[str, object]], vocab: int, seed: int, coarse: bool,
    data: st.DataObject,
) -> None:  # fmt: skip
    wide = random_logits(len(kinds), vocab + 5, seed)
    logits = (wide.bfloat16().float() if coarse else wide).numpy()[:, :vocab]  # rows with gaps
    everything = list(range(len(kinds)))
    together = choose(logits, kinds, build, everything)
    assert all(0 <= token < vocab for token in together)
    part = data.draw(st.permutations(everything))[: data.draw(st.integers(1, len(kinds)))]
    cpu.set_threads(data.draw(st.sampled_from([1, 2, 3])))
    try:
        assert choose(logits, kinds, build, part) == [together[r] for r in part]
        assert choose(np.ascontiguousarray(logits), kinds, build, everything) == together
        for r in part[:3]:
            assert choose(logits, kinds, build, [r]) == [together[r]]
    finally:
        cpu.set_threads(1)


@pytest.mark.parametrize("build", BUILDS)
def test_draws_are_those_of_the_stated_generator(build: str) -> None:
    """With equal logits the token is floor(u * V); every sum is exact."""
    vocab, count = 4096, 500
    logits = np.zeros((count, vocab), np.float32)
    streams = [stream(7 * i, i % 5) for i in range(count)]
    positions = [3 * i for i in range(count)]
    whole = np.full(count, EVERYTHING, np.int64)
    found = cpu.choose_tokens(
        logits, np.arange(count, dtype=np.int32), np.ones(count, np.float32), whole,
        np.full(count, 2.0), np.zeros(count, np.float32), np.array(streams, np.uint64),
        np.array(positions, np.int64), None, build,
    )  # fmt: skip
    assert found == np.floor(uniforms(streams, positions) * vocab).astype(int).tolist()


def edits_of(count: int, vocab: int, seed: int) -> list[Edit]:
    """Random edits, with lists of every length, none and all tokens among them."""
    rng = np.random.default_rng(seed)
    edits = []
    for _ in range(count):
        seen, biased, out = (
            rng.permutation(vocab)[: rng.integers(0, min(vocab, 40) + 1)] for _ in range(3)
        )
        edits.append(
            Edit(
                seen=seen,
                outputs=rng.integers(0, 4, len(seen)).astype(np.float32),
                repetition=float(rng.choice([1.0, 0.8, 1.3])),
                presence=float(rng.choice([0.0, -0.5, 0.7])),
                frequency=float(rng.choice([0.0, -0.3, 0.2])),
                bias_ids=biased,
                biases=rng.normal(0, 3, len(biased)).astype(np.float32),
                suppressed=out[: vocab - 1],
            )
        )
    return edits


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("vocab", [2, 70, 3001])
def test_edits_are_those_of_the_reference_bit_for_bit(build: str, vocab: int) -> None:
    kinds, rows = [*KINDS] * 3, list(range(3 * len(KINDS)))
    logits = random_logits(len(rows), vocab, seed=1).numpy()
    before = logits.copy()
    edits, columns = edits_of(len(rows), vocab, 7), columns_of(kinds, vocab)
    chooser, positions = NativeChooser(cpu, build), [5] * len(rows)
    found = chooser.choose(torch.from_numpy(logits), rows, columns, positions, edits)
    assert np.array_equal(logits, before)
    apply(logits, edits)
    assert found == chooser.choose(torch.from_numpy(logits), rows, columns, positions)


@pytest.mark.parametrize("build", BUILDS)
def test_a_row_has_to_be_sound_before_and_after_its_edit(build: str) -> None:
    logits = np.zeros((3, 20), np.float32)
    logits[0, 4] = np.nan
    hide, all_of_them = np.array([4]), np.arange(20)
    edits = [Edit(suppressed=hide), Edit(suppressed=all_of_them), Edit(suppressed=hide)]
    columns = columns_of([{"temperature": 0.0}] * 3, 20)
    chooser = NativeChooser(cpu, build)
    found = chooser.choose(torch.from_numpy(logits), [0, 1, 2], columns, [0] * 3, edits)
    assert found == [-1, -1, 0]


def test_edits_that_would_write_elsewhere_are_refused() -> None:
    columns = columns_of([{}, {}], 20)
    logits = torch.zeros(2, 20)
    chooser = NativeChooser(cpu)
    for bad in (20, -1):
        edits = [Edit(), Edit(suppressed=np.array([bad]))]
        with pytest.raises(ValueError, match=f"token {bad} is not in the vocabulary"):
            chooser.choose(logits, [0, 1], columns, [0, 0], edits)
    with pytest.raises(ValueError, match="one value for each row"):
        chooser.choose(logits, [0, 1], columns, [0, 0], [Edit()])
    none, ends = np.zeros(0, np.int64), np.array([2, 1])
    floats = np.zeros(2, np.float32)
    wrong = cpu.Edits(
        repetition=floats, frequency=floats, presence=floats, seen_ends=ends, seen=np.arange(2),
        outputs=floats, biased_ends=ends * 0, biased=none, biases=floats[:0],
        suppressed_ends=ends * 0, suppressed=none,
    )  # fmt: skip
    with pytest.raises(ValueError, match="ends of lists must rise"):
        cpu.choose_tokens(
            logits.numpy(), np.arange(2, dtype=np.int32), columns.temperature, columns.top_k,
            columns.top_p, columns.min_p, columns.streams, np.zeros(2, np.int64), wrong,
        )  # fmt: skip


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("p", [0.0001, 0.25, 0.5, 0.75, 0.9999])
def test_a_nucleus_of_equals_keeps_the_lowest_ids(build: str, p: float) -> None:
    vocab, count = 4096, 300
    logits = np.zeros((count, vocab), np.float32)
    found = choose(logits, [{"top_p": p}] * count, build, list(range(count)))
    kept = max(1, int(np.ceil(p * vocab)))
    assert max(found) < kept
    assert max(found) > 0.9 * kept - 2  # and all of those


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("vocab", [1, 2, 17, 64, 65, 300, 1000, 49152])
def test_log_probabilities_are_close_to_exact(build: str, vocab: int) -> None:
    rows = 5
    logits = random_logits(rows, vocab, scale=4.0).numpy().copy()
    if vocab > 100:
        logits[0] = np.round(logits[0])  # equals, also across the cut
        logits[1, 5:] = -np.inf
    count = min(20, vocab)
    chosen = np.array([3 % vocab] * rows, np.int32)
    index = np.arange(rows, dtype=np.int32)
    own, ids, values = cpu.log_probabilities(logits, index, chosen, count, build)
    wide = logits.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    exact = wide - top - np.log(np.exp(wide - top).sum(-1, keepdims=True))
    ranked = np.argsort(-logits, axis=-1, kind="stable")[:, :count]
    assert ids.tolist() == ranked.tolist()
    np.testing.assert_allclose(own, exact[:, 3 % vocab], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(values, np.take_along_axis(exact, ranked, -1), rtol=1e-6, atol=1e-6)
    for r in range(rows):
        alone = cpu.log_probabilities(logits, index[r : r + 1], chosen[:1], count, build)
        assert alone[0] == own[r : r + 1]
        assert np.array_equal(alone[2][0], values[r])


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("k", [1, 2, 63, 64, 300, 400, 999, 5000])
def test_the_ranking_is_exact_among_equals(build: str, k: int) -> None:
    logits = np.round(random_logits(3, 6000).numpy() * 4)
    logits[2] = 1.0
    zeros = np.zeros(3, np.int32)
    _, ids, _ = cpu.log_probabilities(logits, np.arange(3, dtype=np.int32), zeros, k, build)
    assert ids.tolist() == np.argsort(-logits, axis=-1, kind="stable")[:, :k].tolist()


def test_wrong_arguments_are_refused() -> None:
    logits = np.zeros((2, 8), np.float32)
    one = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="no kernels named mmx"):
        cpu.most_likely(logits, "mmx")
    with pytest.raises(ValueError, match="each row in one piece"):
        cpu.most_likely(np.zeros((8, 2), np.float32).T)
    with pytest.raises(TypeError):
        cpu.most_likely(np.zeros((2, 8)))
    with pytest.raises(ValueError, match="row 2 of 2 rows"):
        cpu.log_probabilities(logits, one + 2, one, 0)
    with pytest.raises(ValueError, match="token 8 is not in the vocabulary"):
        cpu.log_probabilities(logits, one, one + 8, 0)
    with pytest.raises(ValueError, match="more log-probabilities"):
        cpu.log_probabilities(logits, one, one, 9)
    with pytest.raises(ValueError, match="one value for each row"):
        cpu.log_probabilities(logits, one, np.zeros(2, np.int32), 0)
    columns = columns_of([{}], 8)
    with pytest.raises(ValueError, match="temperatures are at least 0"):
        cpu.choose_tokens(
            logits, one, np.full(1, np.nan, np.float32), columns.top_k, columns.top_p,
            columns.min_p, columns.streams, np.zeros(1, np.int64),
        )  # fmt: skip
