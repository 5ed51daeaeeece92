"""CalibrationLoad: steps of every kind, within the engine's limits."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.workloads.calibration_load import ROOM, Block, CalibrationLoad

USUAL = CalibrationLoad(max_sequences=64, max_context=8192, cache_tokens=65536, step_tokens=2048)


def test_a_turn_has_all_kinds() -> None:
    blocks = next(USUAL.turns())
    alone = {len(b.jobs) for b in blocks if b.limit is None}
    assert alone >= {1, 2, 4, 8, 16, 32, 64}
    assert {b.limit for b in blocks if b.limit} >= {1, 2, 8, 32, 64}
    assert {b.token_budget for b in blocks} == {None, 64, 128, 512, 1024, 2048}
    assert max(len(job.prompt) for b in blocks for job in b.jobs) > 2000
    assert any(b.limit == 1 and all(job.output_tokens == 1 for job in b.jobs) for b in blocks)


def test_turns_differ_and_repeat_by_seed() -> None:
    first, second = islice(USUAL.turns(), 2)
    assert first != second
    assert next(USUAL.turns()) == first


def test_a_slow_model_gets_shorter_prompts() -> None:
    slow = CalibrationLoad(64, 8192, 65536, 2048, scale=0.1)
    tokens = [sum(b.prompt_tokens for b in next(load.turns())) for load in (USUAL, slow)]
    assert tokens[1] < 0.25 * tokens[0]


@settings(max_examples=50)
@given(
    st.integers(1, 300), st.integers(2, 10_000), st.integers(2, 100_000), st.integers(300, 4096),
    st.integers(2, 200_000), st.floats(0.01, 1.0),
)  # fmt: skip
def test_nothing_is_beyond_the_engine(
    sequences: int, context: int, cache: int, step: int, vocabulary: int, scale: float
) -> None:
    context = min(context, cache)
    load = CalibrationLoad(sequences, context, cache, step, vocabulary, scale)
    for block in next(load.turns()):
        check(block, load)


def check(block: Block, load: CalibrationLoad) -> None:
    assert block.jobs
    assert block.token_budget is None or block.token_budget <= load.step_tokens
    for job in block.jobs:
        assert len(job.prompt) >= 1
        assert job.output_tokens >= 1
        assert len(job.prompt) + job.output_tokens <= load.max_context
        assert all(0 <= token < load.vocabulary for token in job.prompt)
    if block.limit is None:
        held = block.prompt_tokens + block.output_tokens
        assert held <= max(ROOM * load.cache_tokens, len(block.jobs[0].prompt) + 40)


@pytest.mark.parametrize("sequences", [1, 3, 64, 100])
def test_no_batch_is_larger_than_what_runs_at_once(sequences: int) -> None:
    load = CalibrationLoad(sequences, 512, 65536, 2048)
    for block in next(load.turns()):
        assert (block.limit or len(block.jobs)) <= max(sequences, 4)
