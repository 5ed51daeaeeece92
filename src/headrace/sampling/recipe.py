"""Recipe: a request's sampling parameters, resolved once for all steps of a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.nouns.sequence import Sequence
from headrace.sampling.random import stream

# Colder than this, the most likely token's lead overflows float32; it is certain long before.
_COLDEST = 1e-30
_EVERYTHING = 2.0
_NO_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class Recipe:
    """What sampling one sequence needs.

    ``plain`` rows are an arg-max and nothing else. ``top_k`` is 2^31 where
    nothing is cut, ``top_p`` is 2. ``suppressed`` are the ids that may not come before
    ``min_tokens``. ``logprobs`` is None or how many of the most likely tokens are reported.
    ``error`` says why these parameters cannot be used with this vocabulary.
    """

    plain: bool
    greedy: bool
    stream: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition: float
    presence: float
    frequency: float
    bias_ids: npt.NDArray[np.int64]
    biases: npt.NDArray[np.float32]
    min_tokens: int
    suppressed: npt.NDArray[np.int64]
    logprobs: int | None
    error: str | None

    @property
    def penalises(self) -> bool:
        """True when the logits depend on the tokens so far."""
        return self.repetition != 1.0 or self.presence != 0.0 or self.frequency != 0.0

    @property
    def may_edit(self) -> bool:
        """True when some step changes logits."""
        return self.penalises or len(self.bias_ids) > 0 or len(self.suppressed) > 0

    def edits(self, sequence: Sequence) -> bool:
        """Whether any logit is changed before the next token of ``sequence`` is chosen."""
        return (
            self.penalises
            or len(self.bias_ids) > 0
            or (len(self.suppressed) > 0 and self.early(sequence))
        )

    def early(self, sequence: Sequence) -> bool:
        """Whether the next token of ``sequence`` may not end it."""
        return sequence.output_len < self.min_tokens

    @classmethod
    def of(cls, sequence: Sequence, vocab_size: int) -> Recipe:
        """The recipe of ``sequence`` for logits over ``vocab_size`` tokens."""
        request = sequence.request
        params = request.params
        ends = request.eos_ids.union(params.stop_token_ids) if params.min_tokens else ()
        suppressed = sorted(t for t in ends if 0 <= t < vocab_size)
        biases: dict[int, float] = {}
        for token, bias in params.logit_bias:
            biases[token] = biases.get(token, 0.0) + bias
        outside = [token for token in biases if token >= vocab_size]
        error = None
        if outside:
            error = (
                f"logit_bias names token {outside[0]}; this model's vocabulary has"
                f" {vocab_size} tokens, so ids end at {vocab_size - 1}"
            )
        penalises = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )
        changes = penalises or biases or suppressed
        return cls(
            plain=params.greedy and params.logprobs is None and not changes and error is None,
            greedy=params.greedy,
            stream=stream(request.seed, sequence.index),
            temperature=max(params.temperature, _COLDEST),
            top_k=params.top_k if 0 < params.top_k < vocab_size else _NO_LIMIT,
            top_p=params.top_p if params.top_p < 1.0 else _EVERYTHING,
            min_p=params.min_p,
            repetition=params.repetition_penalty,
            presence=params.presence_penalty,
            frequency=params.frequency_penalty,
            bias_ids=np.array(list(biases), dtype=np.int64),
            biases=np.array(list(biases.values()), dtype=np.float32),
            min_tokens=params.min_tokens,
            suppressed=np.array(suppressed, dtype=np.int64),
            logprobs=params.logprobs,
            error=error,
        )
