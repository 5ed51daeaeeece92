"""Output: turns one sequence's tokens into the deltas its client sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from headrace.nouns.delta import Delta, TokenLogprob, Usage
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled
from headrace.sampling.detokenizer import Detokenizer
from headrace.sampling.stops import StopStrings


class TokenTaker(Protocol):
    """What an engine needs of an output: see ``Output``."""

    def push(self, sampled: Sampled) -> str | None: ...

    def close(self) -> None: ...

    def take(self) -> Delta: ...


class Output:
    """Detokenises as tokens come and watches for stop strings.

    ``push`` returns the stop string that the new token completed, if any: the sequence then ends
    there. ``take`` returns what has gathered since the last call.
    """

    def __init__(self, seq: Sequence, detokenizer: Detokenizer) -> None:
        params = seq.request.params
        self._seq = seq
        self._detokenizer = detokenizer
        self._stops = StopStrings(params.stop) if params.stop else None
        self._min_tokens = params.min_tokens
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._text: list[str] = []
        self._stopped = False

    def push(self, sampled: Sampled) -> str | None:
        """Takes in a token that is part of the output."""
        token = sampled.token
        self._tokens.append(token)
        if sampled.logprob is not None:
            self._logprobs.append(TokenLogprob(token, sampled.logprob, sampled.top))
        text = self._detokenizer.push_one(token)
        if self._min_tokens and self._seq.output_len < self._min_tokens:
            self._text.append(text)  # too early to stop: not looked at
            return None
        return self._emit(text)

    def close(self) -> None:
        """Lets go of what was held back; nothing is, where a stop string ended the sequence."""
        if self._stopped or self._emit(self._detokenizer.flush()) is not None:
            return
        if self._stops is not None:
            self._text.append(self._stops.flush())

    def take(self) -> Delta:
        """The delta since the last call; the last one once the sequence has ended."""
        seq = self._seq
        tokens, text, logprobs = tuple(self._tokens), "".join(self._text), tuple(self._logprobs)
        self._tokens, self._logprobs, self._text = [], [], []
        if not seq.finished:
            return Delta(seq.request.id, seq.index, tokens, text, logprobs)
        return Delta(
            seq.request.id,
            seq.index,
            tokens,
            text,
            logprobs,
            seq.finish_reason,
            seq.stop_reason,
            seq.error,
            Usage(seq.prompt_len, seq.output_len, seq.cached or 0),
            {cause.value: seconds for cause, seconds in seq.waits.items()},
        )

    def _emit(self, text: str) -> str | None:
        if self._stops is None:
            self._text.append(text)
            return None
        ready, matched = self._stops.push(text)
        self._text.append(ready)
        self._stopped = matched is not None
        return matched


OutputFactory = Callable[[Sequence], TokenTaker]
