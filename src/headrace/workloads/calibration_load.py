"""CalibrationLoad: requests whose steps are of every kind, to learn what a step costs."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.workloads.job import Job

TOKENS = (100, 40_000)  # ordinary tokens of most vocabularies
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CONTEXTS = ((1, 3000), (4, 1500), (8, 900), (16, 600), (16, 1200), (32, 700), (64, 300))
"""Sequences and tokens of context of batches whose attention counts."""
BUDGETS = (64, 128, 512, 1024, 2048)
ROOM = 0.8  # of the cache that a block's sequences may fill


@dataclass(frozen=True, slots=True)
class Block:
    """Jobs sent at once, at most ``limit`` at a time, in steps of up to ``token_budget`` tokens.

    None leaves limit or budget as they are.
    """

    jobs: tuple[Job, ...]
    limit: int | None = None
    token_budget: int | None = None

    @property
    def prompt_tokens(self) -> int:
        return sum(len(job.prompt) for job in self.jobs)

    @property
    def output_tokens(self) -> int:
        return sum(job.output_tokens for job in self.jobs)


@dataclass(frozen=True, slots=True)
class CalibrationLoad:
    """Decoding alone at many batch sizes and contexts, prompts in chunks of many sizes and at many
    offsets, and both mixed, in short blocks whose order is drawn at random.

    Blocks are short and mixed so that a machine whose speed wanders disturbs no kind of step more
    than another. ``cache_tokens`` and ``max_context`` bound what runs; ``scale`` (at most 1)
    shortens prompts and batches for slow models; equal seeds give equal loads.
    """

    max_sequences: int
    max_context: int
    cache_tokens: int
    step_tokens: int
    vocabulary: int = TOKENS[1]
    scale: float = 1.0
    seed: int = 0

    def turns(self) -> Iterator[list[Block]]:
        """Without end: each turn has blocks of every kind."""
        for turn in itertools.count():
            rng = random.Random(f"{self.seed}/{turn}")
            blocks = [*self._decodes(rng), *self._contexts(rng), *self._loops(rng)]
            blocks += [*self._prompts(rng), *self._budgets(rng)]
            rng.shuffle(blocks)
            yield blocks

    def _decodes(self, rng: random.Random) -> Iterator[Block]:
        for batch in self._batches():
            yield self._block(rng, [(self._draw(rng, 4, 24), rng.randint(8, 24))
                                    for _ in range(batch)])  # fmt: skip

    def _contexts(self, rng: random.Random) -> Iterator[Block]:
        for batch, context in CONTEXTS:
            if batch <= self.max_sequences:
                length = max(1, round(context * self.scale * rng.uniform(0.8, 1.2)))
                yield self._block(rng, [(length, rng.randint(10, 24)) for _ in range(batch)])

    def _loops(self, rng: random.Random) -> Iterator[Block]:
        """A fixed number in flight, of all lengths: prompts beside decodes."""
        for batch in self._batches():
            sizes = [(self._draw(rng, 8, 1200), self._draw(rng, 4, 40))
                     for _ in range(batch + max(2, batch // 2))]  # fmt: skip
            yield self._block(rng, sizes, limit=batch)

    def _prompts(self, rng: random.Random) -> Iterator[Block]:
        """One prompt after the other, of one output token each."""
        for least, most, count in ((2, 64, 12), (16, 1000, 12), (1000, 4000, 4)):
            sizes = [(self._draw(rng, least, most), 1) for _ in range(count)]
            yield self._block(rng, sizes, limit=1)

    def _budgets(self, rng: random.Random) -> Iterator[Block]:
        for budget in BUDGETS:
            if budget > self.step_tokens:
                continue
            alone = [(max(1, round(self.scale * budget * rng.uniform(0.3, 1.5))), 2)]
            beside = [(self._draw(rng, 50, 700), rng.randint(4, 16)) for _ in range(6)]
            yield self._block(rng, [*alone, *beside], limit=4, token_budget=budget)

    def _batches(self) -> Iterator[int]:
        """Batch sizes up to the largest."""
        yield from (batch for batch in BATCHES if batch < self.max_sequences)
        yield self.max_sequences

    def _draw(self, rng: random.Random, low: int, high: int) -> int:
        """Log-uniform, shortened for slow models."""
        high = max(low, round(high * self.scale))
        return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))

    def _block(
        self,
        rng: random.Random,
        sizes: list[tuple[int, int]],
        limit: int | None = None,
        token_budget: int | None = None,
    ) -> Block:
        """Jobs of (prompt, output) tokens, as far as memory allows."""
        jobs: list[Job] = []
        held = 0
        room = int(ROOM * self.cache_tokens)
        for prompt, output in sizes:
            output = max(1, min(output, self.max_context // 2))
            prompt = max(1, min(prompt, self.max_context - output, room - output))
            if limit is None and jobs and held + prompt + output > room:
                break
            held += prompt + output
            low, high = min(TOKENS[0], self.vocabulary // 2), min(TOKENS[1], self.vocabulary)
            jobs.append(Job(0.0, tuple(rng.randrange(low, high) for _ in range(prompt)), output))
        return Block(tuple(jobs), limit, token_budget)
