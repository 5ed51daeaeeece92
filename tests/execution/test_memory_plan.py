"""The memory plan adds up, fits, and refuses with the option to change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.execution.kv_cache import KVCache
from headrace.execution.memory_plan import MemoryPlan, WeightSizes, plan_memory
from headrace.nouns.errors import ConfigError
from tests.execution.tiny import executor, tiny_config, tiny_transformer

GIB = 1 << 30


def plan(**changes: object) -> MemoryPlan:
    options: dict[str, object] = {
        "sizes": WeightSizes(4, 4, 4), "block_size": 16, "cache_bytes": None,
        "max_context": None, "max_sequences": 8, "available": 4 * GIB,
        "available_reason": "a test",
    }  # fmt: skip
    chosen = options | changes
    config = tiny_config()
    values = config.cache_values_per_token() * int(str(chosen["block_size"]))
    return plan_memory(config, block_bytes=4 * values, **chosen)  # type: ignore[arg-type]


@given(
    available=st.integers(0, 8 * GIB),
    cache=st.none() | st.integers(1, GIB),
    context=st.none() | st.integers(1, 1024),
    sequences=st.integers(1, 512),
    block_size=st.sampled_from((8, 16, 64, 256)),
    weight=st.sampled_from((1.625, 2, 4)),
)
def test_a_plan_adds_up_or_is_refused(
    available: int,
    cache: int | None,
    context: int | None,
    sequences: int,
    block_size: int,
    weight: float,
) -> None:
    refusal = ""
    try:
        made = plan(
            available=available, cache_bytes=cache, max_context=context,
            max_sequences=sequences, block_size=block_size,
            sizes=WeightSizes(weight, weight, weight),
        )  # fmt: skip
    except ConfigError as error:
        refusal = str(error)
    if refusal:
        options = ("cache_bytes", "max_context", "max_sequences", "weights")
        assert any(option in refusal for option in options)
        return
    assert sum(part.bytes for part in made.parts) == available
    assert all(part.bytes >= 0 and part.reason for part in made.parts)
    assert made.bytes("spare") >= available // 25
    assert made.num_blocks * block_size >= made.max_context >= 1
    assert context is None or made.max_context == context
    if cache is not None:
        assert made.bytes("cache") <= cache


def test_the_cache_is_as_large_as_planned() -> None:
    made = plan(cache_bytes=10 << 20)
    transformer = tiny_transformer("float32")
    cache = KVCache(
        transformer.config.num_layers, transformer.shape, made.num_blocks, 16,
        transformer.operators.cache_dtype,
    )  # fmt: skip
    assert cache.nbytes == made.bytes("cache") <= 10 << 20


def test_weights_take_what_was_planned() -> None:
    transformer = tiny_transformer("float32")
    planned = plan().bytes("weights")
    assert planned * 0.98 <= transformer.nbytes <= planned
    assert executor(transformer).transformer is transformer


def test_the_default_cache_is_a_bounded_share() -> None:
    small, large = plan(available=GIB // 2), plan(available=64 * GIB)
    assert large.bytes("cache") == (8 * 64 + 1) * 16 * 2 * 2 * 2 * 32 * 4
    assert small.bytes("cache") < GIB // 4
    crowded = plan(available=GIB // 2, max_sequences=100_000 // 8)
    assert "more with --cache (cache_bytes)" in " ".join(crowded.lines())


def test_a_small_cache_lowers_the_context_unless_it_was_asked_for() -> None:
    block = 16 * 2 * 2 * 2 * 32 * 4
    made = plan(cache_bytes=5 * block)
    assert (made.num_blocks, made.max_context) == (4, 64)
    assert "max_context lowered" in " ".join(made.lines())
    with pytest.raises(ConfigError, match=r"max_context 100; give --cache .* at least"):
        plan(cache_bytes=5 * block, max_context=100)
    with pytest.raises(ConfigError, match="more than the model's 1024; lower it"):
        plan(max_context=4096)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model does not fit"):
        plan(available=50 << 20)
    with pytest.raises(
        ConfigError, match=r"cache of 8\.00 GiB .* leave .*iB for it; lower --cache"
    ):
        plan(cache_bytes=8 * GIB)
