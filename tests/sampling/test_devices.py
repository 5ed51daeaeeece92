"""Sampling where the logits are: the same choices on a GPU as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.sampling.distribution import invert, total, weigh
from headrace.sampling.draws import Draws
from headrace.sampling.native_chooser import find_chooser
from headrace.sampling.penalties import Edit, apply
from headrace.sampling.sampler import Sampler
from headrace.sampling.torch_chooser import TorchChooser
from tests.sampling.sequences import sequence
from tests.support.dataless import no_data
from tests.support.devices import needs_cuda

MIXES = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 5},
    {"temperature": 0.9, "logprobs": 2},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 1.3, "top_p": 0.95, "min_p": 0.001},
    {"temperature": 1.0, "top_p": 0.999},
    {"temperature": 0.8, "repetition_penalty": 1.2, "frequency_penalty": 0.4},
]


def test_logits_of_a_gpu_are_not_given_to_the_kernels_of_the_cpu() -> None:
    chooser, why = find_chooser("cuda:0")
    assert isinstance(chooser, TorchChooser)
    assert why == "the logits are on cuda:0"


def test_weights_and_draws_stay_where_the_logits_are() -> None:
    with no_data():
        cuda = torch.device("cuda", 0)
        rows = {name: torch.empty(3, device=cuda) for name in ("peak", "temperature", "min_p")}
        wide = {
            name: torch.empty(3, dtype=torch.float64, device=cuda) for name in ("top_p", "uniform")
        }
        top_k = torch.empty(3, dtype=torch.int64, device=cuda)
        draws = Draws(**rows, **wide, top_k=top_k)
        weights = weigh(torch.empty(3, 1000, device=cuda), draws)
        assert weights.device == total(weights).device == cuda
        assert invert(weights, draws.uniform).device == cuda


@needs_cuda
@pytest.mark.parametrize("vocab", [300, 50_000])
def test_a_gpu_chooses_what_the_cpu_chooses(vocab: int) -> None:
    """Draws may differ where a number falls on the border of two tokens; with these it does not."""
    logits = 3 * torch.randn(len(MIXES), vocab, generator=torch.Generator().manual_seed(1))
    logits[0, 7] = logits[0, 3] = 40.0  # equals: the lower id
    rows = [sequence(seed=i, **mix) for i, mix in enumerate(MIXES)]
    expected = Sampler(vocab, TorchChooser()).sample(logits, rows)
    found = Sampler(vocab, find_chooser("cuda")[0]).sample(logits.cuda(), rows)
    assert [s.token for s in found] == [s.token for s in expected]
    assert found[0].token == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.logprob is None) == (theirs.logprob is None)
        if ours.logprob is not None and theirs.logprob is not None:
            assert abs(ours.logprob - theirs.logprob) < 1e-4
            assert [i for i, _ in ours.top] == [i for i, _ in theirs.top]


@needs_cuda
def test_rows_that_cannot_be_sampled_end_alone_on_a_gpu() -> None:
    logits = torch.randn(3, 100)
    logits[1, 4] = torch.nan
    found = Sampler(100, TorchChooser()).sample(
        logits.cuda(), [sequence(temperature=0.0) for _ in range(3)]
    )
    assert found[1].error is not None
    assert [s.token for s in found] == [int(logits[0].argmax()), -1, int(logits[2].argmax())]


@needs_cuda
def test_edits_on_a_gpu_are_those_on_the_cpu() -> None:
    logits = torch.randn(2, 50)
    edits = [
        Edit(seen=np.array([3, 9]), outputs=np.array([1, 2], np.float32), repetition=1.3),
        Edit(bias_ids=np.array([4]), biases=np.array([2.5], np.float32), suppressed=np.array([7])),
    ]
    on_gpu = logits.cuda()
    apply(logits, edits)
    apply(on_gpu, edits)
    assert torch.equal(on_gpu.cpu(), logits)
