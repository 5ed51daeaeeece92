"""From a configuration to an engine on a real model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from headrace.engine.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.known_cost import CostKeeper, first_cost
from headrace.engine.length_store import LengthStore
from headrace.engine.output import Output
from headrace.engine.phases import Phases
from headrace.environment import limit_spinning
from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.clock import WallClock
from headrace.nouns.event import Sink
from headrace.nouns.sequence import Sequence
from headrace.sampling.detokenizer import Detokenizer
from headrace.scheduling.drift import DriftingCost
from headrace.scheduling.limits import Limits
from headrace.scheduling.output_lengths import OutputLengths
from headrace.scheduling.registry import create
from headrace.scheduling.scheduler import Policies, Scheduler

if TYPE_CHECKING:
    from headrace.execution.build import BuiltExecutor
    from headrace.execution.token_budget import TokenBudget
    from headrace.models.chat_template import ChatTemplate
    from headrace.models.tokenizer import Tokenizer

Report = Callable[[str], None]

PREFILL_ROOM = 256
"""Tokens a step has left for prefill when every sequence slot decodes, unless a target forbids."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What callers need to know of the model served. ``created`` is in Unix seconds."""

    name: str
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    max_context: int
    eos_ids: frozenset[int]
    vocab_size: int
    weights: str
    created: int


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine with what it was built from.

    ``cost`` predicts its step times and follows the machine's speed; ``keeper`` is where prices
    that were measured are kept, ``lengths`` where output lengths are. None where nothing is known.
    """

    engine: Engine
    model: ModelInfo
    total_blocks: int
    block_size: int
    cost: DriftingCost | None = None
    keeper: CostKeeper | None = None
    lengths: LengthStore | None = None


def policies(config: EngineConfig) -> Policies:
    """The four policies that a configuration names. Raises ConfigError for unknown names."""
    return Policies(
        order=create("order", config.order),
        admission=create("admission", config.admission),
        batching=create("batching", config.batching),
        preemption=create("preemption", config.preemption),
    )


def _token_budget(config: EngineConfig, built: BuiltExecutor) -> TokenBudget:
    """Tokens a step should compute, and why."""
    from headrace.execution.build import measure_budget
    from headrace.execution.token_budget import TokenBudget

    if config.token_budget is not None:
        return TokenBudget(config.token_budget, "set by the user", ())
    measured = measure_budget(built, config.tpot_target)
    least = config.max_sequences + PREFILL_ROOM
    if config.tpot_target is not None or measured.tokens >= least:
        return measured
    why = f"{measured.reason}; raised so that prefill goes on beside {config.max_sequences} decodes"
    return TokenBudget(least, why, measured.points)


def _cost(
    keeper: CostKeeper, measured: TokenBudget, built: BuiltExecutor
) -> tuple[DriftingCost | None, str]:
    """What steps cost, as far as is known, and how it is known."""
    kept = keeper.load()
    if kept is not None:
        return DriftingCost(kept.cost), kept.describe()
    first = first_cost(measured.points, built.executor.roofline)
    if first is None:
        return None, "not known; policies that plan by them do without"
    how = (
        "the token budget's measurement and the machine's limits"
        if measured.points
        else "the machine's limits"
    )
    return DriftingCost(
        first
    ), f"estimated from {how}; headrace simulate --device this measures them"


def _length_store(chosen: Policies, model: str, report: Report) -> LengthStore | None:
    """Where the admission policy's output lengths are kept, if it learns any; loads them."""
    lengths = getattr(chosen.admission, "lengths", None)
    if not isinstance(lengths, OutputLengths):
        return None
    store = LengthStore.of(lengths, model)
    report(f"output lengths: {store.load()}")
    return store


def build(config: EngineConfig, emit: Sink, report: Report) -> BuiltEngine:
    """Loads the model, sizes the memory, measures the token budget, composes the engine.

    ``report`` gets a line for each choice made. Raises ModelError or ConfigError.
    """
    from headrace.execution.memory_plan import STEP_ROWS
    from headrace.execution.tuning import PEAKS

    phases = Phases()
    limit_spinning()
    # Before the slow part, so that a wrong option is known at once.
    chosen = policies(config)
    Limits(config.token_budget or 1, STEP_ROWS, config.max_sequences)

    from headrace.models.loader import open_model
    from headrace.models.source import resolve

    files = open_model(resolve(config.model))
    phases.end("model file")
    from headrace.execution.build import build_executor, measure_roofline

    phases.end("imports")
    built = build_executor(
        files,
        weights=config.weights,
        device=config.device,
        block_size=config.block_size,
        cache_bytes=config.cache_bytes,
        cache_format=config.cache_format,
        max_context=config.max_context,
        max_sequences=config.max_sequences,
        threads=config.threads,
        report=report,
    )
    phases.end("weights")
    kept = built.machine_tuning
    load, save = partial(kept.get, PEAKS), partial(kept.put, PEAKS)
    report(measure_roofline(built, files, config.threads, load, save))
    phases.end("limits")
    budget = _token_budget(config, built)
    phases.end("token budget")
    report(f"token budget: {budget.tokens} a step ({budget.reason})")
    keeper = CostKeeper.of(built.tuning, built.settings, config.max_sequences)
    cost, how = _cost(keeper, budget, built)
    report(f"step times: {how}")
    limits = Limits(budget.tokens, STEP_ROWS, config.max_sequences)
    memory = SequenceMemory(built.num_blocks, built.block_size, config.prefix_cache)
    scheduler = Scheduler(memory, chosen, limits, emit, tenants=config.tenants, cost=cost)
    tokenizer = files.tokenizer

    def new_output(seq: Sequence) -> Output:
        return Output(seq, Detokenizer(tokenizer.token_bytes, tokenizer.is_special))

    engine = Engine(scheduler, built.executor, WallClock(), new_output)
    if cost is not None:
        engine.times.add(cost.observe)
    model = ModelInfo(
        name=files.name,
        tokenizer=tokenizer,
        chat_template=files.chat_template,
        max_context=built.max_context,
        eos_ids=files.eos_ids,
        vocab_size=files.config.vocab_size,
        weights=built.weights,
        created=int(time.time()),
    )
    report(f"loaded in {phases.describe()}")
    store = _length_store(chosen, files.name, report)
    return BuiltEngine(engine, model, built.num_blocks, built.block_size, cost, keeper, store)
