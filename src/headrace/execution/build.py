"""From opened model files to an executor that runs steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from headrace.execution.kv_cache import KVCache
from headrace.execution.local import LocalExecutor
from headrace.execution.machine import Machine, detect_machine
from headrace.execution.memory_plan import MemoryPlan, plan_memory
from headrace.execution.token_budget import TokenBudget, measure_token_budget
from headrace.kernels.dispatch import choose
from headrace.models.transformer import Transformer
from headrace.nouns.errors import ConfigError
from headrace.sampling.sampler import Sampler

if TYPE_CHECKING:
    from headrace.models.loader import ModelFiles

BLOCK_SIZES = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class BuiltExecutor:
    """An executor, the memory it has, and what was chosen for it and why (``report``)."""

    executor: LocalExecutor
    num_blocks: int
    block_size: int
    max_context: int
    plan: MemoryPlan
    weights: str
    report: tuple[str, ...]


def set_threads(threads: int | None, machine: Machine) -> str:
    """Fix the number of threads of all products, for the whole process; says how many and why.

    Raises ConfigError when more are asked for than this process may use.
    """
    most = len(machine.cpus)
    if threads is not None and not 1 <= threads <= most:
        raise ConfigError(
            f"threads is {threads}; this process may run on {most} CPUs, choose from 1 to {most}"
        )
    count, why = (
        (machine.threads, machine.threads_reason) if threads is None else (threads, "asked for")
    )
    torch.set_num_threads(count)
    return f"threads: {count} ({why})"


def build_executor(
    files: ModelFiles,
    *,
    weights: str,
    block_size: int,
    cache_bytes: int | None,
    max_context: int | None,
    max_sequences: int,
    threads: int | None,
    report: Callable[[str], None],
) -> BuiltExecutor:
    """Choose operators, size the memory, load the weights.

    ``report`` gets a line for each choice. Raises ConfigError for options that cannot work here
    and ModelError for files that cannot be read.
    """
    if block_size not in BLOCK_SIZES:
        raise ConfigError(f"block_size is {block_size}; choose one of {BLOCK_SIZES}")
    machine = detect_machine()
    lines = [set_threads(threads, machine)]
    dispatch = choose(weights, files.config.head_dim)
    operators = dispatch.operators
    lines.extend(dispatch.report)
    plan = plan_memory(
        files.config,
        itemsize=operators.weight_dtype.itemsize,
        block_size=block_size,
        cache_itemsize=operators.cache_dtype.itemsize,
        cache_bytes=cache_bytes,
        max_context=max_context,
        max_sequences=max_sequences,
        available=machine.memory_available,
        available_reason=machine.memory_reason,
    )
    lines.extend(plan.lines())
    for line in lines:
        report(line)
    begun = time.perf_counter()
    transformer = Transformer(files.config, files.weights, operators, plan.max_context)
    loaded = (
        f"weights loaded in {time.perf_counter() - begun:.2f} s,"
        f" {transformer.nbytes / 2**20:.0f} MiB in memory"
    )
    report(loaded)
    cache = KVCache(
        files.config.num_layers, transformer.shape, plan.num_blocks, block_size,
        operators.cache_dtype, operators.device,
    )  # fmt: skip
    executor = LocalExecutor(transformer, cache, Sampler(files.config.vocab_size))
    name = str(operators.weight_dtype).removeprefix("torch.")
    return BuiltExecutor(
        executor, plan.num_blocks, block_size, plan.max_context, plan, name, (*lines, loaded)
    )


def measure_budget(built: BuiltExecutor, tpot_target: float | None = None) -> TokenBudget:
    """Tokens a step, measured on the executor just built; see measure_token_budget."""
    return measure_token_budget(built.executor, tpot_target)
