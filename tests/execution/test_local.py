"""LocalExecutor: faults stay with the request at fault, the executor stays usable."""

from __future__ import annotations

import pytest
import torch

from headrace.kernels.operators import Operators
from headrace.models.transformer import Transformer
from headrace.nouns.step import Slice, Step
from headrace.sampling.sampler import Sampler
from tests.execution.tiny import (
    RandomWeights,
    Recorder,
    executor,
    logits_of,
    run,
    sequence,
    tiny_config,
    tiny_transformer,
    whole,
)

BAD = 77  # a token whose embedding is broken in `poisoned`


@pytest.fixture(scope="module")
def poisoned() -> Transformer:
    """A model whose embedding of one token is NaN, as a damaged file may have it."""
    config = tiny_config()
    weights = RandomWeights(config)
    weights.tensors["head"] = weights.tensors["head"].clone()
    weights.tensors["embed"][BAD] = torch.nan
    operators = tiny_transformer("float32").operators
    return Transformer(config, weights, operators, config.max_context)


def test_logits_that_are_not_finite_end_that_sequence_only(poisoned: Transformer) -> None:
    alone = whole(executor(poisoned), sequence(range(20), range(3)))
    local = executor(poisoned)
    good, bad = sequence(range(20), (5, 1, 9)), sequence([3, BAD, 4], (2,))
    pieces = (Slice(bad, 0, 3, True), Slice(good, 0, 20, True))
    run(local, *pieces)
    assert logits_of(local)[0].isnan().all()
    assert torch.equal(logits_of(local)[1], alone)
    local.sampler = Sampler(poisoned.config.vocab_size)
    first, second = run(local, *pieces).sampled
    assert first is not None
    assert second is not None
    assert first.error
    assert second.error is None


def test_what_the_sampler_keeps_goes_with_the_sequence() -> None:
    local = executor(tiny_transformer("float32"))
    seq = sequence(range(3), (0,))
    run(local, Slice(seq, 0, 3, True))
    local.forget(seq)
    assert isinstance(local.sampler, Recorder)
    assert local.sampler.forgotten == [seq]


@pytest.mark.parametrize("length", [1, 5, 17])
def test_a_broken_sequences_blocks_are_clean_for_their_next_owner(
    poisoned: Transformer, length: int
) -> None:
    tokens = [i % 70 for i in range(length)]
    alone = whole(executor(poisoned), sequence(tokens, range(3)))
    local = executor(poisoned)
    run(local, Slice(sequence([BAD] * 48, (4, 6, 8)), 0, 48, True))
    seq = sequence(tokens, (8, 6, 4))
    for start in range(length):
        run(local, Slice(seq, start, 1, start == length - 1))
    assert torch.equal(logits_of(local)[0], alone)


class Failing:
    """Operators that raise in one method, once."""

    def __init__(self, inner: Operators, method: str) -> None:
        self._inner, self._method, self.armed = inner, method, True

    def __getattr__(self, name: str) -> object:
        if name == self._method and self.armed:
            self.armed = False
            return self._fail
        return getattr(self._inner, name)

    @staticmethod
    def _fail(*arguments: object) -> object:
        raise RuntimeError("the operator broke")


@pytest.mark.parametrize(
    "method",
    ["padded_rows", "prepare", "embed", "norm", "linear", "rotate_store", "attention",
     "linear_add", "gated_linear", "head"],
)  # fmt: skip
def test_an_operator_that_raises_fails_the_step_not_the_executor(method: str) -> None:
    healthy = tiny_transformer("float32")
    alone = whole(executor(healthy), sequence(range(20), range(3)))
    broken = Transformer(
        healthy.config, RandomWeights(healthy.config), healthy.operators, healthy.max_context
    )
    local = executor(broken)
    broken.operators = Failing(healthy.operators, method)  # type: ignore[assignment]
    seq = sequence(range(20), range(3))
    local.submit(Step(7, (Slice(seq, 0, 20, True),)))
    result = local.collect()
    assert result.step_id == 7
    assert result.sampled == (None,)
    assert result.error == "RuntimeError: the operator broke"
    assert torch.equal(whole(local, seq), alone)


def test_a_sequence_with_too_few_blocks_is_an_error_of_the_step() -> None:
    local = executor(tiny_transformer("float32"))
    local.submit(Step(1, (Slice(sequence(range(20), (0,)), 0, 20, True),)))
    result = local.collect()
    assert result.error is not None
    assert "has 1 blocks" in result.error


def test_only_sampling_slices_get_a_result_in_the_steps_order() -> None:
    local = executor(tiny_transformer("float32"))
    seqs = [sequence(range(i, i + 20), range(2 * i, 2 * i + 2)) for i in range(4)]
    for seq in seqs:
        run(local, Slice(seq, 0, 19, False))
    result = run(
        local,
        Slice(seqs[0], 0, 7, False),
        Slice(seqs[1], 19, 1, True),
        Slice(seqs[2], 3, 17, True),
        Slice(seqs[3], 19, 1, True),
    )
    assert result.sampled[0] is None
    for i in (1, 2, 3):
        fresh = executor(tiny_transformer("float32"))
        row = whole(fresh, sequence(range(i, i + 20), range(2)))
        sampled = result.sampled[i]
        assert sampled is not None
        assert sampled.token == int(row.argmax())


def test_one_step_in_flight_at_a_time() -> None:
    local = executor(tiny_transformer("float32"))
    with pytest.raises(RuntimeError, match="no step is in flight"):
        local.collect()
    step_ = Step(1, (Slice(sequence([1], (0,)), 0, 1, True),))
    local.submit(step_)
    with pytest.raises(RuntimeError, match="collect it"):
        local.submit(step_._replace(id=2))
    assert local.collect().error is None
    local.submit(step_)
    local.close()  # with a step in flight, which is dropped
    with pytest.raises(RuntimeError, match="no step is in flight"):
        local.collect()


def test_padding_rows_are_computed_and_change_nothing() -> None:
    transformer = tiny_transformer("float32")
    seq = sequence(range(30), range(2))
    plain = whole(executor(transformer), seq)
    local = executor(transformer)
    rows: list[int] = []
    embed = transformer.operators.embed

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(operators, name)

        def embed(self, table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            rows.append(len(tokens))
            return embed(table, tokens)

    operators = transformer.operators
    transformer.operators = Counting()  # type: ignore[assignment]
    try:
        seq.computed = 0
        run(local, Slice(seq, 0, 30, True), padding=100)
    finally:
        transformer.operators = operators
    assert rows[0] >= 130
    assert torch.equal(logits_of(local)[0], plain)


def test_the_profile_adds_up_and_leaves_the_results_alone() -> None:
    local = executor(tiny_transformer("float32"))
    seq = sequence(range(30), range(2))
    plain = whole(local, seq)
    seq.computed = 0
    with local.profile() as profile:
        assert torch.equal(whole(local, seq), plain)
    assert (profile.steps, profile.rows) == (1, 30)
    names = {name for name, *_ in profile.table()}
    assert {"attention", "linear qkv", "sampling", "layout", "norm", "head", "other"} <= names
    assert sum(share for _, _, share, _ in profile.table()) == pytest.approx(1.0)
    assert profile.calls["attention"] == local.transformer.config.num_layers
    whole(local, sequence([1], (0,)))
    assert profile.steps == 1


def test_a_closed_executor_holds_no_cache() -> None:
    closed = executor(tiny_transformer("float32"), 8)
    assert closed.cache.nbytes > 0
    closed.close()
    assert closed.cache.nbytes == 0
    assert not closed.cache.layers
