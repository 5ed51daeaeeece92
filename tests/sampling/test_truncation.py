from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from headrace.sampling.distribution import weigh
from headrace.sampling.draws import Draws
from headrace.sampling.nucleus import keep_nucleus
from headrace.sampling.truncation import truncate
from tests.sampling.sequences import random_logits


def draws(logits: torch.Tensor, t: float, k: int = 0, p: float = 1.0, m: float = 0.0) -> Draws:
    rows = len(logits)
    return Draws(
        peak=logits.amax(-1),
        temperature=torch.full((rows,), t),
        top_k=torch.full((rows,), k or 2**31),
        top_p=torch.full((rows,), p if p < 1 else 2.0, dtype=torch.float64),
        min_p=torch.full((rows,), m),
        uniform=torch.zeros(rows, dtype=torch.float64),
    )


def reference(logits: torch.Tensor, t: float, k: int, p: float, m: float) -> torch.Tensor:
    """Probabilities after the processors of transformers, in its order."""
    steps = LogitsProcessorList([TemperatureLogitsWarper(t)])
    if k:
        steps.append(TopKLogitsWarper(k))
    if p < 1:
        steps.append(TopPLogitsWarper(p))
    if m:
        steps.append(MinPLogitsWarper(m))
    scores: torch.Tensor = steps(torch.zeros(len(logits), 1).long(), logits.clone())
    return scores.double().softmax(-1)


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal distributions, but for tokens whose inclusion hangs on a rounding error."""
    ours = ours.double() / ours.double().sum(-1, keepdim=True)
    one_sided = (ours > 0) != (theirs > 0)
    assert int(one_sided.sum()) <= len(ours) // 4
    rows = ~one_sided.any(-1)
    torch.testing.assert_close(ours[rows], theirs[rows], rtol=1e-4, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([7, 300, 2000]),
    st.floats(0.3, 2.0),
    st.one_of(st.just(0), st.integers(1, 400)),
    st.one_of(st.just(1.0), st.floats(0.05, 0.999)),
    st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
)
def test_parity_with_transformers(
    seed: int, vocab: int, t: float, k: int, p: float, m: float
) -> None:
    logits = random_logits(8, vocab, seed)
    ids, weights, kept = truncate(logits, draws(logits, t, k, p, m), vocab)
    weights = weights.masked_fill(torch.arange(vocab) >= kept[:, None], 0.0)
    agree(torch.zeros_like(logits).scatter(-1, ids, weights), reference(logits, t, k, p, m))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 2.0), st.floats(0.01, 0.999), st.booleans())
def test_a_nucleus_without_a_sort_is_the_ranked_one(
    seed: int, t: float, p: float, coarse: bool
) -> None:
    logits = random_logits(4, 1500, seed)
    if coarse:
        logits = logits.bfloat16().float()
    how = draws(logits, t, p=p)
    ids, weights, kept = truncate(logits, how, 1500)
    ranked = weights.masked_fill(torch.arange(1500) >= kept[:, None], 0.0)
    ranked = torch.zeros_like(logits).scatter(-1, ids, ranked)
    linear = weigh(logits, how)
    keep_nucleus(linear, logits, how.top_p)
    assert int(((linear > 0) != (ranked > 0)).sum()) <= 1
    agree(linear, ranked.double() / ranked.double().sum(-1, keepdim=True))


def test_equal_logits_are_kept_from_the_lowest_id() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 2.0, 0.0]])
    ids, _, kept = truncate(logits, draws(logits, 1.0, k=2), 6)
    assert ids[0, : int(kept)].tolist() == [1, 2]
    how = draws(logits, 1.0, p=0.4)
    ids, _, kept = truncate(logits, how, 6)
    assert ids[0, : int(kept)].tolist() == [1, 2]
    linear = weigh(logits, how)
    keep_nucleus(linear, logits, how.top_p)
    assert linear.nonzero()[:, 1].tolist() == [1, 2]


def test_a_mass_of_exactly_top_p_is_enough() -> None:
    logits = torch.zeros(1, 8)
    how = draws(logits, 1.0, p=0.5)
    assert truncate(logits, how, 8)[2].item() == 4
    linear = weigh(logits, how)
    keep_nucleus(linear, logits, how.top_p)
    assert linear.tolist() == [[1.0] * 4 + [0.0] * 4]


@pytest.mark.parametrize("p", [1e-9, 0.3])
def test_the_most_likely_token_is_always_kept(p: float) -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0]])
    how = draws(logits, 1.0, k=3, p=p, m=1.0)
    ids, _, kept = truncate(logits, how, 3)
    assert ids[0, : int(kept)].tolist() == [1]
    linear = weigh(logits, how)
    keep_nucleus(linear, logits, how.top_p)
    assert linear.nonzero()[:, 1].tolist() == [1]


def test_a_narrow_width_says_when_the_prefix_may_go_on() -> None:
    logits = random_logits(50, 3000, scale=1.0)
    how = draws(logits, 1.0, p=0.5)
    full = truncate(logits, how, 3000)[2]
    kept = truncate(logits, how, 200)[2]
    inside = full < 200
    assert torch.equal(kept[inside], full[inside])
    assert (kept[~inside] == 200).all()
    assert not inside.all()
