from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kernels.extension import load_extension
from headrace.nouns.sequence import Sequence, Status
from headrace.nouns.step import Sampled
from headrace.sampling import sampler as sampler_module
from headrace.sampling.chooser import Chooser
from headrace.sampling.native_chooser import NativeChooser
from headrace.sampling.sampler import Sampler
from headrace.sampling.torch_chooser import TorchChooser
from tests.sampling.sequences import random_logits, sequence


@pytest.fixture(params=["torch", "native"], scope="module", autouse=True)
def chooser(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here runs on both: the reference, and the C++ kernels where they are built."""
    made: Chooser = TorchChooser()
    if request.param == "native":
        module = load_extension().module
        if module is None:
            pytest.skip("the C++ extension is not built")
        made = NativeChooser(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_module, "find_chooser", lambda: (made, "asked for"))
        yield request.param


def one(logits: torch.Tensor, made: Sequence) -> Sampled:
    return Sampler(logits.shape[-1]).sample(logits.view(1, -1), [made])[0]


def test_greedy_is_the_lowest_of_the_most_likely() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [-1.0, -1.0, -2.0]])
    got = Sampler(3).sample(logits, [sequence(temperature=0.0) for _ in range(2)])
    assert got == [Sampled(1), Sampled(0)]


def test_no_rows() -> None:
    assert Sampler(5).sample(torch.zeros(0, 5), []) == []


@pytest.mark.parametrize("shape", [(1, 5), (2, 4), (10,)])
def test_a_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected float32 \[2, 5\]"):
        Sampler(5).sample(torch.zeros(shape), [sequence(), sequence()])


def test_arrays_are_sampled_as_tensors_are() -> None:
    logits = random_logits(6, 700)
    logits[4, 3], logits[5] = math.nan, -math.inf
    rows = [
        sequence(temperature=0.0),
        sequence(seed=1, output=(1, 2), repetition_penalty=1.5, logit_bias=((3, 5.0),)),
        sequence(seed=2, output=(1, 1, 4), frequency_penalty=0.5, presence_penalty=-1.0, top_p=0.9),
        sequence(seed=3, logprobs=3, min_tokens=5, stop_token_ids=(7,)),
        sequence(seed=4, logprobs=3),
        sequence(seed=5, output=(1,), presence_penalty=1.0),
    ]
    expected = Sampler(700).sample(logits, rows)
    assert Sampler(700).sample(logits.numpy(), rows) == expected
    assert [got.error is None for got in expected] == [True] * 4 + [False] * 2
    wide = np.zeros((6, 704), dtype=np.float32)  # as the decoder gives them
    wide[:, :700] = logits.numpy()
    assert Sampler(700).sample(wide[:, :700], rows) == expected


def test_logits_stay_as_they_are() -> None:
    logits = random_logits(4, 700)
    before = logits.clone()
    rows = [
        sequence(output=(1, 2), repetition_penalty=1.5, logit_bias=((3, 5.0),)),
        sequence(min_tokens=3, stop_token_ids=(4,), logprobs=2),
        sequence(top_p=0.9),
        sequence(min_p=0.1),
    ]
    Sampler(700).sample(logits, rows)
    assert torch.equal(logits, before)


def test_a_cold_temperature_is_greedy_and_overflows_nothing() -> None:
    logits = random_logits(1, 1000)[0]
    for temperature in (1e-4, 1e-30, 1e-300):
        for k in (0, 5):
            got = one(logits, sequence(temperature=temperature, top_k=k))
            assert got.token == int(logits.argmax())


def test_huge_finite_logits_are_no_error() -> None:
    logits = torch.tensor([3e38, -3e38, 0.0])
    assert one(logits, sequence()) == Sampled(0)


class TestErrors:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize(
        "params",
        [
            {"temperature": 0.0},
            {},
            {"top_p": 0.9, "logprobs": 2},
            {"repetition_penalty": 1.2, "min_tokens": 5, "stop_token_ids": (3,)},
        ],
    )
    def test_only_the_row_itself_ends(self, bad: float, params: dict[str, object]) -> None:
        logits = random_logits(5, 300)
        rows = [sequence(seed=r, **params) for r in range(5)]
        expected = Sampler(300).sample(logits, rows)
        logits[2, 100 if bad != -math.inf else slice(None)] = bad
        got = Sampler(300).sample(logits, rows)
        assert got[2].error is not None
        assert ("NaN" in got[2].error) == (bad != -math.inf)
        assert got[2].token == -1
        assert got[:2] + got[3:] == expected[:2] + expected[3:]
        assert all(row.error is None for row in expected)

    def test_infinities_of_the_ruled_out_kind_are_legal(self) -> None:
        logits = torch.full((300,), -math.inf)
        logits[[7, 250]] = torch.tensor([1.0, 1.5])
        for params in ({}, {"top_k": 5}, {"top_p": 0.99}, {"min_p": 0.01}, {"temperature": 0.0}):
            tokens = {one(logits, sequence(seed=s, **params)).token for s in range(40)}
            assert tokens == ({250} if params == {"temperature": 0.0} else {7, 250})

    def test_nothing_left_to_choose_from(self) -> None:
        logits = torch.full((4,), -math.inf)
        logits[2] = 0.0
        got = one(logits, sequence(temperature=0.0, min_tokens=1, stop_token_ids=(2,)))
        assert got.error == (
            "after penalties, biases and min_tokens: all 4 logits are -inf, so no token is allowed"
        )

    def test_a_bias_outside_the_vocabulary(self) -> None:
        got = one(torch.zeros(4), sequence(logit_bias=((4, 1.0),)))
        assert got.error == (
            "logit_bias names token 4; this model's vocabulary has 4 tokens, so ids end at 3"
        )


class TestEdits:
    def test_bias_forces_and_forbids(self) -> None:
        logits = random_logits(1, 1000)[0]
        assert one(logits, sequence(logit_bias=((17, 100.0),))).token == 17
        top = int(logits.argmax())
        forbidden = one(logits, sequence(temperature=0.0, logit_bias=((top, -100.0),)))
        assert forbidden.token == int(logits.topk(2).indices[1])

    @pytest.mark.parametrize("presence", [0.0, 0.01])
    def test_min_tokens_holds_ends_off_until_reached(self, presence: float) -> None:
        logits = torch.tensor([0.0, 9.0, 8.0, 7.0])
        made = sequence(
            temperature=0.0,
            presence_penalty=presence,
            min_tokens=2,
            stop_token_ids=(2, 99),
            eos_ids=frozenset({1}),
        )
        sampler = Sampler(4)
        tokens = []
        for _ in range(3):
            token = sampler.sample(logits[None], [made])[0].token
            tokens.append(token)
            made.tokens.append(token)
        assert tokens == [3, 3, 1]

    def test_penalties_follow_the_growing_sequence(self) -> None:
        logits = torch.tensor([1.0, 0.9, 0.8, 0.0])
        made = sequence(prompt=(0,), temperature=0.0, presence_penalty=0.15)
        sampler = Sampler(4)
        for _ in range(6):
            token = sampler.sample(logits[None], [made])[0].token
            assert token == one(logits, made).token
            made.tokens.append(token)
        # The prompt's 0 is not penalised; each put out once loses 0.15, once.
        assert made.tokens[1:] == [0, 1, 0, 0, 0, 0]
        made = sequence(prompt=(0,), temperature=0.0, frequency_penalty=0.15)
        for _ in range(5):
            made.tokens.append(sampler.sample(logits[None], [made])[0].token)
        assert made.tokens[1:] == [0, 1, 0, 2, 1]

    def test_repetition_counts_the_prompt(self) -> None:
        logits = torch.tensor([1.0, 0.9])
        made = sequence(prompt=(0,), temperature=0.0, repetition_penalty=1.5)
        assert one(logits, made).token == 1


class TestLogprobs:
    @pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}, {}])
    def test_are_the_models_own_whatever_is_done_to_the_draw(
        self, params: dict[str, object], chooser: str
    ) -> None:
        logits = random_logits(1, 500)[0]
        made = sequence(
            logprobs=4, output=(3, 4), frequency_penalty=1.0, logit_bias=((2, 3.0),), **params
        )
        got = one(logits, made)
        ids = logits.topk(4).indices.tolist()
        assert got.logprob is not None
        assert [i for i, _ in got.top] == ids
        found = [got.logprob, *(value for _, value in got.top)]
        if chooser == "torch":
            expected = logits.log_softmax(-1)
            assert found == [expected[i].item() for i in (got.token, *ids)]
        exact = logits.double().log_softmax(-1)
        assert found == pytest.approx([exact[i].item() for i in (got.token, *ids)], rel=1e-6)

    def test_zero_means_the_chosen_one_only(self) -> None:
        got = one(random_logits(1, 50)[0], sequence(temperature=0.0, logprobs=0))
        assert got.logprob is not None
        assert got.top == ()


class TestState:
    def test_forgotten_and_ended_sequences_are_dropped(self) -> None:
        sampler = Sampler(8)
        rows = [sequence(seed=s, presence_penalty=1.0) for s in range(10)]
        sampler.sample(torch.zeros(10, 8), rows)
        for row in rows[:5]:
            row.status = Status.FINISHED
        sampler.forget(rows[9])
        sampler.sample(torch.zeros(1, 8), [sequence()])
        assert len(sampler._rows) == 5

    def test_forgetting_changes_nothing(self) -> None:
        sampler, logits = Sampler(8), random_logits(1, 8)
        made = sequence(output=(1, 2, 2), repetition_penalty=1.3, frequency_penalty=0.7)
        before = sampler.sample(logits, [made])
        sampler.forget(made)
        assert sampler.sample(logits, [made]) == before


PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 1.7]),
        "top_k": st.sampled_from([1, 3, 40, 64, 65, 700]),
        "top_p": st.sampled_from([0.1, 0.5, 0.9, 0.99]),
        "min_p": st.sampled_from([0.01, 0.1]),
        "repetition_penalty": st.sampled_from([0.8, 1.1]),
        "presence_penalty": st.sampled_from([-0.5, 0.5]),
        "frequency_penalty": st.sampled_from([-0.3, 0.3]),
        "logit_bias": st.just(((5, 2.5), (7, -1.5))),
        "logprobs": st.sampled_from([0, 1, 5, 20]),
        "min_tokens": st.just(4),
        "stop_token_ids": st.just((1, 9)),
    },
)
ROW = st.tuples(PARAMS, st.integers(0, 2**64 - 1), st.integers(0, 3), st.integers(0, 6))


@settings(max_examples=120, deadline=None)
@given(
    st.lists(ROW, min_size=1, max_size=40),
    st.integers(0, 10**6),
    st.sampled_from([10, 255, 1000, 3001]),
    st.booleans(),
    st.data(),
)
def test_a_row_is_the_same_alone_and_in_any_batch(
    rows: list[tuple[dict[str, object], int, int, int]],
    seed: int,
    vocab: int,
    coarse: bool,
    data: st.DataObject,
) -> None:
    logits = random_logits(len(rows), vocab, seed, scale=2.0)
    if coarse:
        logits = logits.bfloat16().float()
    made = [
        sequence(prompt=(3, 8, 3), output=tuple(range(n)), seed=s, index=i, **params)
        for params, s, i, n in rows
    ]
    together = Sampler(vocab).sample(logits, made)
    assert all(row.error is None for row in together)
    order = data.draw(st.permutations(range(len(rows))))
    part = order[: data.draw(st.integers(1, len(rows)))]
    assert Sampler(vocab).sample(logits[part], [made[r] for r in part]) == [
        together[r] for r in part
    ]
    for r in part[:5]:
        assert one(logits[r], made[r]) == together[r]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("vocab", [49152, 32003])
def test_the_same_at_the_size_of_real_vocabularies(vocab: int, threads: int) -> None:
    kinds: list[dict[str, object]] = [
        {},
        {"min_p": 0.05, "logprobs": 3},
        {"top_k": 50},
        {"top_k": 2000, "top_p": 0.8},
        {"top_p": 0.95, "repetition_penalty": 1.1},
        {"top_p": 0.9, "min_p": 0.02, "temperature": 0.6},
        {"temperature": 0.0, "logprobs": 5, "frequency_penalty": 0.5},
    ]
    rows = 28
    logits = random_logits(rows, vocab, scale=2.5)
    made = [sequence(output=(1, 2, 3), seed=r, **kinds[r % len(kinds)]) for r in range(rows)]
    before = torch.get_num_threads()
    together = Sampler(vocab).sample(logits, made)
    try:
        torch.set_num_threads(threads)
        for r in range(0, rows, 3):
            assert one(logits[r], made[r]) == together[r]
    finally:
        torch.set_num_threads(before)


def _spread(vocab: int, draws: int, **params: object) -> torch.Tensor:
    """How often each token is drawn from fixed logits, over seeds, indices and positions."""
    logits = random_logits(1, vocab, seed=5, scale=1.0)[0]
    sampler = Sampler(vocab)
    counts = torch.zeros(vocab, dtype=torch.float64)
    for batch in range(draws // 500):
        made = [
            sequence(seed=batch, index=i % 5, output=(0,) * (i // 5), **params) for i in range(500)
        ]
        got = sampler.sample(logits.expand(500, vocab), made)
        counts += torch.bincount(torch.tensor([row.token for row in got]), minlength=vocab)
        for row in made:
            sampler.forget(row)
    return counts


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.8, "min_p": 0.15},
        {"top_k": 20},
        {"top_p": 0.7},
        {"top_p": 0.97, "temperature": 1.5},
        {"top_k": 90, "top_p": 0.8, "min_p": 0.05},
    ],
)
def test_tokens_come_as_often_as_they_should(params: dict[str, float]) -> None:
    vocab, n = 300, 20_000
    counts = _spread(vocab, n, **params)
    logits = random_logits(1, vocab, seed=5, scale=1.0)[0].double() / params.get("temperature", 1.0)
    probability, ids = logits.softmax(-1).sort(descending=True)
    kept = torch.arange(vocab) < params.get("top_k", vocab)
    probability = probability * kept / (probability * kept).sum()
    kept &= probability.cumsum(-1) - probability < params.get("top_p", 1.0)
    kept &= probability >= params.get("min_p", 0.0) * probability[0]
    expected = torch.zeros(vocab, dtype=torch.float64)
    expected[ids] = n * probability * kept / (probability * kept).sum()
    assert counts[expected == 0].sum() == 0
    inside = expected > 0
    chi_square = ((counts - expected) ** 2 / expected)[inside].sum().item()
    freedom = int(inside.sum()) - 1
    # Five standard deviations of a chi-square variable either way.
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_sequences_of_a_request_differ_and_repeat() -> None:
    logits = torch.zeros(1, 1000)

    def run(seed: int, index: int) -> list[int]:
        made: Sequence = sequence(seed=seed, index=index)
        sampler = Sampler(1000)
        for _ in range(20):
            made.tokens.append(sampler.sample(logits, [made])[0].token)
        return made.tokens

    assert run(1, 0) == run(1, 0)
    assert len({tuple(run(seed, index)) for seed in (1, 2) for index in range(3)}) == 6
