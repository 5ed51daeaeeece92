"""Completion: all that became of one request, gathered from its deltas."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.nouns.delta import Delta, TokenLogprob, Usage
from headrace.nouns.errors import HeadraceError
from headrace.nouns.sequence import FinishReason


@dataclass(frozen=True, slots=True)
class Output:
    """One of a request's ``n`` continuations.

    ``error`` is set exactly when ``finish_reason`` is ERROR; what came before it is kept.
    ``logprobs`` has one entry a token when log-probabilities were asked for.
    """

    index: int
    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    stop_reason: int | str | None = None
    error: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A request's ``n`` outputs, by index, with its prompt's token ids."""

    request_id: str
    prompt: tuple[int, ...]
    outputs: tuple[Output, ...]

    @property
    def text(self) -> str:
        """Text of the first output."""
        return self.outputs[0].text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids of the first output."""
        return self.outputs[0].tokens

    def raise_for_error(self) -> Completion:
        """Returns itself, or raises HeadraceError when an output ended with an error."""
        for output in self.outputs:
            if output.error is not None:
                raise HeadraceError(f"output {output.index} of {self.request_id}: {output.error}")
        return self


@dataclass(slots=True)
class _Growing:
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: Delta | None = None


class CompletionBuilder:
    """Adds up the deltas of one request with ``n`` sequences, in the order they came."""

    def __init__(self, request_id: str, prompt: tuple[int, ...], n: int) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._outputs = [_Growing() for _ in range(n)]
        self._open = n

    @property
    def done(self) -> bool:
        """True once every sequence has ended."""
        return self._open == 0

    def add(self, delta: Delta) -> None:
        """Takes the next delta of the request."""
        output = self._outputs[delta.index]
        output.text.append(delta.text)
        output.tokens.extend(delta.tokens)
        output.logprobs.extend(delta.logprobs)
        if delta.finish_reason is not None and output.last is None:
            output.last = delta
            self._open -= 1

    def build(self) -> Completion:
        """The finished completion; sequences that were cut short count as aborted."""
        return Completion(
            self._request_id,
            self._prompt,
            tuple(self._finish(index, output) for index, output in enumerate(self._outputs)),
        )

    @staticmethod
    def _finish(index: int, output: _Growing) -> Output:
        last = output.last
        return Output(
            index=index,
            text="".join(output.text),
            tokens=tuple(output.tokens),
            finish_reason=(last and last.finish_reason) or FinishReason.ABORT,
            usage=(last and last.usage) or Usage(0, len(output.tokens), 0),
            stop_reason=last.stop_reason if last else None,
            error=last.error if last else None,
            logprobs=tuple(output.logprobs),
        )
