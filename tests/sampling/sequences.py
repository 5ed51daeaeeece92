"""Sequences and logits for the sampling tests."""

from __future__ import annotations

from typing import Any

import torch

from headrace.nouns.request import Request
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import Sequence


def sequence(
    prompt: tuple[int, ...] = (0,),
    output: tuple[int, ...] = (),
    seed: int = 0,
    index: int = 0,
    eos_ids: frozenset[int] = frozenset(),
    **params: Any,
) -> Sequence:
    """A sequence with its prompt and some output; ``params`` are sampling parameters."""
    request = Request(
        id=f"r{seed}",
        prompt=prompt,
        max_tokens=1000,
        params=SamplingParams(**params),
        seed=seed,
        n=index + 1,
        eos_ids=eos_ids,
    )
    made = Sequence.of(request, index)
    made.tokens.extend(output)
    return made


def random_logits(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=generator) * scale
