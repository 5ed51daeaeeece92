"""Traffic: seeded arrivals like those of production, for live replays and simulations alike.

The lengths of conversations follow the quantiles of the Azure LLM inference trace of 2023
(conversation part: 19,366 requests, 1,155 prompt and 211 output tokens on average; CC BY 4.0,
published with Patel et al., "Splitwise", arXiv:2311.18677), those of code the figures of the same
paper (prompts of 1,500 tokens in the median, answers of 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace.nouns.request import Targets
from headrace.simulation.arrival import Arrival
from headrace.workloads.job import Shape
from headrace.workloads.trace import Trace

Lengths = Callable[[np.random.Generator, int], tuple[int, int]]
"""Prompt and output tokens of the request with a number, drawn at random or looked up."""

SHARES = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
PROMPTS = (2, 29, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 4083, 4142, 14050)
OUTPUTS = (7, 16, 41, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 601, 1000)


@dataclass(frozen=True, slots=True)
class Traffic:
    """``count`` requests at ``rate`` a second.

    Gaps are gamma distributed with the coefficient of variation ``burstiness`` (1 is Poisson).
    ``shared`` of the requests begin with one of ``groups`` common prefixes of ``prefix_tokens``.
    Tenants take turns at random. No sequence is longer than ``max_context``.
    """

    name: str
    lengths: Lengths
    rate: float
    count: int
    seed: int = 0
    burstiness: float = 1.0
    max_context: int = 2048
    shared: float = 0.0
    groups: int = 4
    prefix_tokens: int = 512
    tenants: tuple[str, ...] = ("default",)
    targets: Targets = Targets()

    def __iter__(self) -> Iterator[Arrival]:
        """The same arrivals each time."""
        rng = np.random.default_rng([self.seed, 0x7])
        shape = 1.0 / self.burstiness**2
        now = 0.0
        for number in range(self.count):
            drawn = Shape(*self.lengths(rng, number)).within(self.max_context)
            prefix: tuple[tuple[str, int], ...] = ()
            if rng.random() < self.shared and drawn.prompt_tokens > 1:
                tokens = min(self.prefix_tokens, drawn.prompt_tokens - 1)
                prefix = ((f"group-{int(rng.integers(self.groups))}", tokens),)
            yield Arrival(
                at=now,
                prompt_tokens=drawn.prompt_tokens,
                output_tokens=drawn.output_tokens,
                tenant=self.tenants[int(rng.integers(len(self.tenants)))],
                targets=self.targets,
                id=f"{self.name}-{number}",
                prefix=prefix,
            )
            now += float(rng.gamma(shape, 1.0 / (shape * self.rate)))


def conversation(rng: np.random.Generator, number: int) -> tuple[int, int]:
    """Prompt and output tokens of a conversation's turn."""
    prompt, output = np.interp(rng.random(2), SHARES, np.arange(len(SHARES)))
    return _between(PROMPTS, float(prompt)), _between(OUTPUTS, float(output))


def code(rng: np.random.Generator, number: int) -> tuple[int, int]:
    """Long prompts, short answers."""
    prompt = rng.lognormal(np.log(1500), 0.7)
    output = rng.lognormal(np.log(13), 1.1)
    return int(np.clip(prompt, 16, 7000)), int(np.clip(output, 1, 300))


def recorded(path: Path, first: int = 0) -> Lengths:
    """The lengths of a trace file in their order, from entry ``first`` on, and again from 0."""
    shapes = [(entry.shape.prompt_tokens, entry.shape.output_tokens) for entry in Trace(path)]
    return lambda rng, number: shapes[(first + number) % len(shapes)]


def _between(quantiles: tuple[int, ...], position: float) -> int:
    """Interpolated in the logarithm, as lengths spread."""
    at = np.interp(position, np.arange(len(quantiles)), np.log(quantiles))
    return max(1, round(float(np.exp(at))))
