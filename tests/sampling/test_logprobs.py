from __future__ import annotations

import math

import torch

from headrace.sampling.logprobs import log_probabilities
from tests.sampling.sequences import random_logits


def test_values_are_those_of_log_softmax() -> None:
    logits = random_logits(6, 49152)
    expected = torch.log_softmax(logits, -1)
    chosen = [5, 0, 49151, 17, 300, 4000]
    found = log_probabilities(logits, chosen, [3, 0, 20, 1, 5, 5])
    for r, (own, top) in enumerate(found):
        assert own == expected[r, chosen[r]].item()
        assert len(top) == [3, 0, 20, 1, 5, 5][r]
        assert [i for i, _ in top] == expected[r].topk(20).indices[: len(top)].tolist()
        assert [v for _, v in top] == [expected[r, i].item() for i, _ in top]
    exact = torch.log_softmax(logits.double(), -1)
    torch.testing.assert_close(expected.double(), exact, rtol=1e-5, atol=1e-5)


def test_without_top_there_is_only_the_chosen_one() -> None:
    logits = random_logits(2, 10)
    assert [top for _, top in log_probabilities(logits, [1, 2], [0, 0])] == [(), ()]


def test_ruled_out_tokens_are_not_among_the_most_likely() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    [(own, top)] = log_probabilities(logits, [3], [4])
    assert math.isclose(own, -math.log(2), rel_tol=1e-6)
    assert [i for i, _ in top] == [1, 3]


def test_more_asked_for_than_the_vocabulary_has() -> None:
    [(_, top)] = log_probabilities(torch.tensor([[0.0, 1.0, 0.5]]), [0], [20])
    assert [i for i, _ in top] == [1, 2, 0]
