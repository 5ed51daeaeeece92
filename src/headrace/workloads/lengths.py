"""Lengths: how long generated prompts and their outputs are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headrace.nouns.errors import ConfigError
from headrace.workloads.job import Shape

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths drawn log-uniformly from two closed ranges of tokens."""

    prompt: Span
    output: Span
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> Lengths:
        """ "128:64" (fixed) or "32-512:16-256" (ranges). Raises ConfigError."""
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?:(\d{1,9})(?:-(\d{1,9}))?", text.strip())
        if match is not None:
            low, high, out_low, out_high = match.groups()
            prompt = (int(low), int(high or low))
            output = (int(out_low), int(out_high or out_low))
            if 1 <= prompt[0] <= prompt[1] and 1 <= output[0] <= output[1]:
                return cls(prompt, output, seed)
        raise ConfigError(
            f"the lengths {text!r} are not understood; write tokens of the prompt and of the"
            " output, as 128:64 or as ranges 32-512:16-256, each at least 1"
        )

    def __iter__(self) -> Iterator[Shape]:
        """Shapes without end, the same in each iteration."""
        rng = np.random.default_rng([self.seed, 0xB])
        while True:
            yield Shape(_draw(rng, self.prompt), _draw(rng, self.output))


def _draw(rng: np.random.Generator, span: Span) -> int:
    low, high = span
    drawn = np.exp(rng.uniform(np.log(low), np.log(high + 1)))
    return min(high, int(drawn))
