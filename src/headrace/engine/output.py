"""Output: turns one sequence's tokens into the deltas its client sees."""

from __future__ import annotations

from collections.abc import Callable

from headrace.nouns.delta import Delta, TokenLogprob, Usage
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled
from headrace.sampling.detokenizer import Detokenizer
from headrace.sampling.stops import StopStrings


class Output:
    """Detokenises as tokens come and watches for stop strings.

    ``push`` returns the stop string that the new token completed, if any: the sequence then ends
    there. ``take`` returns what has gathered since the last call.
    """

    def __init__(self, seq: Sequence, detokenizer: Detokenizer) -> None:
        self._seq = seq
        self._detokenizer = detokenizer
        self._stops = StopStrings(seq.request.params.stop)
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._text: list[str] = []
        self._stopped = False

    def push(self, sampled: Sampled) -> str | None:
        """Takes in a token that is part of the output."""
        self._tokens.append(sampled.token)
        if sampled.logprob is not None:
            self._logprobs.append(TokenLogprob(sampled.token, sampled.logprob, sampled.top))
        text = self._detokenizer.push([sampled.token])
        if self._seq.output_len < self._seq.request.params.min_tokens:
            self._text.append(text)  # too early to stop: not looked at
            return None
        return self._emit(text)

    def close(self) -> None:
        """Lets go of what was held back; nothing is, where a stop string ended the sequence."""
        if self._stopped or self._emit(self._detokenizer.flush()) is not None:
            return
        self._text.append(self._stops.flush())

    def take(self) -> Delta:
        """The delta since the last call; the last one once the sequence has ended."""
        seq = self._seq
        delta = Delta(
            request_id=seq.request.id,
            index=seq.index,
            tokens=tuple(self._tokens),
            text="".join(self._text),
            logprobs=tuple(self._logprobs),
            finish_reason=seq.finish_reason,
            stop_reason=seq.stop_reason,
            error=seq.error,
            usage=Usage(seq.prompt_len, seq.output_len, seq.cached or 0) if seq.finished else None,
            waits={cause.value: s for cause, s in seq.waits.items()} if seq.finished else {},
        )
        self._tokens, self._logprobs, self._text = [], [], []
        return delta

    def _emit(self, text: str) -> str | None:
        ready, matched = self._stops.push(text)
        self._text.append(ready)
        self._stopped = matched is not None
        return matched


OutputFactory = Callable[[Sequence], Output]
