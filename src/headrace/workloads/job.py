"""Job: one request of a load: when to send it, its prompt, how much output to ask for."""

from __future__ import annotations

from dataclasses import dataclass

Prompt = tuple[int, ...] | str
"""Token ids, or a text that the server tokenizes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The two lengths of a request, in tokens."""

    prompt_tokens: int
    output_tokens: int

    def within(self, max_context: int | None) -> Shape:
        """The shape cut to a model's context: the output to half of it, the prompt to the rest.

        Both lengths are at least 1 token.
        """
        prompt, output = max(1, self.prompt_tokens), max(1, self.output_tokens)
        if max_context is not None:
            output = min(output, max(1, max_context // 2))
            prompt = min(prompt, max(1, max_context - output))
        return Shape(prompt, output)


@dataclass(frozen=True, slots=True)
class Job:
    """``at`` is in seconds after the start of the load; ``output_tokens`` are asked for."""

    at: float
    prompt: Prompt
    output_tokens: int
