"""Promise 1: logits are the same bit for bit, whatever the schedule."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.execution.local import LocalExecutor
from headrace.models.native import NATIVE_BLOCK
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Slice, Step
from tests.execution.tiny import (
    FORMATS,
    NATIVE,
    VOCAB,
    executor,
    logits_of,
    run,
    sequence,
    tiny_transformer,
    whole,
)

PROMPTS = tuple(
    tuple(random.Random(n).randrange(VOCAB) for _ in range(n))
    for n in (1, 2, 7, 31, 64, 65, 130, 255, 256, 257, 401)
)
GENERATED = 4
MAX_LEN = 420


@cache
def expected(dtype: str, architecture: str, which: int) -> tuple[tuple[int, ...], torch.Tensor]:
    """Tokens a prompt grows and the logits that chose them, computed alone and whole."""
    alone = executor(tiny_transformer(dtype, architecture), 40)
    seq = sequence(PROMPTS[which], range(MAX_LEN // 16 + 1))
    rows = []
    for _ in range(GENERATED):
        rows.append(whole(alone, seq))
        seq.tokens.append(int(rows[-1].argmax()))
    return tuple(seq.tokens[len(PROMPTS[which]) :]), torch.stack(rows)


class Schedule:
    """Drives some of the prompts through random steps and checks every row of logits."""

    def __init__(self, dtype: str, architecture: str, block_size: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.dtype, self.architecture = dtype, architecture
        if dtype in NATIVE:
            block_size = max(block_size, NATIVE_BLOCK)
        self.blocks_each = MAX_LEN // block_size + 1
        chosen = [self.random.randrange(len(PROMPTS)) for _ in range(self.random.randint(1, 12))]
        total = self.blocks_each * len(chosen)
        self.executor: LocalExecutor = executor(
            tiny_transformer(dtype, architecture, block_size), total, block_size
        )
        self.free = list(range(total))
        self.random.shuffle(self.free)
        self.sequences = {sequence(PROMPTS[i], self.take()): i for i in chosen}

    def take(self) -> list[int]:
        blocks, self.free = self.free[: self.blocks_each], self.free[self.blocks_each :]
        return blocks

    def preempt(self, seq: Sequence) -> None:
        """Give all blocks back and start over in others, some of them last used by others."""
        self.free += seq.blocks
        self.random.shuffle(self.free)
        seq.blocks, seq.computed = self.take(), 0

    def step(self, unfinished: list[Sequence]) -> None:
        slices = []
        for seq in self.random.sample(unfinished, self.random.randint(1, len(unfinished))):
            if self.random.random() < 0.05:
                self.preempt(seq)
            left = len(seq.tokens) - seq.computed
            length = min(left, self.random.choice((1, 2, 3, 15, 16, 17, 64, 129, 500)))
            slices.append(Slice(seq, seq.computed, length, samples=length == left))
        run(self.executor, *slices, padding=self.random.choice((0, 0, 3)))
        rows = iter(logits_of(self.executor)) if any(s.samples for s in slices) else iter(())
        for piece in slices:
            if piece.samples:
                self.check(piece.sequence, next(rows))

    def check(self, seq: Sequence, row: torch.Tensor) -> None:
        which = self.sequences[seq]
        tokens, logits = expected(self.dtype, self.architecture, which)
        at = len(seq.tokens) - len(PROMPTS[which])
        assert torch.equal(row, logits[at]), (len(PROMPTS[which]), at)
        seq.tokens.append(tokens[at])

    def run(self) -> None:
        def unfinished() -> list[Sequence]:
            return [
                seq
                for seq, i in self.sequences.items()
                if len(seq.tokens) < len(PROMPTS[i]) + GENERATED
            ]

        while left := unfinished():
            self.step(left)


@pytest.mark.parametrize("dtype", FORMATS)
@settings(max_examples=12)
@given(
    architecture=st.sampled_from(("llama", "mistral", "qwen2", "qwen3")),
    block_size=st.sampled_from((8, 16, 32, 64, 128, 256)),
    seed=st.integers(0, 2**32),
)
@example(architecture="llama", block_size=16, seed=1)
@example(architecture="mistral", block_size=32, seed=2)
def test_any_mix_chunking_paging_and_preemption_give_the_same_bits(
    dtype: str, architecture: str, block_size: int, seed: int
) -> None:
    Schedule(dtype, architecture, block_size, seed).run()


@pytest.mark.parametrize("dtype", FORMATS)
def test_shared_prefix_blocks_give_the_same_bits(dtype: str) -> None:
    transformer = tiny_transformer(dtype)
    shared = executor(transformer)
    first = sequence(PROMPTS[7], range(30))
    whole(shared, first)
    second = sequence(PROMPTS[7][:160] + PROMPTS[6], [*range(10), *range(30, 45)])
    second.computed = 160
    reused = whole(shared, second)
    alone = executor(transformer)
    assert torch.equal(reused, whole(alone, sequence(second.tokens, range(30))))


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_copied_block_gives_the_same_bits(dtype: str) -> None:
    forked = executor(tiny_transformer(dtype))
    first = sequence(PROMPTS[3], range(4))
    expected_row = whole(forked, first)
    second = sequence(PROMPTS[3], [0, 9])
    second.computed = len(PROMPTS[3]) - 1
    forked.submit(Step(2, (Slice(second, second.computed, 1, True),), copies=((1, 9),)))
    assert forked.collect().error is None
    assert torch.equal(logits_of(forked)[0], expected_row)


@pytest.mark.parametrize("dtype", FORMATS)
def test_many_rows_at_once_give_the_same_bits(dtype: str) -> None:
    """More rows than the largest product that is called in one piece."""
    transformer = tiny_transformer(dtype)
    alone = executor(transformer)
    row = whole(alone, sequence(PROMPTS[10], range(30)))
    crowd = executor(transformer, 300)
    seqs = [sequence(PROMPTS[10], range(i * 26, i * 26 + 26)) for i in range(4)]
    run(crowd, *(Slice(seq, 0, len(seq.tokens), True) for seq in seqs))
    assert all(torch.equal(other, row) for other in logits_of(crowd))


def test_the_property_can_fail() -> None:
    """The check notices a context that differs in one early token."""
    alone = executor(tiny_transformer("float32"))
    other = sequence(((PROMPTS[8][0] + 1) % VOCAB, *PROMPTS[8][1:]), range(30))
    assert not torch.equal(whole(alone, other), expected("float32", "llama", 8)[1][0])


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("chunk", [1, 7, 16, 500])
def test_what_a_former_owner_left_changes_nothing(dtype: str, chunk: int) -> None:
    clean, dirty = (executor(tiny_transformer(dtype)) for _ in range(2))
    for layer in dirty.cache.layers:
        for state in (layer.keys, layer.values):
            owned = state[: dirty.cache.num_blocks * dirty.transformer.shape.kv_heads]
            owned.fill_(255 if owned.dtype is torch.uint8 else float("nan"))
    for prompt in PROMPTS[:7]:
        expected_row = whole(clean, sequence(prompt, range(30)))
        seq = sequence(prompt, reversed(range(100, 130)))
        for start in range(0, len(prompt), chunk):
            length = min(chunk, len(prompt) - start)
            run(dirty, Slice(seq, start, length, samples=start + length == len(prompt)))
        assert torch.isfinite(expected_row).all()
        assert torch.equal(logits_of(dirty)[0], expected_row)
