"""TokenHistory: the distinct tokens of a sequence and how often each was put out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class TokenHistory:
    """Counts of a sequence's tokens, kept up to date as they come.

    The cost of a step is that of its new tokens; a history built afresh, after a preemption or
    on another machine, is the same but for the order of ``ids``. Tokens outside the vocabulary
    are left out: they have no logit.
    """

    def __init__(self, vocab_size: int, prompt_len: int) -> None:
        self._vocab_size = vocab_size
        self._prompt_len = prompt_len
        self._seen = 0
        self._places: dict[int, int] = {}
        self._ids = np.zeros(64, dtype=np.int64)
        self._outputs = np.zeros(64, dtype=np.float32)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Distinct token ids of prompt and output."""
        return self._ids[: len(self._places)]

    @property
    def outputs(self) -> npt.NDArray[np.float32]:
        """How often each of ``ids`` stands in the output."""
        return self._outputs[: len(self._places)]

    def update(self, tokens: list[int]) -> None:
        """Take in what ``tokens``, the sequence's tokens from its start on, have gained."""
        for position in range(self._seen, len(tokens)):
            token = tokens[position]
            if not 0 <= token < self._vocab_size:
                continue
            place = self._places.setdefault(token, len(self._places))
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._outputs = np.concatenate([self._outputs, np.zeros_like(self._outputs)])
            self._ids[place] = token
            if position >= self._prompt_len:
                self._outputs[place] += 1
        self._seen = len(tokens)
